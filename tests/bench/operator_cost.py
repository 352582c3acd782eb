"""What the operator costs: at rest with many resources, and from a resource's creation until it runs.

`make bench-operator`, on the cluster the tests use. Nothing else may use that cluster meanwhile. The operator
is the installed one, measured by its own metrics every 15 seconds. The demo's Prometheus, which asks for them
every two, is stopped meanwhile.

At rest: of every ten resources five are TrainingJobs that have succeeded, four TrainingJobs that run, and one
an InferenceService whose pod names a scheduler that nobody runs. All children are there (Service,
NetworkPolicy, Job or Deployment, a pod each), so the operator holds and watches what it would hold of real
ones. No container runs: the Jobs name another controller (spec.managedBy), and their status and that of their
pods are written by this program, as the Job controller and the kubelet would have left them. It is all there
before the operator starts; it then makes every status right, comes to rest, and is measured for some minutes,
a resync among them.

Until it runs: real jobs and pods, one replica each. The InferenceServices' containers are replaced by one
that is ready at once: what is counted is requests to the API, not models.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from capstan_demo import environment
from capstan_demo.deploy import NAMESPACE as SYSTEM
from capstan_demo.kube import Kube, Manifest, until
from capstan_demo.prometheus import MONITORING
from capstan_operator.core.get import timestamp
from capstan_operator.core.kinds import KINDS
from capstan_operator.core.model import Observed, Settings
from capstan_operator.shell import login
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.metrics import Metrics

NAMESPACE = "bench-operator"
#: Nobody places these pods.
UNPLACED = {"spec": {"schedulerName": "capstan-bench"}}
OPERATOR = "deployment/capstan-operator"
RESOURCES = {k.kind: Resource(k.api_version, k.kind, k.plural) for k in KINDS} | {
    c.kind: Resource(c.api_version, c.kind, c.plural) for k in KINDS for c in k.children
}
#: "update" is the leader's Lease, every few seconds, whatever there is to do.
NO_WRITES = {"get", "list", "watch", "update"}


@dataclass(frozen=True)
class Sample:
    """The operator's metrics at a moment."""

    at: float
    requests: Counter[str]
    cpu: float
    memory: float
    passes: float


class Bench:
    """The namespace, the API as its administrator, and the operator's metrics."""

    def __init__(self, installed: environment.Environment) -> None:
        self.kube: Kube = installed.kube
        self.images = installed.images
        self.settings = Settings(agent_image=self.images["agent"], serving_image=self.images["serving"])

    def fresh(self) -> None:
        self.gone()
        self.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})

    def gone(self) -> None:
        self.kube.delete("namespace", NAMESPACE, wait=False)
        until(lambda: self.kube.get("namespace", NAMESPACE) is None, seconds=600)

    def scale(self, replicas: int) -> None:
        self.kube.run("scale", "-n", SYSTEM, OPERATOR, f"--replicas={replicas}")
        self.kube.run("rollout", "status", "-n", SYSTEM, OPERATOR, "--timeout=300s", timeout=310)
        until(lambda: len(self.pods()) == replicas, seconds=60)

    def watched(self, replicas: int) -> None:
        """Stop the demo's Prometheus, or start it again."""
        if self.kube.get("deployment", "prometheus", MONITORING):
            self.kube.run("scale", "-n", MONITORING, "deployment/prometheus", f"--replicas={replicas}")

    def pods(self) -> list[Manifest]:
        found = self.kube.list("pods", SYSTEM, "app.kubernetes.io/component=operator")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def measured(self, work: Callable[[Callable[[], Sample]], None]) -> None:
        pod = self.pods()[0]["metadata"]["name"]
        with self.kube.port_forward(f"pod/{pod}", SYSTEM, 8080) as ports:
            work(lambda: sample(ports[8080]))

    async def make(self, count: int) -> None:
        configuration = await login.configuration(self.kube.kubeconfig, self.kube.context)
        api = KubernetesApi(configuration, Metrics())
        try:
            await side_by_side(self.one(api, number) for number in range(count))
        finally:
            await api.close()

    async def one(self, api: KubernetesApi, number: int) -> None:
        serving = number % 10 == 9
        made = await create(api, inference_service(number) if serving else training_job(number, self.images))
        kind = next(k for k in KINDS if k.kind == made["kind"])
        plan = kind.plan(made, Observed(), datetime.now(UTC), self.settings)
        for child in plan.apply:
            if child["kind"] != "Job":
                await create(api, child)
                continue
            job = await create(api, {**child, "spec": {**child["spec"], "managedBy": "capstan.dev/bench"}})
            pod = await create(api, pod_of(job))
            done = number % 2 == 0
            await told(api, job, job_status(done))
            await told(api, pod, pod_status(done))


