"""Every label, annotation and field name that is ours, in one place."""

from __future__ import annotations

from typing import Final

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
PART_OF: Final = "app.kubernetes.io/part-of"

KIND: Final = "capstan.dev/kind"
OWNER: Final = "capstan.dev/name"
ROLE: Final = "capstan.dev/role"
ATTEMPT: Final = "capstan.dev/attempt"
REVISION: Final = "capstan.dev/revision"

#: On a Job and a Deployment: what was asked for when it was made (core/origin.py).
MADE_FROM: Final = "capstan.dev/made-from"
#: On a Job that release 0.1.0 made: the hash of its spec. Not written any more: 0.1.0 knows fewer fields and
#: would take a job for changed, while it leaves one without the annotation as it is.
SPEC_HASH: Final = "capstan.dev/spec-hash"
#: On an InferenceService, by its user: another value asks for a revision as this release makes it.
REFRESH: Final = "capstan.dev/refresh"
#: On a Deployment: where its model comes from and its digest, when that is known.
MODEL_DIGEST: Final = "capstan.dev/model-digest"

#: On every child: the hash of all that was rendered of it, so that what is rendered no longer is noticed.
RENDERED: Final = "capstan.dev/rendered"

#: Kubernetes' own, on the pods of Indexed Jobs.
COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"


def standard(kind: str, name: str, role: str) -> dict[str, str]:
    """What every child carries, also those whose owner reference is not ours (pods)."""
    return {
        NAME: kind.lower(),
        INSTANCE: name,
        COMPONENT: role,
        MANAGED_BY: "capstan",
        PART_OF: "capstan",
        KIND: kind,
        OWNER: name,
        ROLE: role,
    }


def selector(kind: str, name: str, **more: str) -> dict[str, str]:
    """What finds all pods of an owner."""
    return {KIND: kind, OWNER: name, **more}
