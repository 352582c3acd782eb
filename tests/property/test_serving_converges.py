"""An InferenceService in a world where everything goes wrong: what answers is never taken away."""

from __future__ import annotations

from capstan_operator.core import labels
from capstan_operator.core.model import Manifest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.property.simulated.controllers import is_deleted
from tests.property.simulated.world import World, lives, numbers

NAME = "svc"
SUCCEEDED = {"phase": "Succeeded", "output": {"uri": "pvc://a/b/model.onnx"}}


class InferenceServices(World):
    """One InferenceService, of a file or of a TrainingJob's output, and everything that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.once_ready: set[str] = set()
        self.cluster.listeners.append(self.readiness)

    def readiness(self, what: str, obj: Manifest) -> None:
        """Remember which revisions have had all their pods ready."""
        if obj["kind"] == "Deployment" and obj.get("status", {}).get("readyReplicas", 0) >= 1:
            self.once_ready.add(obj["metadata"]["name"])

    @initialize(model=st.sampled_from(["uri", "job"]))
    def somebody_creates_it(self, model: str) -> None:
        self.create(model)

    @rule(model=st.sampled_from(["uri", "job"]))
    def somebody_creates_it_again(self, model: str) -> None:
        if self.cluster.get("InferenceService", NAME) is None:
            self.create(model)

    def create(self, model: str) -> None:
        source = {"uri": "pvc://a/1"} if model == "uri" else {"fromTrainingJob": {"name": "job"}}
        self.cluster.write(
            {
                "apiVersion": "capstan.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": NAME},
                "spec": {"model": source, "runtime": {"name": "capstan"}, "replicas": {"min": 1}},
            }
        )

    @rule(change=st.sampled_from(["pvc://a/1", "pvc://a/2", "job", 1, 2]))
    def somebody_changes_the_spec(self, change: str | int) -> None:
        if service := self.cluster.get("InferenceService", NAME):
            spec = dict(service["spec"])
            if isinstance(change, int):
                spec["replicas"] = {"min": change}
            else:
                job = {"fromTrainingJob": {"name": "job"}}
                spec["model"] = job if change == "job" else {"uri": change}
            self.cluster.write({**service, "spec": spec})

    @rule()
    def another_model_is_asked_for_while_one_serves(self) -> None:
        """Chance hardly ever changes what serves: it takes five calm rounds to get there."""
        for _ in range(6):
            service = self.cluster.get("InferenceService", NAME)
            if service and stable(service.get("status", {})):
                uri = "pvc://a/2" if service["spec"]["model"].get("uri") == "pvc://a/1" else "pvc://a/1"
                self.somebody_changes_the_spec(uri)
                break
            self.calm_round()

    @rule()
    def the_training_job_succeeds(self) -> None:
        job = {
            "apiVersion": "capstan.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "job"},
            "spec": {"framework": "custom", "image": "i", "output": {"uri": "pvc://a/b"}},
        }
        done = self.cluster.get("TrainingJob", "job") or self.cluster.write(job)
        self.cluster.set_status(done, {**SUCCEEDED, "observedGeneration": 1})

    @rule(number=numbers)
    def a_pod_gets_ready(self, number: int) -> None:
        if (pod := self.child(("Pod",), number)) and not is_deleted(pod):
            self.controllers.get_ready(pod)

    @rule(number=numbers)
    def a_server_cannot_load_its_model(self, number: int) -> None:
        if (pod := self.child(("Pod",), number)) and not is_deleted(pod):
            self.controllers.crash(pod)

    def settle(self, pod: Manifest) -> None:
        self.controllers.place(pod)
        if not is_deleted(pod):
            self.controllers.get_ready(pod)

    def recorded(self, before: Manifest, after: Manifest) -> str | None:
        if after["kind"] == "TrainingJob":
            return None
        was, now = stable(before), stable(after["status"])
        if was and not now:
            return "the revision in use is forgotten"
        if now and now != was and f"{NAME}-{now}" not in self.once_ready:
            return "a revision takes over that was never ready"
        return None

    def applied(self, child: Manifest, status: Manifest) -> str | None:
        if child["kind"] == "Service" and child["metadata"]["name"] == NAME:
            mark = child["spec"]["selector"][labels.REVISION]
            if stable(status) not in ("", mark):
                return "requests go to a revision that is not the recorded one"
        return None

    def deleted(self, child: Manifest, status: Manifest) -> str | None:
        if child["kind"] == "Deployment" and child["metadata"]["name"] == f"{NAME}-{stable(status)}":
            return "the revision in use is deleted"
        return None

    def converged(self) -> str | None:
        owner = self.cluster.get("InferenceService", NAME)
        found = {c["metadata"]["name"]: c for c in self.managed("Deployment", "Service")}
        mine = {name for name, c in found.items() if c["metadata"]["ownerReferences"][0]["name"] == NAME}
        if owner is None:
            return f"children are left: {mine}" if mine else None
        status = owner.get("status", {})
        if status.get("observedGeneration") != owner["metadata"]["generation"]:
            return "the last spec has not been looked at"
        if "fromTrainingJob" in owner["spec"]["model"] and self.cluster.get("TrainingJob", "job") is None:
            reason = status["conditions"][0]["reason"]
            waits = reason == "TrainingJobNotFound" or status["phase"] == "Ready"
            return None if waits else f"without its job it is {status['phase']}: {reason}"
        if status["phase"] != "Ready":
            return f"it is not ready: {status}"
        mark = stable(status)
        if mine != {NAME, f"{NAME}-{mark}"}:
            return f"its children are {mine}"
        if found[NAME]["spec"]["selector"][labels.REVISION] != mark:
            return "requests go elsewhere"
        wanted = owner["spec"]["replicas"]["min"]
        return None if status["replicas"] == {"desired": wanted, "ready": wanted} else "pods are missing"


def stable(status: Manifest) -> str:
    return str(status.get("revisions", {}).get("stable", {}).get("hash", ""))


TestInferenceServices = InferenceServices.TestCase
TestInferenceServices.settings = lives
