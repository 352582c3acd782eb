"""The plan of an InferenceService: the revision in use stays until the next one is ready.

A revision is named by the hash of its pods' template as it was first rendered, and keeps that template for as
long as it is what is asked for, whatever a later release renders. Which one the Service sends requests to is
in the status, and is changed there first.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from capstan_operator.api.common import API_VERSION
from capstan_operator.api.inference_service import InferenceServiceSpec
from capstan_operator.core import conditions, events, get, labels, names, observed, origin
from capstan_operator.core import spec as specs
from capstan_operator.core.model import Event, Manifest, ObjectRef, Observed, Plan, Settings
from capstan_operator.core.policies import model as models
from capstan_operator.core.policies import pending, promotion, refetch
from capstan_operator.core.policies.finding import Finding
from capstan_operator.core.serving import children, status

PROMOTED = "Promoted"


def references(resource: Manifest) -> tuple[ObjectRef, ...]:
    """The TrainingJob the model comes from."""
    name = get.text(resource, "spec", "model", "fromTrainingJob", "name")
    namespace = get.text(resource, "metadata", "namespace")
    return (ObjectRef(API_VERSION, "TrainingJob", namespace, name),) if name else ()


def plan(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
    """What should become of an InferenceService now."""
    old = get.mapping(resource, "status")
    if observed.deleted(resource):
        return Plan(status=old)
    spec = specs.parsed(InferenceServiceSpec, resource)
    if isinstance(spec, Finding):
        result = Plan(status=status.invalid(resource, spec, now))
    else:
        result = _planned(resource, spec, seen, now, settings)
    told = events.transitions(old, result.status)
    known = {event.reason for event in result.events}
    return replace(result, events=(*result.events, *(e for e in told if e.reason not in known)))


def _planned(
    resource: Manifest, spec: InferenceServiceSpec, seen: Observed, now: datetime, settings: Settings
) -> Plan:
    old = get.mapping(resource, "status")
    name = resource["metadata"]["name"]
    resolved = models.resolve(spec.model, name, seen.references, get.mapping(old, "model"))
    stable = get.text(old, "revisions", "stable", "hash")
    if resolved.model is None:
        return _without_model(resource, spec, resolved, stable, seen, now)

    template = children.template(resource, spec, resolved.model, settings)
    asked = children.asked(resource, spec, resolved.model)
    replicas = spec.replicas.min
    deployments = {get.name(d): d for d in observed.of_kind(seen, "Deployment")}
    stable_live = deployments.get(names.revision(name, stable)) if stable else None
    rendered = names.digest(template)
    wanted = stable if _asked_for(resource, stable_live, asked, resolved.model) else rendered
    live = deployments.get(names.revision(name, wanted))

    # A revision that was recorded and has gone cannot be made again: the one that is asked for must do.
    promoted = wanted != stable and promotion.complete(live, replicas)
    if promoted:
        stable, stable_live = wanted, live
    candidate = wanted if wanted != stable else ""
    pods = observed.pods(seen, labels.REVISION, wanted)
    finding, look_again = _why(live, pods, spec, now)
    facts = status.Facts(
        resource=resource,
        spec=spec,
        resolved=resolved,
        stable=stable,
        stable_live=stable_live,
        candidate=candidate,
        candidate_live=live if candidate else None,
        pods=pods,
        finding=finding,
        now=now,
    )
    made_from = asked.recorded(live)
    if live is not None and wanted != rendered:
        desired = children.kept(resource, live, wanted, replicas, made_from)
    else:
        digest = resolved.model.digest
        desired = children.deployment(resource, template, wanted, replicas, digest, made_from)
    others = []
    if candidate and stable_live is not None and not observed.deleted(stable_live):
        others.append(children.kept(resource, stable_live, stable, replicas))
    keep = {names.revision(name, mark) for mark in (wanted, stable) if mark}
    new = status.status(facts)
    broken, refetch_after = refetch.due(pods, conditions.since(new, status.REVISION_READY), now)
    return Plan(
        status=new,
        apply=(children.service(resource, spec.runtime.name, stable or wanted), desired, *others),
        delete=(
            *(
                observed.reference(d)
                for key, d in deployments.items()
                if key not in keep and not observed.deleted(d)
            ),
            *(observed.reference(pod) for pod in broken),
        ),
        events=(Event("Normal", PROMOTED, f"Revision {stable} answers requests now."),) if promoted else (),
        requeue_after=min((t for t in (look_again, refetch_after) if t is not None), default=None),
        decision=promoted,
    )


def _without_model(
    resource: Manifest,
    spec: InferenceServiceSpec,
    resolved: models.Resolved,
    stable: str,
    seen: Observed,
    now: datetime,
) -> Plan:
    """There is no model to make a revision of. One that is in use, of another model, stays in use."""
    name = resource["metadata"]["name"]
    deployments = {get.name(d): d for d in observed.of_kind(seen, "Deployment")}
    live = deployments.get(names.revision(name, stable)) if stable else None
    facts = status.Facts(
        resource=resource,
        spec=spec,
        resolved=resolved,
        stable=stable,
        stable_live=live,
        candidate="",
        candidate_live=None,
        pods=[],
        finding=resolved.finding,
        now=now,
    )
    apply: tuple[Manifest, ...] = ()
    if live is not None:
        apply = (
            children.service(resource, spec.runtime.name, stable),
            children.kept(resource, live, stable, spec.replicas.min),
        )
    keep = {names.revision(name, stable)} if stable else set()
    return Plan(
        status=status.status(facts),
        apply=apply,
        delete=tuple(
            observed.reference(d)
            for key, d in deployments.items()
            if key not in keep and not observed.deleted(d)
        ),
    )


def _asked_for(resource: Manifest, live: Manifest | None, asked: origin.Origin, model: models.Model) -> bool:
    """Whether the revision in use is what is asked for, whichever release has rendered it."""
    if live is None or observed.deleted(live):
        return False
    made = origin.of(live)
    if made:
        return asked.same(made)
    # Release 0.1.0 made it and has said nowhere from what; but it was content with it.
    old = get.mapping(resource, "status")
    found = get.mapping(old, "model")
    return (
        origin.seen(resource)
        and not get.mapping(old, "revisions", "candidate")
        and observed.condition(resource, conditions.READY).get("reason") != specs.INVALID_SPEC
        and not get.text(resource, "metadata", "annotations", labels.REFRESH)
        and (found.get("uri"), found.get("name"), found.get("version"))
        == (model.uri, model.name, model.version)
        and model.digest in {None, found.get("digest")}
    )


def _why(
    live: Manifest | None, pods: list[Manifest], spec: InferenceServiceSpec, now: datetime
) -> tuple[Finding, float | None]:
    """How the revision that is asked for is doing, and when to look again."""
    if promotion.complete(live, spec.replicas.min):
        return Finding("Ready", "All its pods are ready."), None
    if live is None:
        return Finding(pending.PODS_PENDING, "The revision's pods are being made."), None
    there = [pod for pod in pods if not observed.deleted(pod)]
    if not there:
        refused = pending.refused(live, now)
        if refused:
            return refused, None
        return Finding(pending.PODS_PENDING, "The revision's pods are being made."), max(
            1.0, pending.silence_left(live, now)
        )
    return pending.why(there, pending.Asked(spec.accelerator.type if spec.accelerator else None)), None
