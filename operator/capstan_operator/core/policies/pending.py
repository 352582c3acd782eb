"""Why pods are not running yet, in a sentence that says what to do.

The checks are ordered from what somebody must do something about to what only takes time; the first that
finds something in any of the pods answers for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from capstan_operator.core import fetch, get, observed, termination
from capstan_operator.core.model import Manifest
from capstan_operator.core.observed import Container
from capstan_operator.core.policies.finding import Finding

IMAGE_PULL_FAILED: Final = "ImagePullFailed"
IMAGE_RUNS_AS_ROOT: Final = "ImageRunsAsRoot"
CONTAINER_CONFIG_INVALID: Final = "ContainerConfigInvalid"
CONTAINER_CANNOT_START: Final = "ContainerCannotStart"
CLAIM_NOT_FOUND: Final = "ClaimNotFound"
CLAIM_NOT_BOUND: Final = "ClaimNotBound"
SCHEDULING_GATED: Final = "SchedulingGated"
QUEUED: Final = "Queued"
UNSCHEDULABLE: Final = "Unschedulable"
CONTAINER_FAILED: Final = "ContainerFailed"
PODS_REFUSED: Final = "PodsRefused"
PODS_PENDING: Final = "PodsPending"
INITIALIZING: Final = "Initializing"

#: Reasons that pass by themselves; all others want somebody to do something.
PATIENT: Final = frozenset({PODS_PENDING, INITIALIZING})
#: Reasons for which a pod has no node, or nothing to run there.
UNPLACED: Final = frozenset(
    {IMAGE_PULL_FAILED, CLAIM_NOT_FOUND, CLAIM_NOT_BOUND, UNSCHEDULABLE, PODS_REFUSED, PODS_PENDING}
)

#: Reasons for which somebody else holds the pods back.
HELD_BACK: Final = frozenset({SCHEDULING_GATED, QUEUED})

#: Seconds after which a controller that has made no pod is taken to be refused them.
SILENCE: Final = 10.0

_IMAGE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_NOISE: Final = re.compile(
    r'^(Back-off pulling image "[^"]*"|ErrImagePull|rpc error: code = \w+ desc =)[:\s]*'
)
#: What the scheduler adds about preemption and device claims helps nobody here.
_ASIDE: Final = re.compile(r" (?:preemption:|no new claims to deallocate)")
_NO_CLAIM: Final = re.compile(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted)')

#: Where the user says which image a container has.
_IMAGE_FIELDS: Final = {"trainer": "spec.image", "server": "spec.runtime.image"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the resource asked for that sentences mention."""

    accelerator: str | None = None
    #: Nodes that it is kept away from, as attempts failed there.
    avoided: tuple[str, ...] = ()


def why(pods: Sequence[Manifest], asked: Asked) -> Finding:
    """Why these pods are not all running."""
    found = (check(pod, asked) for check in _CHECKS for pod in pods if not observed.terminal(pod))
    settled = Finding(INITIALIZING, "The pods that are there are ready, and are being counted.")
    return next((finding for finding in found if finding), settled)


def refused(controller: Manifest, now: datetime) -> Finding | None:
    """Whether a Job or Deployment cannot make its pods, once it has had time to."""
    said = observed.condition(controller, "ReplicaFailure")
    if said.get("status") == "True":
        message = get.text(said, "message")
        hint = (
            " The namespace enforces the restricted Pod Security Standard, and spec.template asks for more:"
            " take that"
            " out."
            if "PodSecurity" in message
            else ""
        )
        return Finding(PODS_REFUSED, f"The cluster refuses the pods: {message}.{hint}")
    if silence_left(controller, now) > 0:
        return None
    kind, name = get.text(controller, "kind").lower(), get.name(controller)
    return Finding(
        PODS_REFUSED,
        f"No pod has come up, so the cluster refuses them; `kubectl describe {kind} {name}` shows why."
        " Mostly it is"
        " spec.template asking for more than the namespace's Pod Security Standard (restricted?) allows, a"
        " ResourceQuota that is used up, or a webhook.",
    )


def queued(job: Manifest) -> Finding | None:
    """Whether somebody holds the Job back, as Kueue does until there is quota."""
    if get.mapping(job, "spec").get("suspend") is not True:
        return None
    return Finding(
        QUEUED,
        f"The Job {get.name(job)} is suspended by a queue, or by hand, and begins when that is over:"
        " `kubectl describe workload` shows what Kueue says.",
    )


def silence_left(controller: Manifest, now: datetime) -> float:
    """Seconds for which a controller without pods is still trusted to make some."""
    born = get.time(controller, "metadata", "creationTimestamp")
    return SILENCE - (now - born).total_seconds() if born else SILENCE


