"""The demo's acts on the cluster: train the digits model, serve it, query it.

The samples are used as they stand. Only what differs between clusters is changed in them: the image, and the
accelerator where no node offers it.
"""

import copy
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from capstan_demo.deploy import ROOT
from capstan_demo.kube import Kube, KubectlError, Manifest, condition

NAMESPACE = "capstan-demo"
NAME = "digits"
CHILDREN = f"capstan.dev/kind=TrainingJob,capstan.dev/name={NAME}"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
SAMPLES = ROOT / "manifests" / "samples"
QUERY_JOB = Path(__file__).with_name("query-job.yaml")

Say = Callable[[str], None]


class DemoError(Exception):
    """The story went wrong; the message says where and what the cluster says about it."""


def sample(name: str) -> list[Manifest]:
    """Return the documents of one of manifests/samples."""
    return [doc for doc in yaml.safe_load_all((SAMPLES / name).read_text()) if doc]


def offers(kube: Kube, resource: str) -> bool:
    """Return whether any node of the cluster has this extended resource to give."""
    nodes = json.loads(kube.run("get", "nodes", "-o", "json"))["items"]
    return any(int(node["status"].get("allocatable", {}).get(resource, "0")) > 0 for node in nodes)


def prepare(kube: Kube) -> None:
    """Make the demo's namespace, with nothing of an earlier demo left in it."""
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
    )
    kube.delete("inferenceservice", NAME, NAMESPACE)
    kube.delete("trainingjob", NAME, NAMESPACE)
    kube.delete("job", "query", NAMESPACE)
    kube.delete("persistentvolumeclaim", NAME, NAMESPACE)


def train(kube: Kube, image: str, say: Say) -> Manifest:
    """Apply the training sample and follow it to its end; return the TrainingJob."""
    documents = copy.deepcopy(sample("trainingjob-digits.yaml"))
    for document in documents:
        if document["kind"] == "TrainingJob":
            document["spec"]["image"] = image
            if not offers(kube, "nvidia.com/gpu"):
                say("no node offers nvidia.com/gpu: training on CPUs")
                del document["spec"]["accelerator"]
    say(kube.apply(*documents, namespace=NAMESPACE).strip())
    following = threading.Event()
    follower: list[threading.Thread] = []

    def seen(job: Manifest) -> None:
        changes(job)
        if job.get("status", {}).get("phase") == "Running" and not following.is_set():
            following.set()
            follower.append(threading.Thread(target=follow_log, args=(kube, say), daemon=True))
            follower[0].start()

    changes = Changes(say)
    job = kube.wait(
        "trainingjob", NAME, NAMESPACE,
        lambda job: job.get("status", {}).get("phase") in ("Succeeded", "Failed"), seconds=600, seen=seen,
    )  # fmt: skip
    for thread in follower:
        thread.join(timeout=10)
    if job["status"]["phase"] == "Failed":
        raise DemoError(f"training failed: {json.dumps(job['status'].get('failure'), indent=2)}")
    return job


def follow_log(kube: Kube, say: Say) -> None:
    """Print what the first replica prints, as it prints it."""
    selector = f"{CHILDREN},batch.kubernetes.io/job-completion-index=0"
    with subprocess.Popen(
        kube.command("logs", "-n", NAMESPACE, "-l", selector, "-c", "trainer", "--follow", "--tail=-1"),
        env=kube.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            say(f"| {line.rstrip()}")


def serve(kube: Kube, say: Say) -> Manifest:
    """Apply the serving sample and wait until it answers; return the InferenceService."""
    say(kube.apply(*sample("inferenceservice-digits.yaml"), namespace=NAMESPACE).strip())
    return kube.wait(
        "inferenceservice", NAME, NAMESPACE,
        lambda service: condition(service, "Ready").get("status") == "True"
        and service["status"].get("observedGeneration") == service["metadata"]["generation"],
        seconds=300, seen=Changes(say),
    )  # fmt: skip


def query(kube: Kube, image: str, service: Manifest) -> dict[str, Any]:
    """Query the service from a pod with the real tritonclient; return what it measured."""
    job = yaml.safe_load(QUERY_JOB.read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["image"] = image
    urls = {"HTTP_URL": service["status"]["url"], "GRPC_URL": service["status"]["grpcUrl"]}
    container["env"] += [{"name": name, "value": value} for name, value in urls.items()]
    kube.apply(job, namespace=NAMESPACE)
    done = kube.wait(
        "job", "query", NAMESPACE,
        lambda job: job.get("status", {}).get("succeeded", 0) + job.get("status", {}).get("failed", 0) > 0,
        seconds=180,
    )  # fmt: skip
    log = kube.run("logs", "-n", NAMESPACE, "job/query")
    if not done["status"].get("succeeded"):
        raise DemoError(f"the queries failed:\n{log}")
    measured: dict[str, Any] = json.loads(log.strip().splitlines()[-1])
    return measured


class Changes:
    """Prints a resource's phase, and the sentence of its Ready condition, whenever they change."""

    def __init__(self, say: Say) -> None:
        self._say, self._last = say, ""

    def __call__(self, resource: Manifest) -> None:
        """Look at the resource once."""
        ready = condition(resource, "Ready")
        line = f"{resource.get('status', {}).get('phase', 'Accepted')}: {ready.get('message', '')}".rstrip(
            ": "
        )
        if line != self._last:
            self._last = line
            self._say(line)


@contextmanager
def explaining(kube: Kube, say: Say) -> Iterator[None]:
    """On failure, print what the cluster knows: resources, pods, warnings."""
    try:
        yield
    except BaseException:
        for args in (
            ("get", "trainingjobs,inferenceservices,jobs,pods", "-o", "wide"),
            ("get", "events", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp"),
        ):
            with suppress(KubectlError):
                say(kube.run(*args, "-n", NAMESPACE))
        raise
