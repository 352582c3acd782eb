"""The children of an InferenceService: a Service, and the Deployment of a revision."""

from __future__ import annotations

from typing import Final

from capstan_operator.api.inference_service import InferenceServiceSpec
from capstan_operator.api.sources import CLAIM_SCHEME
from capstan_operator.core import accelerators, claims, fetch, get, labels, names, origin, pods
from capstan_operator.core.model import Manifest, Settings
from capstan_operator.core.policies.model import Model
from capstan_operator.core.runtimes import RUNTIMES, capstan

ROLE: Final = "server"
#: The folder the server serves, in a volume of the pod's own.
REPOSITORY: Final = "/var/run/capstan/models"

#: What the server asks for when the spec says nothing.
_REQUESTS: Final[Manifest] = {"requests": {"cpu": "100m", "memory": "256Mi"}}


def template(resource: Manifest, spec: InferenceServiceSpec, model: Model, settings: Settings) -> Manifest:
    """The pods of a revision, but for the label that carries the revision's own hash."""
    image = spec.runtime.image or settings.serving_image
    server = RUNTIMES[spec.runtime.name].server(image, REPOSITORY)
    server |= {
        "resources": accelerators.amounts(spec.accelerator, spec.resources) or dict(_REQUESTS),
        "volumeMounts": [
            {"name": "models", "mountPath": REPOSITORY, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (a path in the pod, on a volume of its own)
        ],
    }
    pod: Manifest = {
        "initContainers": [_fetch(model, spec, settings)],
        "containers": [server],
        "volumes": [*claims.volumes(_claimed(model)), pods.empty_dir("models"), pods.empty_dir("tmp")],
        # Requests in flight are answered; the Service stops sending new ones meanwhile.
        "terminationGracePeriodSeconds": 45,
    }
    affinity = accelerators.affinity(spec.accelerator, None)
    if affinity:
        pod["affinity"] = affinity
    name, kind = resource["metadata"]["name"], resource["kind"]
    return pods.template(labels.standard(kind, name, ROLE), pod, spec.template, {})


def asked(resource: Manifest, spec: InferenceServiceSpec, model: Model) -> origin.Origin:
    """What tells one revision from another, whatever a release renders of it: the spec and the model."""
    # The model as it was found stands for how the spec names it; how many pods there are is no matter.
    found = {"uri", "name", "version", "digest", "from_training_job"}
    written = spec.model_dump(mode="json", exclude_defaults=True, exclude={"replicas": True, "model": found})
    refresh = get.text(resource, "metadata", "annotations", labels.REFRESH)
    inputs = [model.uri, model.name, model.version, model.digest, refresh]
    generation = get.number(resource, "metadata", "generation")
    return origin.Origin(generation, names.digest(written), names.digest(inputs))


def deployment(
    resource: Manifest, pod_template: Manifest, mark: str, replicas: int, digest: str | None, made_from: str
) -> Manifest:
    """The Deployment of a revision, whose name and selector have the revision's hash."""
    name = resource["metadata"]["name"]
    revision = {labels.REVISION: mark}
    metadata = pod_template["metadata"]
    return pods.child(
        resource,
        "apps/v1",
        "Deployment",
        names.revision(name, mark),
        ROLE,
        {
            "replicas": replicas,
            "selector": {"matchLabels": labels.selector(resource["kind"], name, **revision)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 0,
            "template": {
                **pod_template,
                "metadata": {**metadata, "labels": {**metadata["labels"], **revision}},
            },
        },
        revision,
        {
            key: value
            for key, value in {labels.MODEL_DIGEST: digest, labels.MADE_FROM: made_from}.items()
            if value
        },
    )


def kept(resource: Manifest, live: Manifest, mark: str, replicas: int, made_from: str = "") -> Manifest:
    """The Deployment of a revision that is not rendered now: as it is, with the replicas wanted.

    `made_from`: what it was found to be made from; when nothing was, what it says itself stays.
    """
    metadata = get.mapping(live, "spec", "template", "metadata")
    pod_template = {
        "metadata": {
            "labels": get.mapping(metadata, "labels"),
            **({"annotations": metadata["annotations"]} if metadata.get("annotations") else {}),
        },
        "spec": get.mapping(live, "spec", "template", "spec"),
    }
    digest = get.text(live, "metadata", "annotations", labels.MODEL_DIGEST) or None
    made_from = made_from or origin.of(live)
    return pods.rendered_as(deployment(resource, pod_template, mark, replicas, digest, made_from), live)


def service(resource: Manifest, runtime: str, mark: str) -> Manifest:
    """The Service that sends requests to one revision."""
    name = resource["metadata"]["name"]
    return pods.child(
        resource,
        "v1",
        "Service",
        name,
        ROLE,
        {
            "type": "ClusterIP",
            "ports": RUNTIMES[runtime].ports(),
            "selector": labels.selector(resource["kind"], name, **{labels.REVISION: mark}),
        },
    )


def urls(resource: Manifest) -> Manifest:
    """Where clients in the cluster find the service."""
    host = f"{resource['metadata']['name']}.{resource['metadata']['namespace']}.svc"
    return {"url": f"http://{host}:{capstan.HTTP}", "grpcUrl": f"{host}:{capstan.GRPC}"}


def _fetch(model: Model, spec: InferenceServiceSpec, settings: Settings) -> Manifest:
    arguments = [
        *("--uri", model.uri, "--target", REPOSITORY),
        *("--model", model.name, "--version", model.version),
        *(("--digest", model.digest) if model.digest else ()),
    ]
    mounts = [
        {"name": "models", "mountPath": REPOSITORY},
        *claims.mounts(_claimed(model), read_only=True),
    ]
    return fetch.container(fetch.MODEL, arguments, mounts, spec.model.credentials, settings)


def _claimed(model: Model) -> list[str]:
    return [model.uri] if model.uri.startswith(CLAIM_SCHEME) else []