def _image(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    for container in observed.containers(pod):
        if get.text(container.waiting, "reason") in _IMAGE:
            detail = get.text(container.waiting, "message")
            while (shorter := _NOISE.sub("", detail)) != detail:
                detail = shorter
            field = _IMAGE_FIELDS.get(container.name, f"the image of the container {container.name}")
            return Finding(
                IMAGE_PULL_FAILED,
                f"The image {container.image} cannot be pulled: {detail.rstrip('.') or 'no reason given'}."
                " Correct"
                f" {field}, or let the pods pull it (spec.template.spec.imagePullSecrets).",
            )
    return None


def _config(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    for container in observed.containers(pod):
        reason, detail = get.text(container.waiting, "reason"), get.text(container.waiting, "message")
        if reason == "CreateContainerConfigError" and ("runAsNonRoot" in detail or "non-root" in detail):
            return Finding(
                IMAGE_RUNS_AS_ROOT,
                f"The image {container.image} wants to run as root, which pods here may not: build it with a"
                " USER that is"
                " a number, or set spec.template.spec.securityContext.runAsUser to one.",
            )
        if reason == "CreateContainerConfigError":
            named = "credentials.secretRef" if fetch.is_fetch(container.name) else "spec.env and spec.envFrom"
            return Finding(
                CONTAINER_CONFIG_INVALID,
                f"The container {container.name} cannot be made: {detail}. Create what is missing, or"
                f" correct {named}.",
            )
        if reason in {"CreateContainerError", "RunContainerError"}:
            return Finding(
                CONTAINER_CANNOT_START,
                f"The container {container.name} cannot be started: {detail}. Correct spec.command and"
                " spec.template.",
            )
    return None


def _claim(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    detail = _scheduler(pod)
    missing = _NO_CLAIM.search(detail)
    if missing and missing[2] == "not found":
        return Finding(
            CLAIM_NOT_FOUND,
            f"There is no PersistentVolumeClaim {missing[1]} in this namespace: create it, or correct the"
            " uri.",
        )
    if missing:
        return Finding(
            CLAIM_NOT_FOUND,
            f"The PersistentVolumeClaim {missing[1]} is being deleted: create it anew, or correct the uri.",
        )
    if "unbound immediate PersistentVolumeClaims" in detail:
        return Finding(
            CLAIM_NOT_BOUND,
            "A PersistentVolumeClaim has no volume yet: `kubectl describe pvc` says why; mostly its storage"
            " class does not"
            f" exist or cannot provide it. ({detail})",
        )
    return None


def _gated(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    if observed.condition(pod, "PodScheduled").get("reason") != SCHEDULING_GATED:
        return None
    gates = ", ".join(get.text(gate, "name") for gate in get.items(pod, "spec", "schedulingGates"))
    return Finding(
        SCHEDULING_GATED,
        f"The pod {get.name(pod)} is held back by scheduling gates ({gates}): whoever set them, mostly a"
        " queue, takes them away when its turn comes.",
    )


def _unschedulable(pod: Manifest, asked: Asked) -> Finding | None:
    detail = _scheduler(pod)
    if not detail:
        return None
    hint = "Ask for less, or wait until there is room."
    if asked.accelerator and "node affinity" in detail:
        hint = (
            f"No free node has the accelerator {asked.accelerator}: correct spec.accelerator.type, or add"
            " such a node; if"
            f" there is one, label it: kubectl label node NODE accelerator={asked.accelerator}"
        )
    elif "node affinity" in detail:
        hint = "Correct the node affinity in spec.template, or label a node so."
    elif "untolerated taint" in detail:
        hint = "Add a toleration in spec.template.spec.tolerations, or wait until the nodes are free of it."
    if asked.avoided:
        hint += f" Nodes where attempts failed are avoided: {', '.join(asked.avoided)}."
    return Finding(UNSCHEDULABLE, f"No node can take the pod {get.name(pod)}: {detail.rstrip('.')}. {hint}")


def _failing(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    for container in observed.containers(pod):
        if container.failed:
            return _of_failed(container)
    return None


def _of_failed(container: Container) -> Finding:
    said = termination.of(container.failed)
    if get.text(container.failed, "reason") == "OOMKilled":
        return Finding(
            "OutOfMemory",
            f"The container {container.name} passed its memory limit and was killed: raise"
            " spec.resources.limits.memory.",
        )
    if said and said.class_ != "ok":
        return Finding(said.reason, said.message or said.reason)
    code, detail = get.number(container.failed, "exitCode"), get.text(container.failed, "message")
    return Finding(
        CONTAINER_FAILED,
        f"The container {container.name} exited with code {code}{': ' if detail else ''}{detail}. See its"
        " log: kubectl"
        f" logs POD -c {container.name} --previous",
    )


def _unplaced(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    if observed.is_true(pod, "PodScheduled"):
        return None
    return Finding(PODS_PENDING, "Pods wait for a node.")


def _starting(pod: Manifest, asked: Asked) -> Finding | None:
    del asked
    for container in observed.containers(pod):
        if container.init and not container.ended_well and "running" in container.state:
            return Finding(INITIALIZING, f"The container {container.name} prepares the pod.")
    if all(c.ready or c.ended_well for c in observed.containers(pod)) and observed.is_true(pod, "Ready"):
        return None
    if any(not c.init and "running" in c.state for c in observed.containers(pod)):
        return Finding(INITIALIZING, "The containers run and are not ready yet.")
    return Finding(INITIALIZING, "The containers are being made: images are pulled and volumes mounted.")


def _scheduler(pod: Manifest) -> str:
    """The scheduler's sentence on why it has found no node; empty when it has, or has not looked yet."""
    condition = observed.condition(pod, "PodScheduled")
    if condition.get("status") != "False":
        return ""
    said = get.text(condition, "message") or get.text(condition, "reason") or "no reason given"
    return _ASIDE.split(said)[0].rstrip()


_CHECKS: Final[tuple[Callable[[Manifest, Asked], Finding | None], ...]] = (
    _image,
    _config,
    _claim,
    _gated,
    _unschedulable,
    _failing,
    _unplaced,
    _starting,
)
