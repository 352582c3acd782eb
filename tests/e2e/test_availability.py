"""Two operators: whatever becomes of the one that leads, the other takes over, and nothing is done twice.

What happens to the leader is done to its process, from the node that it runs on: the local cluster's.
"""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from capstan_cluster import processes
from capstan_cluster.cluster import Cluster
from capstan_cluster.config import Config
from capstan_demo.deploy import NAMESPACE
from capstan_demo.environment import Environment
from capstan_demo.kube import Kube, Manifest, until

from tests.e2e.test_operator import OPERATOR
from tests.e2e.test_training import FOREVER, phase, training_job

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or bool(os.environ.get("CONTEXT")), reason="the node has to be this machine"
    ),
    pytest.mark.timeout(300),
]

LEASE = "capstan-operator"
WRITES = ("apply", "delete", "update_status", "create", "patch")
#: Seconds. Measured: under 13 when the leader dies without a word; the rest is for a busy machine.
HANDOVER = 40


@dataclass
class Operators:
    """The operator's pods, which of them leads, and their processes."""

    kube: Kube

    def pods(self) -> list[Manifest]:
        return self.kube.list("pods", NAMESPACE, OPERATOR)

    def pod(self, name: str) -> Manifest:
        return next(pod for pod in self.pods() if pod["metadata"]["name"] == name)

    def leader(self) -> str:
        """The name of the pod that holds the lease; empty when it was given back."""
        lease = self.kube.get("lease", LEASE, NAMESPACE) or {}
        return str(lease.get("spec", {}).get("holderIdentity", "")).partition("_")[0]

    def holder(self) -> str:
        lease = self.kube.get("lease", LEASE, NAMESPACE) or {}
        return str(lease.get("spec", {}).get("holderIdentity", ""))

    def process(self, name: str) -> int:
        """The process of a pod's container on this machine."""
        (status,) = self.pod(name)["status"]["containerStatuses"]
        container = status["containerID"].partition("://")[2]
        for entry in Path("/proc").glob("[0-9]*/cgroup"):
            try:
                if container in entry.read_text():
                    return int(entry.parent.name)
            except OSError:
                continue
        raise AssertionError(f"no process of {name} ({container})")

    def sample(self, name: str, metric: str, *labels: str) -> float:
        """The sum of a metric's samples that have one of these labels."""
        url = f"http://{self.pod(name)['status']['podIP']}:8080/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        chosen = [line for line in lines if line.startswith(metric)]
        picked = [line for line in chosen if not labels or any(label in line for label in labels)]
        return sum(float(line.split()[-1]) for line in picked)

    def sent(self, name: str) -> float:
        """How many writes it has sent to the API server, whatever the answer was."""
        metric = "capstan_operator_api_requests_total"
        asked = self.sample(name, metric, *(f'verb="{verb}"' for verb in WRITES))
        return asked - self.fenced(name)

    def fenced(self, name: str) -> float:
        return self.sample(name, "capstan_operator_api_requests_total", 'code="fenced"')

    def restarts(self) -> int:
        return sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in self.pods())

    def settle(self) -> None:
        """Wait until two are ready, and one of them leads."""
        self.kube.run(
            "rollout", "status", "-n", NAMESPACE, "deployment", "-l", OPERATOR, "--timeout=120s", timeout=130
        )
        until(lambda: self.leader() in {pod["metadata"]["name"] for pod in self.pods()}, seconds=HANDOVER)
        until(lambda: self.sample(self.leader(), "capstan_operator_leader ") == 1, seconds=HANDOVER)

    def rest(self, name: str) -> float:
        """Wait until it has nothing more to write; return what it has sent by then."""
        sent, since = self.sent(name), time.monotonic()

        def quiet() -> bool:
            nonlocal sent, since
            if (now := self.sent(name)) != sent:
                sent, since = now, time.monotonic()
            return time.monotonic() - since > 3

        until(quiet, seconds=60)
        return sent

    def taken_over(self, holder: str, since: float) -> None:
        """Wait until somebody else than this holder leads."""
        until(lambda: self.holder() not in ("", holder), seconds=HANDOVER, last=self.holder)
        print(f"another leads after {time.monotonic() - since:.1f} s")


@pytest.fixture
def operators(kube: Kube) -> Iterator[Operators]:
    found = Operators(kube)
    found.settle()
    yield found
    found.settle()


def jobs(kube: Kube, namespace: str) -> dict[str, str]:
    """The Jobs of the TrainingJob, with their uids."""
    found = kube.list("jobs", namespace, "capstan.dev/name=job")
    return {job["metadata"]["name"]: job["metadata"]["uid"] for job in found}


def running(job: Manifest) -> bool:
    return phase(job) == "Running"


def delete_pod(kube: Kube, name: str) -> None:
    kube.run("delete", "pod", "-n", NAMESPACE, "--force", "--grace-period=0", name)


