"""What the operator renders for the agent parses with the agent's own command line and means the same."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from capstan_agent import __main__ as agent
from capstan_agent.allow import Allow
from capstan_agent.errors import SourceNotAllowed
from capstan_agent.install import ENTRY
from capstan_agent.launched import command_line
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import FETCH_ALLOW, Observed, Settings
from capstan_operator.shell import options as operator

SETTINGS = Settings(agent_image="agent:1", serving_image="serving:1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64


def pod_spec(kind, spec, settings=SETTINGS):
    """The pod template of the child that a fresh resource gets, once the operator has made up its mind."""
    (planner,) = [found for found in KINDS if found.kind == kind]
    metadata = {"name": "one", "namespace": "ns", "uid": "u", "generation": 1}
    resource = {"apiVersion": planner.api_version, "kind": kind, "metadata": metadata, "spec": spec}
    for _ in range(3):
        plan = planner.plan(resource, Observed(), NOW, settings)
        resource["status"] = plan.status
        for child in plan.apply:
            if child["kind"] in {"Job", "Deployment"}:
                return child["spec"]["template"]["spec"]
    raise AssertionError(f"no pods: {plan.status}")


def parsed(command):
    """The command as the image of the agent, or the folder in the user's container, understands it."""
    return agent.parser().parse_args(command_line(command))


def training(**extra):
    spec = {"framework": "pytorch", "image": "train:1", "command": ["torchrun", "--x"], "args": ["train.py"]}
    return pod_spec("TrainingJob", spec | extra)


def test_the_runner_is_installed_where_it_is_started():
    pod = training()
    (installer,) = pod["initContainers"]
    installed = parsed(installer["command"])
    assert installed.verb == "install"
    (mount,) = installer["volumeMounts"]
    assert mount["mountPath"] == str(installed.directory)
    (trainer,) = pod["containers"]
    assert trainer["command"][0] == str(installed.directory / ENTRY)
    assert mount["name"] in {user["name"] for user in trainer["volumeMounts"]}
    assert installer["image"] == "agent:1"


@pytest.mark.parametrize(("period", "seconds"), [("60s", 60), ("1m30s", 90), ("2h", 7200), ("500ms", 0.5)])
def test_the_runner_gets_the_users_command_and_grace(period, seconds):
    pod = training(
        checkpoint={"uri": "pvc://data/checkpoints", "gracePeriod": period},
        output={"uri": "pvc://data/model", "format": "onnx"},
    )
    run = parsed(pod["containers"][0]["command"])
    assert (run.verb, run.grace) == ("run", seconds)
    assert agent.command(run.command) == ["torchrun", "--x", "train.py"]
    variables = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    assert str(run.output_file) == f"{variables['CAPSTAN_OUTPUT_DIR']}/model.onnx"
    assert pod["terminationGracePeriodSeconds"] > seconds, "the runner is killed before it can kill and tell"


def test_the_runner_serves_metrics_at_the_port_that_is_named_so(monkeypatch):
    (trainer,) = training()["containers"]
    ports = {port["name"]: port["containerPort"] for port in trainer["ports"]}
    variables = {entry["name"]: entry.get("value") for entry in trainer["env"]}
    assert parsed(trainer["command"]).metrics_port == 0
    monkeypatch.setenv("CAPSTAN_METRICS_PORT", variables["CAPSTAN_METRICS_PORT"])
    assert parsed(trainer["command"]).metrics_port == ports["metrics"] == 8003
    own = training(env=[{"name": "CAPSTAN_METRICS_PORT", "value": "0"}])["containers"][0]["env"]
    assert [entry["value"] for entry in own if entry["name"] == "CAPSTAN_METRICS_PORT"] == ["0"]
    (alone,) = training(supervise=False)["containers"]
    assert "metrics" not in {port["name"] for port in alone.get("ports", ())}


