"""The status of an InferenceService, from what is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from capstan_operator.api.inference_service import InferenceServiceSpec
from capstan_operator.core import conditions, fetch, get, labels, observed, termination
from capstan_operator.core.conditions import FALSE, READY, TRUE, UNKNOWN, Condition
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies import pending, promotion, refetch
from capstan_operator.core.policies.finding import Finding
from capstan_operator.core.policies.model import Model, Resolved
from capstan_operator.core.serving import children

#: The spec's model is there, and is one.
MODEL_AVAILABLE: Final = "ModelAvailable"
#: The revision the spec asks for is ready.
REVISION_READY: Final = "RevisionReady"
#: Some revision answers requests.
AVAILABLE: Final = "Available"
#: kstatus: it will not become ready by itself.
STALLED: Final = "Stalled"


#: What pods say when it is the model that keeps them from being ready.
_MODEL_REASONS: Final = frozenset(
    {
        "ModelNotFound",
        "DigestMismatch",
        "InvalidURI",
        "PermissionDenied",
        "SourceUnavailable",
        "SourceNotAllowed",
        "UnsafeArchive",
        refetch.MODEL_LOAD_FAILED,
        pending.CLAIM_NOT_FOUND,
        pending.CLAIM_NOT_BOUND,
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status is made from. `finding` is about the revision that the spec asks for, and its `pods`."""

    resource: Manifest
    spec: InferenceServiceSpec
    resolved: Resolved
    stable: str
    stable_live: Manifest | None
    candidate: str
    candidate_live: Manifest | None
    pods: Sequence[Manifest]
    finding: Finding
    now: datetime

    @property
    def answering(self) -> int:
        """How many pods of the revision in use are ready."""
        return promotion.ready(self.stable_live)

    @property
    def realized(self) -> bool:
        """Whether what the spec asks for is what is in use, wholly."""
        return (
            self.resolved.model is not None
            and bool(self.stable)
            and not self.candidate
            and promotion.complete(self.stable_live, self.spec.replicas.min)
        )


def status(facts: Facts) -> Manifest:
    """The whole status."""
    old = get.mapping(facts.resource, "status")
    generation = get.number(facts.resource, "metadata", "generation")
    told = [_ready(facts), _available(facts), _model_available(facts), _revision_ready(facts)]
    result: Manifest = {
        "phase": _phase(facts),
        "conditions": conditions.merged(old, told, generation, facts.now),
        "observedGeneration": generation,
        **children.urls(facts.resource),
        "replicas": {
            "desired": facts.spec.replicas.min,
            "ready": facts.answering if facts.stable else promotion.ready(facts.candidate_live),
        },
    }
    revisions = _revisions(facts)
    if revisions:
        result["revisions"] = revisions
    if facts.resolved.model is not None:
        result["model"] = _model(facts.resolved.model, facts.pods)
    elif "model" in old and facts.stable:
        result["model"] = old["model"]
    return result


def invalid(resource: Manifest, finding: Finding, now: datetime) -> Manifest:
    """The spec is none. What answers goes on answering; nothing is made until the spec is corrected."""
    old = get.mapping(resource, "status")
    generation = get.number(resource, "metadata", "generation")
    told = [
        Condition(READY, FALSE, finding.reason, finding.message),
        Condition(STALLED, TRUE, finding.reason, finding.message),
    ]
    return {
        "phase": "Pending",
        **old,
        "conditions": conditions.merged(old, told, generation, now),
        "observedGeneration": generation,
    }


def _phase(facts: Facts) -> str:
    if facts.realized:
        return "Ready"
    if facts.stable and not facts.candidate and facts.resolved.model is not None:
        return "Degraded" if facts.answering else _starting(facts)
    if facts.answering:
        return "Updating"
    return _starting(facts)


def _starting(facts: Facts) -> str:
    nowhere = facts.resolved.model is None or facts.finding.reason in pending.UNPLACED
    return "Pending" if nowhere else "Initializing"


def _ready(facts: Facts) -> Condition:
    """Whether what the spec asks for is what answers."""
    if facts.realized:
        wanted = facts.spec.replicas.min
        message = f"Revision {facts.stable} answers requests with {facts.answering} of {wanted} pods."
        return Condition(READY, TRUE, "Ready", message)
    reason, message = facts.finding.reason, facts.finding.message
    if facts.finding.reason in pending.PATIENT and facts.answering and facts.candidate:
        reason = "Updating"
    if facts.answering and (facts.candidate or facts.resolved.model is None):
        message += f" Revision {facts.stable} answers requests meanwhile."
    return Condition(READY, FALSE, reason, message)


def _available(facts: Facts) -> Condition:
    if facts.answering:
        return Condition(AVAILABLE, TRUE, "Answering", f"Pods of revision {facts.stable} answer requests.")
    return Condition(AVAILABLE, FALSE, "NoneReady", "No pod is ready to answer requests.")


def _model_available(facts: Facts) -> Condition:
    found = facts.resolved.finding
    if facts.resolved.available and facts.finding.reason in _MODEL_REASONS:
        return Condition(MODEL_AVAILABLE, FALSE, facts.finding.reason, facts.finding.message)
    return Condition(
        MODEL_AVAILABLE, TRUE if facts.resolved.available else FALSE, found.reason, found.message
    )


def _revision_ready(facts: Facts) -> Condition:
    if facts.resolved.model is None:
        return Condition(REVISION_READY, UNKNOWN, "NoModel", "There is no model to make a revision of.")
    if facts.finding.reason == "Ready":
        mark = facts.candidate or facts.stable
        return Condition(REVISION_READY, TRUE, "Ready", f"All pods of revision {mark} are ready.")
    return Condition(REVISION_READY, FALSE, facts.finding.reason, facts.finding.message)


def _revisions(facts: Facts) -> Manifest:
    result: Manifest = {}
    if facts.stable:
        result["stable"] = _revision(facts, facts.stable, facts.stable_live)
    if facts.candidate:
        result["candidate"] = _revision(facts, facts.candidate, facts.candidate_live)
    return result


def _model(model: Model, pods: Sequence[Manifest]) -> Manifest:
    """The model. What is told of a TrainingJob's is what the job said: it is read back once the job is gone.

    What the pods have fetched is in their revision. Taken for the job's word it would be a new revision.
    """
    digest = "" if model.digest or model.training_job else _fetched(pods)
    return model.json() | ({"digest": digest} if digest else {})


def _revision(facts: Facts, mark: str, live: Manifest | None) -> Manifest:
    digest = get.text(live, "metadata", "annotations", labels.MODEL_DIGEST)
    of_pods = {get.labels(pod).get(labels.REVISION) for pod in facts.pods}
    digest = digest or (_fetched(facts.pods) if mark in of_pods else "")
    return {
        "hash": mark,
        "ready": promotion.ready(live),
        **({"modelDigest": digest} if digest else {}),
    }


def _fetched(pods: Sequence[Manifest]) -> str:
    """The digest of what the pods have fetched, in their own words."""
    for pod in pods:
        for container in observed.containers(pod):
            if container.name == fetch.MODEL:
                said = termination.of(get.mapping(container.state, "terminated"))
                if said and said.digest:
                    return said.digest
    return ""