@pytest.mark.parametrize("how", ["deleted", "killed"])
def test_the_leader_dies_and_the_next_one_goes_on(
    installed: Environment, kube: Kube, namespace: str, operators: Operators, how: str
) -> None:
    name, holder = operators.leader(), operators.holder()
    kube.apply(training_job(installed, FOREVER, replicas=2), namespace=namespace)
    begun = time.monotonic()
    if how == "deleted":
        delete_pod(kube, name)
    else:
        os.kill(operators.process(name), signal.SIGKILL)
    operators.taken_over(holder, begun)
    job = kube.wait("trainingjob", "job", namespace, running)
    assert job["status"]["attempt"] == 1
    assert list(jobs(kube, namespace)) == ["job-worker-1"]


def frozen(operators: Operators, name: str) -> Callable[[], None]:
    """Stop the process where it stands; return what wakes it."""
    process = operators.process(name)
    os.kill(process, signal.SIGSTOP)
    return lambda: os.kill(process, signal.SIGCONT)


def partitioned(operators: Operators, name: str) -> Callable[[], None]:
    """Drop what the pod and the API server send each other; return what mends it."""
    server = operators.kube.get("service", "kubernetes", "default")
    assert server is not None
    address, inside = server["spec"]["clusterIP"], f"--net=/proc/{operators.process(name)}/ns/net"

    def rules(verb: str) -> None:
        for chain, side in (("OUTPUT", "--destination"), ("INPUT", "--source")):
            command = ["nsenter", inside, "iptables", verb, chain, side, address, "--jump", "DROP"]
            subprocess.run(command, check=True, capture_output=True)

    rules("--insert")
    return lambda: rules("--delete")


@pytest.mark.parametrize("cut_off", [frozen, partitioned])
def test_a_leader_that_comes_back_has_nothing_more_to_say(
    installed: Environment,
    kube: Kube,
    namespace: str,
    operators: Operators,
    cut_off: Callable[[Operators, str], Callable[[], None]],
) -> None:
    kube.apply(training_job(installed, FOREVER, replicas=2), namespace=namespace)
    kube.wait("trainingjob", "job", namespace, running)
    name, holder, restarts = operators.leader(), operators.holder(), operators.restarts()
    sent, begun = operators.rest(name), time.monotonic()
    come_back = cut_off(operators, name)
    try:
        pod = kube.list("pods", namespace, "capstan.dev/name=job")[0]["metadata"]["name"]
        kube.run("delete", "pod", "-n", namespace, pod, "--wait=false")
        operators.taken_over(holder, begun)
        kube.wait("trainingjob", "job", namespace, lambda job: job["status"]["attempt"] == 2)
    finally:
        come_back()
    renewals = operators.sample(name, "capstan_operator_api_requests_total", 'code="200",verb="get"')
    until(  # three looks at the lease of another: it is back, and stands by
        lambda: (
            operators.sample(name, "capstan_operator_api_requests_total", 'code="200",verb="get"')
            >= renewals + 3
        ),
        seconds=60,
    )
    assert operators.sample(name, "capstan_operator_leader ") == 0
    print(f"it was kept from {operators.fenced(name):.0f} writes")
    assert operators.sent(name) == sent
    assert operators.restarts() == restarts, "it need not be begun anew"
    assert operators.leader() != name
    kube.wait("trainingjob", "job", namespace, lambda job: running(job) and job["status"]["attempt"] == 2)
    assert list(jobs(kube, namespace)) == ["job-worker-2"]


def test_the_api_server_dies_and_comes_back(
    installed: Environment, kube: Kube, namespace: str, operators: Operators
) -> None:
    kube.apply(training_job(installed, FOREVER, replicas=2), namespace=namespace)
    kube.wait("trainingjob", "job", namespace, running)
    before, restarts, begun = jobs(kube, namespace), operators.restarts(), time.monotonic()
    names = [pod["metadata"]["name"] for pod in operators.pods()]
    asked = {name: operators.sample(name, "capstan_operator_api_requests_total") for name in names}
    cluster = Cluster(Config.load())
    (server,) = [p for p in processes.of_cluster(cluster.config) if p.component == "kube-apiserver"]
    os.kill(server.pid, signal.SIGKILL)
    cluster.up()
    operators.settle()
    seconds = time.monotonic() - begun
    more = {
        name: operators.sample(name, "capstan_operator_api_requests_total") - asked[name] for name in names
    }
    print(f"{seconds:.1f} s, requests: {more}")
    # Ten watches and lists that begin anew, each a few times; one request for the lease every two seconds.
    assert all(count < 100 + 2 * seconds for count in more.values()), more
    pod = kube.list("pods", namespace, "capstan.dev/name=job")[0]["metadata"]["name"]
    kube.run("delete", "pod", "-n", namespace, pod, "--wait=false")
    assert jobs(kube, namespace) == before
    kube.wait("trainingjob", "job", namespace, lambda job: running(job) and job["status"]["attempt"] == 2)
    assert operators.restarts() == restarts