def training_job(number: int, images: dict[str, str], **spec: object) -> Manifest:
    program = ["python3", "-c", "import signal; signal.pause()"]
    base = {"framework": "custom", "image": images["operator"], "command": program}
    return {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": f"job-{number}", "namespace": NAMESPACE},
        "spec": {**base, "replicas": 1, "template": UNPLACED, **spec},
    }


def inference_service(number: int, template: Manifest | None = None) -> Manifest:
    return {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": f"service-{number}", "namespace": NAMESPACE},
        "spec": {"model": {"uri": "pvc://models/m.onnx"}, "template": template or UNPLACED},
    }


def standing_in(images: dict[str, str]) -> Manifest:
    """A pod that is ready at once, in the place of one that serves."""
    program = ["python3", "-c", "import signal; signal.pause()"]
    server = {
        "name": "server",
        "image": images["operator"],
        "command": program,
        "args": [],
        "volumeMounts": None,
    }
    silent = dict.fromkeys(("readinessProbe", "livenessProbe", "startupProbe"))
    volumes = [{"name": "claim-models", "persistentVolumeClaim": None, "emptyDir": {}}]
    return {"spec": {"initContainers": None, "containers": [{**server, **silent}], "volumes": volumes}}


def pod_of(job: Manifest) -> Manifest:
    template, name = job["spec"]["template"], job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
    index = {"batch.kubernetes.io/job-completion-index": "0"}
    metadata = {
        "name": f"{name}-0",
        "namespace": NAMESPACE,
        "labels": template["metadata"]["labels"] | index,
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def job_status(done: bool) -> Manifest:
    now = timestamp(datetime.now(UTC))
    if not done:
        return {"startTime": now, "active": 1, "ready": 1, "terminating": 0, "uncountedTerminatedPods": {}}
    conditions = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    ended = {"startTime": now, "completionTime": now, "succeeded": 1, "completedIndexes": "0"}
    return {**ended, "conditions": conditions, "terminating": 0, "uncountedTerminatedPods": {}}


def pod_status(done: bool) -> Manifest:
    now = timestamp(datetime.now(UTC))
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
    running = {"running": {"startedAt": now}}
    container = {"image": "i", "imageID": "sha256:0", "restartCount": 0, "ready": not done}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    return {
        "phase": "Succeeded" if done else "Running",
        "startTime": now,
        "conditions": conditions,
        "initContainerStatuses": [{**container, "name": "capstan-agent", "state": ended}],
        "containerStatuses": [{**container, "name": "trainer", "state": ended if done else running}],
    }


async def create(api: KubernetesApi, manifest: Manifest) -> Manifest:
    return await api.create(RESOURCES[manifest["kind"]], manifest)


async def told(api: KubernetesApi, obj: Manifest, status: Manifest) -> None:
    """Write a status with all of its object: what is left out of a PUT, labels and owners too, is lost."""
    resource, metadata = RESOURCES[obj["kind"]], obj["metadata"]
    path = resource.path(metadata["namespace"], metadata["name"], "status")
    await api._json("update_status", "PUT", path, {}, {**obj, "status": status})


async def side_by_side(work: Iterable[Awaitable[None]], at_once: int = 24) -> None:
    gate = asyncio.Semaphore(at_once)

    async def one(item: Awaitable[None]) -> None:
        async with gate:
            await item

    await asyncio.gather(*map(one, work))


def sample(port: int) -> Sample:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()

    def value(name: str) -> float:
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    requests: Counter[str] = Counter()
    pattern = r'^capstan_operator_api_requests_total{code="(\w+)",verb="(\w+)"} (\S+)$'
    for _, verb, count in re.findall(pattern, text, re.MULTILINE):
        requests[verb] += int(float(count))
    return Sample(
        time.monotonic(),
        requests,
        value("process_cpu_seconds_total"),
        value("process_resident_memory_bytes"),
        value("capstan_operator_reconciles_total"),
    )


def settled(look: Callable[[], Sample], passes: int, quiet: float = 20) -> Sample:
    """Wait until so many passes were made and for a while no request but reads; return the last sample."""
    last = look()

    def at_rest() -> bool:
        nonlocal last
        now = look()
        if writes(now) != writes(last) or now.passes < passes:
            last = now
        return now.at - last.at > quiet

    until(at_rest, seconds=900, last=lambda: str(last))
    return look()


def writes(found: Sample) -> int:
    return sum(count for verb, count in found.requests.items() if verb not in NO_WRITES)


def at_rest(bench: Bench, count: int, seconds: float) -> None:
    bench.fresh()
    bench.scale(0)
    begun = time.monotonic()
    try:
        asyncio.run(bench.make(count))
        print(f"{count} resources made in {time.monotonic() - begun:.0f} s", flush=True)
        bench.scale(1)

        def measure(look: Callable[[], Sample]) -> None:
            first = settled(look, count)
            print(f"at rest after {first.cpu:.0f} s of CPU", flush=True)
            now, memory = first, first.memory
            resynced = first.requests["list"]
            while now.at - first.at < seconds or (
                now.requests["list"] == resynced and now.at - first.at < 2 * seconds
            ):
                time.sleep(15)
                now = look()
                memory = max(memory, now.memory)
            spent, minutes = now.cpu - first.cpu, (now.at - first.at) / 60
            made = now.requests - first.requests
            print(
                f"{count} at rest, {minutes:.1f} min: {now.passes - first.passes:.0f} passes, requests"
                f" {dict(sorted(made.items()))}, {100 * spent / (now.at - first.at):.2f} % of a core,"
                f" {memory / 2**20:.0f} MiB",
                flush=True,
            )

        bench.measured(measure)
    finally:
        bench.gone()


def until_running(bench: Bench, count: int) -> None:
    """Requests of a kind's resources, from their creation until all run and nothing more is written."""
    images = bench.images
    jobs = [training_job(n, images, template={}) for n in range(count)]
    services = [inference_service(n, standing_in(images)) for n in range(count)]
    for manifests, phase in ((jobs, "Running"), (services, "Ready")):
        bench.fresh()
        kind = manifests[0]["kind"].lower()

        def measure(look: Callable[[], Sample], manifests: list[Manifest] = manifests) -> None:
            before = settled(look, 0, quiet=5)
            bench.kube.apply(*manifests)
            for manifest in manifests:
                name = manifest["metadata"]["name"]
                bench.kube.wait(kind, name, NAMESPACE, lambda o: o.get("status", {}).get("phase") == phase)  # noqa: B023
            after = settled(look, 0, quiet=5)
            each = {v: round(n / count, 2) for v, n in sorted((after.requests - before.requests).items())}
            print(f"{kind}: {sum(each.values()):.1f} requests each until {phase}: {each}", flush=True)  # noqa: B023

        bench.measured(measure)
    bench.gone()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resources", type=int, nargs="*", default=[1000, 5000], help="numbers at rest")
    parser.add_argument("--seconds", type=float, default=180, help="to measure for, at least")
    parser.add_argument("--starts", type=int, default=8, help="resources of each kind to start; 0: none")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was made is taken away again
    bench = Bench(environment.ready())
    replicas = (bench.kube.get("deployment", "capstan-operator", SYSTEM) or {})["spec"]["replicas"]
    bench.watched(0)
    try:
        bench.scale(1)  # the one that leads is the one that is measured
        if chosen.starts:
            until_running(bench, chosen.starts)
        for count in chosen.resources:
            at_rest(bench, count, chosen.seconds)
    finally:
        bench.scale(replicas)
        bench.watched(1)


if __name__ == "__main__":
    main()
