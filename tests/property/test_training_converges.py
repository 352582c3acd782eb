"""A TrainingJob in a world where everything goes wrong: what holds at every step, and where it ends."""

from __future__ import annotations

from capstan_operator.api.training_policies import FailurePolicy
from capstan_operator.core import labels
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.restart import CLASSES, maximum
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.property.simulated.controllers import is_deleted, is_terminal
from tests.property.simulated.world import World, lives, numbers

NAME = "job"
#: How programs end, and whose failure that is.
BLAMED = {"user": "user", "out of memory": "outOfMemory"}
#: What jobs say of their own lives.
SPECS: tuple[Manifest, ...] = (
    {},
    {"failurePolicy": {"user": {"maxRestarts": 1}, "infrastructure": {"maxRestarts": 1}}},
    {"failurePolicy": {"outOfMemory": {"maxRestarts": 2, "env": [{"name": "SMALLER", "value": "1"}]}}},
    {"activeDeadline": "10m", "ttlAfterFinished": "1m"},
    {"startupDeadline": "2m"},
)
FINAL = ("Succeeded", "Failed")


class TrainingJobs(World):
    """One TrainingJob of one to two replicas, and everything that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.blamed: dict[str, set[str]] = {}
        self.charged: set[str] = set()

    @initialize(replicas=st.integers(1, 2), spec=st.sampled_from(SPECS))
    def somebody_creates_it(self, replicas: int, spec: Manifest) -> None:
        self.create(replicas, spec)

    @rule(replicas=st.integers(1, 2), spec=st.sampled_from(SPECS))
    def somebody_creates_it_again(self, replicas: int, spec: Manifest) -> None:
        if self.cluster.get("TrainingJob", NAME) is None:
            self.create(replicas, spec)

    def create(self, replicas: int, spec: Manifest) -> None:
        self.cluster.write(
            {
                "apiVersion": "capstan.dev/v1alpha1",
                "kind": "TrainingJob",
                "metadata": {"name": NAME},
                "spec": {
                    "framework": "custom",
                    "image": "i:1",
                    "command": ["train"],
                    "replicas": replicas,
                    "output": {"uri": "pvc://a/b"},
                    **spec,
                },
            }
        )

    @rule(image=st.sampled_from(["i:1", "i:2"]))
    def somebody_changes_the_spec(self, image: str) -> None:
        if job := self.cluster.get("TrainingJob", NAME):
            self.cluster.write({**job, "spec": {**job["spec"], "image": image}})

    @rule(suspend=st.booleans())
    def somebody_suspends_or_resumes_it(self, suspend: bool) -> None:
        if job := self.cluster.get("TrainingJob", NAME):
            self.cluster.write({**job, "spec": {**job["spec"], "suspend": suspend}})

    @rule(number=numbers, how=st.sampled_from(["ok", "user", "out of memory", "killed", "terminated"]))
    def a_program_ends(self, number: int, how: str) -> None:
        if (pod := self.child(("Pod",), number)) and pod["status"]["phase"] == "Running":
            if how in BLAMED:
                uid = pod["metadata"]["ownerReferences"][0]["uid"]
                self.blamed.setdefault(uid, set()).add(BLAMED[how])
            self.controllers.end(pod, how)

    @rule(number=numbers)
    def a_node_is_taken_away(self, number: int) -> None:
        if pod := self.child(("Pod",), number):
            self.controllers.evict(pod)

    @rule(number=numbers)
    def a_node_dies(self, number: int) -> None:
        if pod := self.child(("Pod",), number):
            self.controllers.lose(pod)

    def settle(self, pod: Manifest) -> None:
        self.controllers.place(pod)
        again = self.cluster.get("Pod", pod["metadata"]["name"])
        if pod["status"]["phase"] == "Running" and again is not None and not is_deleted(again):
            self.controllers.end(again, "ok")

    def recorded(self, before: Manifest, after: Manifest) -> str | None:
        now = after["status"]
        if before.get("phase") in FINAL and now["phase"] != before["phase"]:
            return "what is final stays"
        was, is_now = before.get("attempt", 1), now.get("attempt", 1)
        if is_now not in (was, was + 1):
            return f"attempt {was} is followed by {is_now}"
        spent, spends = (sum(s.get("restarts", {}).values()) for s in (before, now))
        if spends not in (spent, spent + 1):
            return f"{spent} restarts are followed by {spends}"
        if spends > spent:
            return self.wrongly_charged(before, after)
        if before.get("phase") == "Suspended" and is_now > was:
            return None
        if is_now > was and spends == spent and after["spec"]["image"] == self.image_of(was):
            return "an attempt begins without a reason"
        return None

    def wrongly_charged(self, before: Manifest, after: Manifest) -> str | None:
        """What is wrong with a restart that is charged."""
        now, failure = after["status"], after["status"]["failure"]
        class_, was = failure["class"], before.get("attempt", 1)
        counts, towards = now["restarts"], now["restartsCountTowardsMax"]
        if now["attempt"] != was + 1 or failure["attempt"] != was:
            return "a restart is spent on one failure of one attempt"
        if counts[class_] != before.get("restarts", {}).get(class_, 0) + 1:
            return "another class is charged"
        if towards[class_] > self.budget(after, class_):
            return f"{towards} restarts are more than there are"
        if failure["jobUID"] in self.charged:
            return "one failure is charged twice"
        self.charged.add(failure["jobUID"])
        return None

    def budget(self, owner: Manifest, class_: str) -> int:
        policy = FailurePolicy.model_validate(owner["spec"].get("failurePolicy", {}))
        return maximum(policy, next(c for c in CLASSES if c == class_))

    def image_of(self, attempt: int) -> str:
        """The image of the Job of an attempt."""
        job = self.cluster.get("Job", f"{NAME}-worker-{attempt}")
        return job["spec"]["template"]["spec"]["containers"][0]["image"] if job else ""

    def applied(self, child: Manifest, status: Manifest) -> str | None:
        if status.get("phase") in FINAL:
            return "a finished job makes nothing"
        if status.get("phase") == "Suspended" and "attempt" in status:
            return "a job that is suspended makes nothing, until the next attempt is on record"
        if child["kind"] != "Job":
            return None
        attempt = int(child["metadata"]["labels"][labels.ATTEMPT])
        if attempt != status.get("attempt", 1):
            return f"attempt {attempt} is acted on and {status.get('attempt')} is on record"
        fresh = self.cluster.get("Job", child["metadata"]["name"]) is None
        if fresh and not self.operator.pending and any(self.running()):
            return "a gang begins beside another"
        return None

    def running(self) -> list[Manifest]:
        """Pods that nobody has given up: those of a dead node are, after a while."""
        return [pod for pod in self.cluster.of("Pod") if not is_terminal(pod) and not is_deleted(pod)]

    def deleted(self, child: Manifest, status: Manifest) -> str | None:
        if child["kind"] != "Job":
            return None if status.get("phase") in FINAL else f"the {child['kind']} is still in use"
        attempt = int(child["metadata"]["name"].rpartition("-")[2])
        at_rest = status.get("phase") in (*FINAL, "Suspended")
        if attempt >= status.get("attempt", 1) and not at_rest:
            return f"attempt {attempt} is ended and that is not on record"
        return None

    def converged(self) -> str | None:
        owner = self.cluster.get("TrainingJob", NAME)
        jobs, services = self.managed("Job"), self.managed("Service")
        if owner is None:
            return f"{len(jobs + services)} children are left" if jobs or services else None
        if any(is_deleted(pod) for pod in self.cluster.of("Pod")):
            return "pods that are to go are still there"
        status = owner.get("status", {})
        if owner["spec"].get("suspend") and status.get("phase") == "Suspended":
            pods = [pod["metadata"]["name"] for pod in self.cluster.of("Pod") if not is_terminal(pod)]
            return f"what is suspended runs: {pods}" if pods or jobs else None
        if status.get("phase") not in FINAL:
            return f"it has not ended: {status.get('phase')}: {status.get('conditions')}"
        if status["observedGeneration"] != owner["metadata"]["generation"]:
            return "the last spec has not been looked at"
        if "ttlAfterFinished" in owner["spec"] and (jobs or services):
            return "what was made for it is still there"
        if status["phase"] == "Failed":
            return self.rightly_failed(owner)
        names = {job["metadata"]["name"] for job in jobs}
        return None if names <= {f"{NAME}-worker-{status['attempt']}"} else f"Jobs are left: {names}"

    def rightly_failed(self, owner: Manifest) -> str | None:
        status = owner["status"]
        class_ = status["failure"]["class"]
        if status["failure"]["reason"].endswith("DeadlineExceeded"):
            return None if owner["spec"].keys() & {"activeDeadline", "startupDeadline"} else "it had time"
        spent = status.get("restartsCountTowardsMax", {}).get(class_, 0)
        if spent != self.budget(owner, class_):
            return f"given up after {spent} restarts"
        blamed = {how for found in self.blamed.values() for how in found}
        return None if class_ == "infrastructure" or class_ in blamed else f"nobody failed so: {class_}"


TestTrainingJobs = TrainingJobs.TestCase
TestTrainingJobs.settings = lives
