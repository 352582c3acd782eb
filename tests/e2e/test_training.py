"""A TrainingJob's life on a real cluster, and what the operator makes of bad ones."""

import json

import pytest
from capstan_demo.environment import Environment
from capstan_demo.kube import Kube, KubectlError, Manifest, condition, until

pytestmark = pytest.mark.cluster


def training_job(environment: Environment, command: list[str], **spec: object) -> Manifest:
    """A job of a small image that trains nothing: what is tested is its life."""
    return {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "job"},
        "spec": {
            "framework": "custom",
            "image": environment.images["operator"],
            "command": command,
            "replicas": 1,
            **spec,
        },
    }


def pod_phases(kube: Kube, namespace: str) -> set[str]:
    return {pod["status"]["phase"] for pod in kube.list("pods", namespace, "capstan.dev/name=job")}


def phase(job: Manifest) -> str:
    return job.get("status", {}).get("phase", "")


def finished(job: Manifest) -> bool:
    return phase(job) in ("Succeeded", "Failed")


def not_ready_because(reason: str):
    def met(resource: Manifest) -> bool:
        ready = condition(resource, "Ready")
        return ready.get("status") == "False" and ready.get("reason") == reason

    return met


PRINT_AND_STOP = ["python3", "-c", "print('done')"]
FOREVER = ["python3", "-c", "import signal; print('up', flush=True); signal.pause()"]


