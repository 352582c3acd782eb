"""Which cluster is used, with every program stood in for."""

import json

import pytest
from capstan_cluster import target as targets
from capstan_cluster.config import NODE_LABELS, Config
from capstan_cluster.errors import ClusterError
from capstan_cluster.images import Containerd
from capstan_cluster.target import Target, resolve

NODE = {"metadata": {"name": "node-1", "labels": {}}, "status": {}}


class Programs:
    """Answers for programs; what is not in `answers` gives nothing."""

    def __init__(self, **answers: str | ClusterError) -> None:
        self.answers = {key.replace("_", " "): value for key, value in answers.items()}
        self.calls: list[list[str]] = []

    def __call__(self, argv, **_):
        words = [str(word) for word in argv]
        self.calls.append(words)
        for start, answer in self.answers.items():
            if " ".join(words).startswith(start):
                if isinstance(answer, ClusterError):
                    raise answer
                return answer
        return json.dumps({"items": [NODE]}) if "nodes" in words else ""

    def started(self, *words: str) -> bool:
        return any(call[: len(words)] == list(words) for call in self.calls)


def on_path(*programs):
    return lambda name: f"/usr/bin/{name}" if name in programs else None


@pytest.fixture
def boots(monkeypatch):
    """Counts the local clusters booted."""
    booted = []
    monkeypatch.setattr(targets.Cluster, "up", lambda self: booted.append(self.config))
    monkeypatch.setattr(targets.Builder, "path", lambda self, program: f"/cache/{program}")
    return booted


def test_a_named_context_is_used_as_it_is_and_nothing_is_booted(boots, tmp_path):
    programs = Programs(kubectl_config="mine\nother\n")
    environ = {"KUBECONFIG": "/a:/b"}
    target = resolve("mine", runner=programs, which=on_path("kubectl", "docker", "kind"), environ=environ)
    assert (target.context, target.kubeconfig, target.loads) == ("mine", "/a:/b", "none")
    assert not boots
    assert not programs.started("docker")
    with pytest.raises(ClusterError, match="REGISTRY"):
        target.load("image")


def test_a_context_that_is_not_there_is_told_with_those_that_are(boots):
    with pytest.raises(ClusterError, match=r"no context 'mnie'[\s\S]*it has mine"):
        resolve("mnie", runner=Programs(kubectl_config="mine\n"), which=on_path("kubectl"), environ={})


@pytest.mark.parametrize(("context", "loads"), [("kind-dev", "kind"), ("k3d-dev", "k3d")])
def test_images_go_into_a_named_cluster_of_kind_or_k3d(boots, context, loads):
    programs = Programs(kubectl_config=f"{context}\n")
    target = resolve(
        context, runner=programs, which=on_path("kubectl", loads), environ={}, say=lambda _: None
    )
    assert target.loads == loads
    target.load("localhost/capstan/agent:dev")
    verb = ["load", "docker-image"] if loads == "kind" else ["image", "import"]
    assert programs.calls[-1][:4] == [loads, *verb, "localhost/capstan/agent:dev"]
    assert programs.calls[-1][-1] == "dev"


@pytest.mark.parametrize("tool", ["kind", "k3d"])
@pytest.mark.parametrize("there", [True, False])
def test_with_docker_a_cluster_of_kind_or_k3d_is_made_once_and_its_nodes_offer_accelerators(
    boots, tmp_path, tool, there
):
    clusters = {"kind_get": "capstan\n" if there else "\n"}
    clusters["k3d_cluster_list"] = json.dumps([{"name": "capstan"}] if there else [])
    programs = Programs(**clusters)
    target = resolve(
        config=Config(),
        runner=programs,
        which=on_path("kubectl", "docker", tool),
        environ={"CAPSTAN_CACHE": str(tmp_path)},
        say=lambda _: None,
    )
    assert (target.context, target.loads) == (f"{tool}-capstan", tool)
    make = ("kind", "create") if tool == "kind" else ("k3d", "cluster", "create")
    assert programs.started(*make) is not there
    labels = [f"{key}={value}" for key, value in NODE_LABELS.items()]
    assert any(call[-len(labels) :] == labels for call in programs.calls)
    assert not boots


@pytest.mark.parametrize("tool", ["kind", "k3d"])
@pytest.mark.parametrize("there", [True, False])
def test_a_cluster_of_kind_or_k3d_is_deleted_if_it_is_ours(tool, there):
    programs = Programs(
        kind_get="other\ncapstan\n" if there else "other\n",
        k3d_cluster_list=json.dumps([{"name": "capstan" if there else "other"}]),
    )
    path = on_path("docker", tool)
    assert targets.delete_with_docker(Config(), lambda _: None, programs, path) is there
    assert any("delete" in call for call in programs.calls) is there


@pytest.mark.parametrize(
    ("programs", "path"),
    [
        (Programs(), on_path("kubectl")),
        (Programs(), on_path("kubectl", "kind")),
        (Programs(), on_path("kubectl", "docker")),
        (Programs(docker_info=ClusterError("no engine")), on_path("kubectl", "docker", "kind")),
    ],
)
def test_without_a_docker_engine_or_without_kind_the_local_cluster_is_booted(boots, programs, path):
    target = resolve(runner=programs, which=path, environ={})
    assert boots == [Config()]
    assert (target.context, target.loads, target.kubectl_program) == (
        "capstan",
        "containerd",
        "/cache/kubectl",
    )


def test_kubectl_is_told_the_context_and_where_it_is():
    seen = {}

    def runner(argv, *, stdin=None, env=None, **_):
        seen.update(argv=argv, stdin=stdin, env=env)
        return "done"

    target = Target("/kc", "mine", "none", runner=runner)
    assert target.kubectl("apply", "-f", "-", stdin="{}") == "done"
    assert seen == {
        "argv": ["kubectl", "--context", "mine", "apply", "-f", "-"],
        "stdin": "{}",
        "env": {"KUBECONFIG": "/kc"},
    }


def test_an_image_that_the_node_has_is_not_brought_again(tmp_path):
    programs, said = Programs(buildah_inspect="1234\n"), []
    programs.answers["ctr"] = "localhost/x:1\n"
    Containerd(Config(), "ctr", programs).load(["localhost/x:1"], said.append)
    assert said == ["localhost/x:1 is there already"]
    wanted = 'name=="localhost/x:1",labels."capstan.dev/image-id"=="1234"'
    assert programs.calls[-1][-1] == wanted


def test_an_image_that_was_not_built_is_told():
    programs = Programs(buildah_inspect=ClusterError("no such image"))
    with pytest.raises(ClusterError, match="make images"):
        Containerd(Config(), "ctr", programs).load(["localhost/x:1"], print)