def test_the_fetcher_puts_the_model_where_the_server_looks():
    model = {"uri": "pvc://data/model/model.onnx", "name": "digits", "version": "7", "digest": DIGEST}
    pod = pod_spec("InferenceService", {"model": model})
    (fetcher,) = [container for container in pod["initContainers"] if "fetch" in container["command"]]
    fetch = parsed(fetcher["command"])
    request = agent.request(fetch)
    assert (request.uri, request.model, request.version) == (model["uri"], "digits", "7")
    assert request.digest == DIGEST
    (server,) = pod["containers"]
    assert str(request.target) in server["command"]
    mounted = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}
    fetched = {mount["mountPath"]: mount["name"] for mount in fetcher["volumeMounts"]}
    assert mounted[str(request.target)] == fetched[str(request.target)]
    assert str(request.claims / "data") in fetched


def test_what_data_is_fetched_with():
    """The operator's words for spec.data."""
    words = ["fetch", "--uri", "s3://b/k", "--target", "/data", "--layout", "data", "--digest", DIGEST]
    request = agent.request(
        agent.parser().parse_args([*words, "--allow", "s3,gs", "--allow", "https://*.a.b:8443"])
    )
    assert (request.layout, request.folder, request.digest) == ("data", Path("/data"), DIGEST)
    assert [(rule.scheme, rule.host, rule.port) for rule in request.allow.rules] == [
        ("s3", "*", None),
        ("gs", "*", None),
        ("https", "*.a.b", 8443),
    ]


def test_both_allow_the_same_where_nobody_says():
    assert Allow.parsed([",".join(FETCH_ALLOW)]) == Allow()


def test_the_allow_list_may_be_in_the_environment(monkeypatch):
    monkeypatch.setenv("CAPSTAN_AGENT_ALLOW", "pvc,s3://models")
    words = ["fetch", "--uri", "s3://b/k", "--target", "/t", "--model", "m", "--version", "1"]
    assert len(agent.request(agent.parser().parse_args(words)).allow.rules) == 2
    assert agent.request(agent.parser().parse_args([*words, "--allow", "hf"])).allow.rules[0].scheme == "hf"


def test_what_the_operator_allows_wins_over_what_a_users_secret_does(monkeypatch):
    monkeypatch.setenv("CAPSTAN_AGENT_ALLOW", "http,file")
    for flags in ([], ["--fetch-allow="]):
        told = operator.options(operator.parser({}).parse_args(["run", *flags]))
        settings = replace(SETTINGS, fetch_allow=told.fetch_allow)
        pod = pod_spec("InferenceService", {"model": {"uri": "s3://b/m.onnx"}}, settings)
        (fetcher,) = pod["initContainers"]
        assert agent.request(parsed(fetcher["command"])).allow == Allow()


ALLOW = ("pvc", "s3://acme-*", "gs", "az", "hf://acme", "https://*.example.com:8443")


def test_the_fetcher_is_told_what_it_may_fetch():
    limited = replace(SETTINGS, fetch_allow=ALLOW)
    model = {"uri": "s3://acme-models/model.onnx"}
    for settings, admitted in ((SETTINGS, True), (limited, False)):
        (fetcher,) = pod_spec("InferenceService", {"model": model}, settings)["initContainers"]
        allow = agent.request(parsed(fetcher["command"])).allow
        allow.check("s3", "acme-models")
        with nullcontext() if admitted else pytest.raises(SourceNotAllowed):
            allow.check("s3", "others")


@pytest.mark.parametrize("source", ALLOW)
def test_what_the_operator_takes_for_a_source_the_agent_takes_too(source):
    flags = ["run", "--fetch-allow", source]
    assert operator.options(operator.parser({}).parse_args(flags)).fetch_allow == (source,)
    assert Allow.parsed([source]) != Allow()


def test_data_is_fetched_into_the_volume_that_the_program_reads():
    item = {"name": "set", "uri": "https://example.com/train.csv", "mountPath": "/data", "digest": DIGEST}
    pod = training(data=[item])
    (fetcher,) = [container for container in pod["initContainers"] if "fetch" in container["command"]]
    request = agent.request(parsed(fetcher["command"]))
    assert (request.uri, request.digest, request.layout) == (item["uri"], DIGEST, "data")
    (written,) = fetcher["volumeMounts"]
    assert written["mountPath"] == str(request.target)
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted["/data"] == written["name"]