def test_every_replica_runs_and_the_job_succeeds(installed, kube: Kube, namespace: str) -> None:
    kube.apply(training_job(installed, PRINT_AND_STOP, replicas=2), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded", job["status"]
    assert job["status"]["replicas"]["worker"]["succeeded"] == 2
    assert job["status"]["observedGeneration"] == 1
    assert job["status"]["completionTime"] >= job["status"]["startTime"]


def test_the_first_failure_is_named_with_its_exit_code_and_last_lines(
    installed, kube: Kube, namespace: str
) -> None:
    program = (
        "import os, signal, sys\n"
        "if os.environ['CAPSTAN_REPLICA_INDEX'] == '1': sys.exit(print('no such column: label') or 3)\n"
        "signal.pause()"
    )
    kube.apply(training_job(installed, ["python3", "-u", "-c", program], replicas=2), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    failure = job["status"]["failure"]
    assert phase(job) == "Failed"
    assert failure["class"] == "user"
    assert failure["exitCode"] == 3
    assert failure["container"] == "trainer"
    assert "-1-" in failure["pod"]
    assert "no such column: label" in failure["log"]
    until(lambda: "Running" not in pod_phases(kube, namespace), seconds=90)


def test_running_out_of_memory_is_said_so(installed, kube: Kube, namespace: str) -> None:
    kube.apply(
        training_job(
            installed, ["python3", "-c", "x = bytearray(512 << 20)"],
            resources={"requests": {"memory": "32Mi", "cpu": "10m"}, "limits": {"memory": "64Mi"}},
        ),
        namespace=namespace,
    )  # fmt: skip
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert job["status"]["failure"]["class"] == "outOfMemory", job["status"]
    assert "memory" in job["status"]["failure"]["message"]


def test_what_ran_out_of_memory_is_run_again_with_the_remedy(installed, kube: Kube, namespace: str) -> None:
    """About 10 s."""
    program = "import os; x = bytearray(int(os.environ['BATCH']) << 20)"
    policy = {"outOfMemory": {"maxRestarts": 1, "env": [{"name": "BATCH", "value": "1"}]}}
    kube.apply(
        training_job(
            installed, ["python3", "-c", program], failurePolicy=policy,
            env=[{"name": "BATCH", "value": "512"}],
            resources={"requests": {"memory": "32Mi", "cpu": "10m"}, "limits": {"memory": "64Mi"}},
        ),
        namespace=namespace,
    )  # fmt: skip
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded", job["status"]
    assert (job["status"]["attempt"], job["status"]["restarts"]) == (2, {"outOfMemory": 1})
    failure = job["status"]["failure"]
    assert (failure["class"], failure["attempt"], failure["exitCode"]) == ("outOfMemory", 1, 137)


def test_a_job_is_suspended_changed_resumed_and_cleaned_up(installed, kube: Kube, namespace: str) -> None:
    """About 15 s."""
    kube.apply(training_job(installed, FOREVER, replicas=2), namespace=namespace)
    kube.wait("trainingjob", "job", namespace, lambda job: phase(job) == "Running")
    kube.patch("trainingjob", "job", {"spec": {"suspend": True}}, namespace)
    until(lambda: not kube.list("pods", namespace, "capstan.dev/name=job"), seconds=90)
    job = kube.get("trainingjob", "job", namespace)
    assert job is not None
    assert (phase(job), job["status"]["attempt"]) == ("Suspended", 1)
    changed = {"replicas": 1, "command": PRINT_AND_STOP, "ttlAfterFinished": "0s"}
    kube.patch("trainingjob", "job", {"spec": changed | {"suspend": False}}, namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert (phase(job), job["status"]["attempt"]) == ("Succeeded", 2)
    assert job["status"]["replicas"]["worker"]["succeeded"] == 1
    assert not {"failure", "restarts"} & job["status"].keys()
    for kind in ("jobs", "pods", "services", "networkpolicies"):
        until(lambda kind=kind: not kube.list(kind, namespace, "capstan.dev/name=job"), seconds=90)
    assert phase(kube.get("trainingjob", "job", namespace) or {}) == "Succeeded"


def test_a_job_that_cannot_start_in_time_fails_and_says_why(installed, kube: Kube, namespace: str) -> None:
    """About 10 s."""
    kube.apply(
        training_job(
            installed, PRINT_AND_STOP, startupDeadline="5s", accelerator={"type": "testium-9000", "count": 1}
        ),
        namespace=namespace,
    )
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert condition(job, "Failed")["reason"] == "StartupDeadlineExceeded"
    assert "testium-9000" in condition(job, "Failed")["message"]


def test_a_pod_of_a_dead_node_is_deleted_by_force(installed, kube: Kube, namespace: str) -> None:
    """About 40 s: a node that has no kubelet, tainted as one whose kubelet is not heard of any more."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "capstan-test-dead"}}
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    pod = {
        "nodeName": "capstan-test-dead",
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{**taint, "operator": "Exists", "tolerationSeconds": 0}],
    }
    kube.apply(node)
    try:
        kube.apply(
            training_job(
                installed, FOREVER, template={"spec": pod},
                failurePolicy={"infrastructure": {"maxRestarts": 0}},
            ),
            namespace=namespace,
        )  # fmt: skip
        until(lambda: bool(kube.list("pods", namespace, "capstan.dev/name=job")), seconds=60)
        kube.patch("node", "capstan-test-dead", {"spec": {"taints": [taint]}})
        job = kube.wait("trainingjob", "job", namespace, finished)
        assert job["status"]["failure"]["class"] == "infrastructure", job["status"]
        until(lambda: not kube.list("pods", namespace, "capstan.dev/name=job"), seconds=90)
    finally:
        kube.delete("node", "capstan-test-dead")


def test_one_replicas_success_is_the_jobs(installed, kube: Kube, namespace: str) -> None:
    """About 8 s."""
    program = "import os, signal; os.environ['CAPSTAN_REPLICA_INDEX'] == '0' or signal.pause()"
    spec = {"replicas": 2, "successPolicy": {"replica": 0}}
    kube.apply(training_job(installed, ["python3", "-c", program], **spec), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded", job["status"]
    assert job["status"]["replicas"]["worker"]["succeeded"] == 1
    assert not {"failure", "restarts"} & job["status"].keys()


def test_another_controllers_job_is_left_alone_and_stays_so(installed, kube: Kube, namespace: str) -> None:
    """About 2 s: a job of ours that was made later is acted on first."""
    theirs = training_job(installed, PRINT_AND_STOP, managedBy="example.com/other")
    kube.apply(theirs, namespace=namespace)
    ours = training_job(installed, PRINT_AND_STOP) | {"metadata": {"name": "ours"}}
    kube.apply(ours, namespace=namespace)
    kube.wait("trainingjob", "ours", namespace, lambda job: bool(phase(job)))
    job = kube.get("trainingjob", "job", namespace)
    assert job is not None
    assert "status" not in job
    with pytest.raises(KubectlError, match="managedBy cannot be changed"):
        kube.patch("trainingjob", "job", {"spec": {"managedBy": None}}, namespace)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"replicas": "two"}, "spec.replicas"),
        ({"replicas": 0}, "spec.replicas"),
        ({"framework": "pytroch"}, "spec.framework"),
        ({"output": {"uri": "ftp://elsewhere/model"}}, "pvc://"),
        ({"relpicas": 2}, "relpicas"),
    ],
)
def test_a_bad_spec_is_refused_with_a_sentence(
    installed, kube: Kube, namespace: str, spec: dict[str, object], sentence: str
) -> None:
    with pytest.raises(KubectlError, match=sentence):
        kube.apply(training_job(installed, PRINT_AND_STOP, **spec), namespace=namespace)


def test_an_image_that_does_not_exist_is_named_and_heals(installed, kube: Kube, namespace: str) -> None:
    bad = training_job(installed, PRINT_AND_STOP, image="localhost/capstan/nothing-of-this-name:1")
    kube.apply(bad, namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, not_ready_because("ImagePullFailed"))
    assert "nothing-of-this-name" in condition(job, "Ready")["message"]
    kube.apply(training_job(installed, PRINT_AND_STOP), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded"
    assert job["status"]["attempt"] == 2


def test_an_accelerator_that_no_node_has_is_said_and_heals(installed, kube: Kube, namespace: str) -> None:
    kube.apply(
        training_job(installed, PRINT_AND_STOP, accelerator={"type": "testium-9000", "count": 1}),
        namespace=namespace,
    )
    job = kube.wait("trainingjob", "job", namespace, not_ready_because("Unschedulable"))
    assert "testium-9000" in condition(job, "Ready")["message"]
    node = json.loads(kube.run("get", "nodes", "-o", "json"))["items"][0]
    was = node["metadata"]["labels"].get("accelerator")
    kube.patch("node", node["metadata"]["name"], {"metadata": {"labels": {"accelerator": "testium-9000"}}})
    try:
        assert phase(kube.wait("trainingjob", "job", namespace, finished)) == "Succeeded"
    finally:
        kube.patch("node", node["metadata"]["name"], {"metadata": {"labels": {"accelerator": was}}})


def test_a_child_edited_or_deleted_by_hand_is_made_right(installed, kube: Kube, namespace: str) -> None:
    kube.apply(training_job(installed, FOREVER), namespace=namespace)
    kube.wait("trainingjob", "job", namespace, lambda job: phase(job) == "Running")
    service = kube.list("services", namespace, "capstan.dev/name=job")[0]
    kube.patch(
        "service", service["metadata"]["name"], {"spec": {"publishNotReadyAddresses": False}}, namespace
    )
    kube.wait(
        "service",
        service["metadata"]["name"],
        namespace,
        lambda s: s["spec"].get("publishNotReadyAddresses") is True,
    )
    kube.delete("service", service["metadata"]["name"], namespace)
    again = kube.wait("service", service["metadata"]["name"], namespace, lambda _: True)
    assert again["metadata"]["uid"] != service["metadata"]["uid"]


def test_deleting_the_resource_mid_start_deletes_all_of_it(installed, kube: Kube, namespace: str) -> None:
    kube.apply(training_job(installed, FOREVER, replicas=2), namespace=namespace)
    until(lambda: bool(kube.list("jobs", namespace, "capstan.dev/name=job")), seconds=60)
    kube.delete("trainingjob", "job", namespace)
    for kind in ("jobs", "pods", "services"):
        until(lambda kind=kind: not kube.list(kind, namespace, "capstan.dev/name=job"), seconds=90)


def test_a_foreign_object_of_a_child_s_name_is_left_alone_and_named(
    installed, kube: Kube, namespace: str
) -> None:
    foreign = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "job-peers"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "somebody-elses"}},
    }  # fmt: skip
    kube.apply(foreign, namespace=namespace)
    kube.apply(training_job(installed, PRINT_AND_STOP), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, not_ready_because("OwnershipConflict"))
    assert "job-peers" in condition(job, "Ready")["message"]
    assert kube.get("service", "job-peers", namespace)["spec"]["selector"] == {"app": "somebody-elses"}
    kube.delete("service", "job-peers", namespace)
    assert phase(kube.wait("trainingjob", "job", namespace, finished)) == "Succeeded"


def test_an_image_that_wants_to_be_root_is_refused_with_a_reason(
    installed, kube: Kube, namespace: str
) -> None:
    root = {
        "spec": {
            "containers": [{"name": "trainer", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}}]
        }
    }
    kube.apply(training_job(installed, PRINT_AND_STOP, template=root), namespace=namespace)
    job = kube.wait(
        "trainingjob",
        "job",
        namespace,
        lambda job: condition(job, "Ready").get("reason") == "PodsRefused",
        seconds=60,
    )
    assert "restricted" in condition(job, "Ready")["message"]
