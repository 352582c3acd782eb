"""InferenceService: a model, served over HTTP and gRPC."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capstan_operator.api.base import Model, Rule, Text
from capstan_operator.api.common import (
    ACCELERATOR_ONCE,
    TEMPLATE,
    Accelerator,
    Conditions,
    Digest,
    Name,
    Opaque,
    Resources,
)
from capstan_operator.api.sources import CLAIM_SCHEME, CREDENTIALS, SOURCES, Credentials, SourceURI

KIND = "InferenceService"
PLURAL = "inferenceservices"


class TrainingJobReference(Model):
    """A TrainingJob of the same namespace."""

    name: Name = Field(description="The TrainingJob's name.")


class ModelSource(Model):
    """The model and where it is."""

    uri: SourceURI | None = Field(
        None,
        description=(
            f"Where it is: {SOURCES} A file or a folder. It is copied into the pod when that starts, so a"
            " model that has changed should get a new name."
        ),
    )
    credentials: Credentials | None = Field(None, description=CREDENTIALS)
    from_training_job: TrainingJobReference | None = Field(
        None, description="Serve what this TrainingJob leaves, as soon as it has succeeded."
    )
    format: Literal["onnx"] = Field("onnx", description="The model's format. Only onnx so far.")
    name: (
        Annotated[
            str,
            Text(
                "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
                "must be letters, digits and - _ . inside, at most 63",
                63,
            ),
        ]
        | None
    ) = Field(
        None, description="The name clients ask for, in /v2/models/<name>. Default: the resource's name."
    )
    version: Annotated[
        str, Text("[1-9][0-9]{0,17}", 'must be a whole number from 1, in quotes, such as "3"', 18)
    ] = Field("1", description='The version clients see: a whole number, in quotes, such as "3".')
    digest: Digest | None = Field(
        None,
        description=(
            "sha256:<64 hex digits> of the model's file; any other bytes are refused. Default with"
            " fromTrainingJob:"
            " the digest that job reported."
        ),
    )

    rules = (
        Rule(
            "has(self.uri) != has(self.fromTrainingJob)",
            "say where the model is: give exactly one of uri and fromTrainingJob",
            lambda self: (self.uri is None) != (self.from_training_job is None),
        ),
        Rule(
            f"!has(self.credentials) || (has(self.uri) && !self.uri.startsWith('{CLAIM_SCHEME}'))",
            "a volume is opened by mounting it: leave out credentials for pvc:// and fromTrainingJob",
            lambda self: (
                self.credentials is None or (self.uri is not None and not self.uri.startswith(CLAIM_SCHEME))
            ),
        ),
    )


class RuntimeReference(Model):
    """The server that answers."""

    name: Literal["capstan"] = Field(default="capstan", description="Which server. Only capstan so far.")
    image: str | None = Field(
        default=None,
        description="The server's image, instead of the one the operator was installed with.",
        min_length=1,
        max_length=1024,
    )


class ServingReplicas(Model):
    """How many pods answer."""

    min: int = Field(default=1, description="How many pods there are.", ge=1, le=1000)


class InferenceServiceSpec(Model):
    """What to serve. A change becomes a new revision, which takes over once it is ready."""

    model: ModelSource = Field(description="The model and where it is.")
    runtime: RuntimeReference = Field(
        RuntimeReference(), description="The server that answers. Default: Capstan's own."
    )
    accelerator: Accelerator | None = Field(
        None, description="The GPUs, or others of their kind, of each pod. None: it runs on CPUs."
    )
    resources: Resources | None = Field(
        None,
        description=(
            "What each pod's server asks for and may use, beside the accelerator. Default: requests of 100m"
            " CPU and"
            " 256Mi of memory, no limits."
        ),
    )
    template: Opaque | None = Field(
        None, description=TEMPLATE + " The server's container is named server, the one before it fetch."
    )
    replicas: ServingReplicas = Field(ServingReplicas(), description="How many pods answer.")

    rules = (ACCELERATOR_ONCE,)


class Revision(Model):
    """The pods of one version of the spec."""

    hash: str = Field(description="Its name, and the end of its Deployment's name.")
    ready: int = Field(description="How many of its pods are ready.")
    model_digest: str | None = Field(None, description="The digest of the model it serves, when known.")


class Revisions(Model):
    """The revision in use and the one to come."""

    stable: Revision | None = Field(None, description="The one in use: the Service sends it all requests.")
    candidate: Revision | None = Field(None, description="The one that takes over when it is ready.")


class ModelStatus(Model):
    """The model that was last found."""

    name: str = Field(description="The name clients ask for.")
    version: str = Field(description="The version clients see.")
    uri: str = Field(description="Where it was found.")
    digest: str | None = Field(None, description="Its digest, when known.")
    training_job: str | None = Field(None, description="The TrainingJob it came from.")


class ServingReplicaStatus(Model):
    """How many pods of the revision in use there are (before there is one: of the one to come)."""

    desired: int = Field(description="Wanted.")
    ready: int = Field(description="Ready to answer.")


class InferenceServiceStatus(Model):
    """What has become of the service."""

    phase: Literal["Pending", "Initializing", "Ready", "Updating", "Degraded"] | None = Field(
        None,
        description=(
            "Where the service is: Pending (no model, no room, no image: see conditions), Initializing,"
            " Ready, Updating"
            " (a new revision is being started; the one in use answers), Degraded (pods are missing)."
        ),
    )
    conditions: Conditions | None = None
    observed_generation: int | None = Field(
        None,
        description="The metadata.generation this status is about.",
        json_schema_extra={"format": "int64"},
    )
    url: str | None = Field(None, description="Where to send HTTP requests, inside the cluster.")
    grpc_url: str | None = Field(
        None, description="Where to send gRPC requests, inside the cluster: host:port."
    )
    revisions: Revisions | None = Field(None, description="The revision in use and the one to come.")
    model: ModelStatus | None = Field(None, description="The model that was last found.")
    replicas: ServingReplicaStatus | None = Field(None, description="How many pods there are.")


class InferenceService(Model):
    """An InferenceService serves a model over HTTP and gRPC, by the Open Inference Protocol."""

    rules = (
        Rule(
            "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must be at most 63 lower-case letters, digits and dashes, beginning with a letter"
            " and not"
            " ending with a dash: the Service that answers has it",
            lambda _: True,
        ),
    )

    spec: InferenceServiceSpec = Field(description="What to serve.")
    status: InferenceServiceStatus | None = Field(
        None, description="What has become of it. Written by the operator."
    )
