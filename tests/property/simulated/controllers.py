"""Kubernetes' own controllers and its kubelet, as far as Jobs, Deployments and their pods go.

Each method is one look at one object, so that a test can have others act in between.
"""

from __future__ import annotations

import json
from typing import Any, Final

from capstan_operator.core import names
from capstan_operator.core.get import timestamp
from capstan_operator.core.model import Manifest

from tests.property.simulated.cluster import TRACKED, Cluster, finalizers, owners, replica_set

INDEX: Final = "batch.kubernetes.io/job-completion-index"
#: How a trainer's container may end: exit code, the kubelet's reason, what the agent says.
ENDS: Final[dict[str, tuple[int, str, str | None]]] = {
    "ok": (0, "Completed", "ok"),
    "user": (1, "Error", "user"),
    "out of memory": (137, "OOMKilled", None),
    "killed": (137, "Error", None),
    "terminated": (143, "Error", "infrastructure"),
}


def is_terminal(pod: Manifest) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_deleted(obj: Manifest) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def has(obj: Manifest, condition: str) -> bool:
    return any(c["type"] == condition for c in obj.get("status", {}).get("conditions", ()))


class Controllers:
    """The controller manager, the scheduler and one kubelet."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._done: dict[str, set[int]] = {}
        self._failed: set[str] = set()
        self._lost: set[str] = set()

    def look(self) -> None:
        """Everything once."""
        for job in self._cluster.of("Job"):
            self.job(job)
        for deployment in self._cluster.of("Deployment"):
            self.deployment(deployment)
        for pod in self._cluster.of("Pod"):
            controller = owners(pod)[0]["uid"] if owners(pod) else ""
            if not any(job["metadata"]["uid"] == controller for job in self._cluster.of("Job")):
                self._released(pod)

    def job(self, job: Manifest) -> None:
        uid = job["metadata"]["uid"]
        pods = self._cluster.controlled("Pod", uid)
        done = self._done.setdefault(uid, set())
        for pod in pods:
            if is_terminal(pod) and TRACKED in finalizers(pod):
                if pod["status"]["phase"] == "Failed":
                    self._failed.add(uid)
                else:
                    done.add(int(pod["metadata"]["labels"][INDEX]))
                self._released(pod)
        if is_deleted(job) or has(job, "Complete") or has(job, "Failed"):
            return
        pods = self._cluster.controlled("Pod", uid)
        wanted = job["spec"]["completions"]
        conditions = list(job.get("status", {}).get("conditions", ()))
        if uid in self._failed:
            if not has(job, "FailureTarget"):
                conditions.append(self._condition("FailureTarget"))
            elif all(map(is_terminal, pods)):
                conditions.append(self._condition("Failed"))
            for pod in pods:
                if not is_terminal(pod):
                    self._cluster.delete("Pod", pod["metadata"]["name"])
        elif len(done) == wanted:
            conditions += [self._condition("SuccessCriteriaMet"), self._condition("Complete")]
        else:
            taken = done | {int(pod["metadata"]["labels"][INDEX]) for pod in pods}
            for index in set(range(wanted)) - taken:
                self._pod(job, uid, "Job", f"{job['metadata']['name']}-{index}", {INDEX: str(index)})
        status = {
            "conditions": conditions,
            "active": len([p for p in pods if not is_terminal(p)]),
            "succeeded": len(done),
        }
        self._cluster.set_status(self._again(job), status)

    def deployment(self, deployment: Manifest) -> None:
        if is_deleted(deployment):
            return
        uid = replica_set(deployment["metadata"]["uid"])
        mark = names.digest(deployment["spec"]["template"])
        pods = self._cluster.controlled("Pod", uid)
        current = [p for p in pods if p["metadata"]["labels"]["pod-template-hash"] == mark]
        alive = [p for p in current if not is_deleted(p)]
        for index in range(len(alive), deployment["spec"]["replicas"]):
            self._pod(
                deployment,
                uid,
                "ReplicaSet",
                f"{deployment['metadata']['name']}-{index}",
                {"pod-template-hash": mark},
            )
        for pod in [p for p in pods if p not in current] + alive[deployment["spec"]["replicas"] :]:
            self._cluster.delete("Pod", pod["metadata"]["name"])
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "updatedReplicas": len(alive),
            "readyReplicas": len([p for p in alive if has(p, "Ready")]),
        }
        self._cluster.set_status(self._again(deployment), status)

    def place(self, pod: Manifest) -> None:
        """Schedule a pod, or start it when it is scheduled."""
        if is_terminal(pod) or is_deleted(pod):
            return
        if "nodeName" not in pod["spec"]:
            pod = {**pod, "spec": {**pod["spec"], "nodeName": "node"}}
            self._status(pod, phase="Pending", conditions=[self._condition("PodScheduled")])
        elif pod["status"]["phase"] == "Pending":
            self._status(pod, phase="Running", containerStatuses=[self._container(pod, {"running": {}})])

    def get_ready(self, pod: Manifest) -> None:
        if pod["status"]["phase"] == "Running" and not has(pod, "Ready"):
            conditions = [*pod["status"].get("conditions", ()), self._condition("Ready")]
            ready = {**self._container(pod, {"running": {}}), "ready": True}
            self._status(pod, conditions=conditions, containerStatuses=[ready])

    def crash(self, pod: Manifest) -> None:
        """A server that cannot load its model: its container fails and is started again, in the same pod."""
        if pod["status"]["phase"] == "Running":
            conditions = [c for c in pod["status"].get("conditions", ()) if c["type"] != "Ready"]
            ended = self._ended(1, "Error", "user", "ModelLoadFailed")
            self._status(pod, conditions=conditions, containerStatuses=[self._container(pod, ended)])

    def end(self, pod: Manifest, how: str) -> None:
        """A trainer's end: one of ENDS."""
        if pod["status"]["phase"] == "Running" and pod["metadata"]["uid"] not in self._lost:
            code, reason, words = ENDS[how]
            ended = self._ended(code, reason, words, "Unknown")
            phase = "Failed" if code else "Succeeded"
            self._status(pod, phase=phase, containerStatuses=[self._container(pod, ended)])

    def evict(self, pod: Manifest) -> None:
        """The node is taken away: said first, then the pod is deleted."""
        if not is_terminal(pod):
            conditions = [*pod["status"].get("conditions", ()), self._condition("DisruptionTarget")]
            self._status(pod, conditions=conditions)
            self._cluster.delete("Pod", pod["metadata"]["name"])

    def lose(self, pod: Manifest) -> None:
        """The node dies: the cluster marks the pod, gives it up, and it never ends by itself."""
        if not is_terminal(pod) and "nodeName" in pod["spec"]:
            self._lost.add(pod["metadata"]["uid"])
            disrupted = {**self._condition("DisruptionTarget"), "reason": "DeletionByTaintManager"}
            marked = [
                {**known, "status": "False"} if known["type"] == "Ready" else known
                for known in pod["status"].get("conditions", ())
            ]
            self._status(pod, conditions=[*marked, disrupted])
            self._cluster.delete("Pod", pod["metadata"]["name"])

    def let_go(self, pod: Manifest) -> None:
        """End a pod whose deletion was asked for; the last look of its controller may be waited for."""
        if not is_deleted(pod) or pod["metadata"]["uid"] in self._lost:
            return
        if not is_terminal(pod):
            if pod["status"]["phase"] == "Running":
                self.end(pod, "terminated")
            else:
                self._status(pod, phase="Failed")
        pod = self._again(pod)
        if not finalizers(pod):
            self._cluster.end(pod)

    def _pod(self, owner: Manifest, uid: str, kind: str, name: str, more: dict[str, str]) -> None:
        template = owner["spec"]["template"]
        self._cluster.write(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name}-{self._cluster.version}",
                    "labels": template["metadata"]["labels"] | more,
                    "finalizers": [TRACKED] if kind == "Job" else [],
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": True}
                    ],
                },
                "spec": {"containers": [{"name": c["name"]} for c in template["spec"]["containers"]]},
                "status": {"phase": "Pending"},
            }
        )

    def _released(self, pod: Manifest) -> None:
        if finalizers(pod):
            self._cluster.write({**pod, "metadata": {**pod["metadata"], "finalizers": []}})

    def _again(self, obj: Manifest) -> Manifest:
        return self._cluster.get(obj["kind"], obj["metadata"]["name"]) or obj

    def _status(self, pod: Manifest, **changes: Any) -> None:
        self._cluster.set_status(pod, {**pod["status"], **changes})

    def _condition(self, kind: str) -> Manifest:
        return {"type": kind, "status": "True", "lastTransitionTime": timestamp(self._cluster.now)}

    def _container(self, pod: Manifest, state: Manifest) -> Manifest:
        name = pod["spec"]["containers"][0]["name"]
        return {"name": name, "image": "i", "ready": False, "restartCount": 0, "state": state}

    def _ended(self, code: int, because: str, class_: str | None, reason: str) -> Manifest:
        ended: Manifest = {
            "exitCode": code,
            "reason": because,
            "finishedAt": timestamp(self._cluster.now),
        }
        if class_:
            ended["message"] = json.dumps({"capstan": 1, "class": class_, "reason": reason, "message": "m"})
        return {"terminated": ended}
