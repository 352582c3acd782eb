"""TrainingJob: a training program, run on as many pods as it says, to its end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from capstan_operator.api.base import Model, Rule
from capstan_operator.api.common import (
    ACCELERATOR_ONCE,
    TEMPLATE,
    Accelerator,
    ClaimURI,
    Conditions,
    Digest,
    Duration,
    EnvFromSource,
    EnvVar,
    Line,
    Opaque,
    Resources,
)
from capstan_operator.api.sources import DATA_ONCE, DataSource

KIND = "TrainingJob"
PLURAL = "trainingjobs"

Processes = Annotated[
    int | Literal["auto"],
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                {
                    "rule": "type(self) == int ? self >= 1 && self <= 1024 : self == 'auto'",
                    "message": "must be auto or a number from 1 to 1024",
                }
            ],
        }
    ),
]


class Checkpoint(Model):
    """Where the program saves its state, to go on from after a restart."""

    uri: ClaimURI = Field(
        description=(
            "A folder, as pvc://<claim>/<path>: a volume, because the program itself writes to it. The claim"
            " is mounted in every replica, and the program finds the"
            " folder's path in CAPSTAN_CHECKPOINT_DIR. It creates the folder, saves to it and resumes from"
            " it."
        )
    )
    grace_period: Duration = Field(
        "60s",
        description=(
            "How long the program may take to save and exit after SIGTERM, before it is killed. A duration"
            " such as"
            " 90s or 5m."
        ),
    )


class Output(Model):
    """What the program leaves behind."""

    uri: ClaimURI = Field(
        description=(
            "A folder, as pvc://<claim>/<path>: a volume, because the program itself writes to it. The claim"
            " is mounted in every replica, and the program finds the"
            " folder's path in CAPSTAN_OUTPUT_DIR. Replica 0 creates it and writes model.onnx into it before"
            " it exits;"
            " an InferenceService can then name this job in model.fromTrainingJob."
        )
    )
    format: Literal["onnx"] = Field("onnx", description="The model's format. Only onnx so far.")


class TrainingJobSpec(Model):
    """What to train, with what, on how many pods. Changing it while the job runs starts a new attempt."""

    framework: Literal["pytorch", "custom"] = Field(
        description=(
            "How the replicas find each other. pytorch: torchrun finds everything in PET_* variables, so the"
            " command"
            " is `torchrun train.py` without flags. custom: CAPSTAN_REPLICA_INDEX, CAPSTAN_REPLICAS and"
            " CAPSTAN_PEERS (the replicas' host names) are given, and the program does the rest."
        )
    )
    image: str = Field(
        description="The image with the program, such as ghcr.io/acme/train:1.4.2.",
        min_length=1,
        max_length=1024,
    )
    command: list[Line] | None = Field(
        None,
        description=(
            "What to run, such as [torchrun, train.py]. It is run under Capstan's runner, which reports how"
            " it ended."
            " None: the image's entry point, which cannot be supervised."
        ),
        min_length=1,
        max_length=1024,
    )
    args: list[Line] | None = Field(None, description="Arguments that follow command.", max_length=1024)
    env: list[EnvVar] | None = Field(
        None,
        description="Environment variables of the program.",
        max_length=1024,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    env_from: list[EnvFromSource] | None = Field(
        None, description="ConfigMaps and Secrets whose keys become environment variables.", max_length=64
    )
    working_dir: str | None = Field(
        None,
        description="The folder the program starts in. Default: the image's.",
        min_length=1,
        max_length=4096,
    )
    replicas: int = Field(1, description="How many pods train together.", ge=1, le=1000)
    processes_per_replica: Processes = Field(
        "auto",
        description=(
            "Processes a replica runs (torchrun's nproc-per-node). auto: one for each accelerator, or one"
            " where there"
            " is none."
        ),
    )
    accelerator: Accelerator | None = Field(
        None, description="The GPUs, or others of their kind, of each replica. None: it trains on CPUs."
    )
    resources: Resources | None = Field(
        None, description="What each replica's container asks for and may use, beside the accelerator."
    )
    template: Opaque | None = Field(None, description=TEMPLATE + " The program's container is named trainer.")
    data: list[DataSource] | None = Field(
        None,
        description="What the program reads: each item is there before the program starts.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    checkpoint: Checkpoint | None = Field(None, description="Where the program saves its state.")
    output: Output | None = Field(None, description="Where the program leaves the model.")
    supervise: bool = Field(
        True,
        description=(
            "Whether the command runs under Capstan's runner: it passes signals on, keeps the last lines of"
            " output and"
            " reports how the command ended. The runner needs nothing of the image."
        ),
    )

    rules = (ACCELERATOR_ONCE, *DATA_ONCE)


class ReplicaStatus(Model):
    """How many pods of a role there are."""

    desired: int = Field(description="Wanted.")
    ready: int = Field(description="Running.")
    succeeded: int = Field(description="Ended well.")
    failed: int = Field(description="Ended badly.")


class Failure(Model):
    """The first pod that failed, in the last attempt that did."""

    class_: Literal["user", "outOfMemory", "infrastructure"] = Field(
        alias="class",
        description=(
            "Whose it is: the program's or the spec's (user), too little memory (outOfMemory), or a node's,"
            " an"
            " eviction's or a deletion's (infrastructure), after which the job is restarted."
        ),
    )
    attempt: int = Field(description="The attempt that failed.")
    pod: str | None = Field(None, description="The pod's name.")
    node: str | None = Field(None, description="The node it was on.")
    container: str | None = Field(None, description="The container that failed.")
    exit_code: int | None = Field(None, description="Its exit code; 128 and more: ended by a signal.")
    reason: str = Field(description="Why, in one CamelCase word.")
    message: str = Field(description="Why, in a sentence, and what to do.")
    log: str | None = Field(None, description="The last lines it wrote.")


class Restarts(Model):
    """How often the job was restarted, by the class of failure."""

    infrastructure: int = Field(
        0, description="After a node's failure, an eviction or a deletion. 3 at most."
    )


class OutputStatus(Model):
    """The model the job has left."""

    uri: str = Field(description="The model's file, as pvc://<claim>/<path>/model.onnx.")
    digest: Digest | None = Field(None, description="Its digest, when the command was supervised.")


class TrainingJobStatus(Model):
    """What has become of the job."""

    phase: Literal["Pending", "Initializing", "Running", "Restarting", "Succeeded", "Failed"] | None = Field(
        None,
        description=(
            "Where the job is: Pending (no room, no image: see conditions), Initializing, Running,"
            " Restarting (a new"
            " attempt begins), Succeeded, Failed. The last two are final."
        ),
    )
    conditions: Conditions | None = None
    observed_generation: int | None = Field(
        None,
        description="The metadata.generation this status is about.",
        json_schema_extra={"format": "int64"},
    )
    attempt: int | None = Field(None, description="Which attempt this is, from 1.")
    restarts: Restarts | None = Field(None, description="How often the job was restarted, and why.")
    replicas: dict[str, ReplicaStatus] | None = Field(
        None, description="How many pods there are, by role (worker)."
    )
    failure: Failure | None = Field(
        None, description="The first pod that failed, in the last attempt that did."
    )
    output: OutputStatus | None = Field(None, description="The model, once the job has succeeded.")
    start_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        None, description="When the job was first acted on."
    )
    completion_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        None, description="When it succeeded or failed."
    )


class TrainingJob(Model):
    """A TrainingJob runs a training program on as many pods as it says, to its end, and keeps its model."""

    rules = (
        Rule(
            "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must be at most 63 lower-case letters, digits and dashes, beginning with a letter"
            " and not"
            " ending with a dash: pods' host names are made of it",
            lambda _: True,
        ),
    )

    spec: TrainingJobSpec = Field(description="What to train, with what, on how many pods.")
    status: TrainingJobStatus | None = Field(
        None, description="What has become of it. Written by the operator."
    )
