"""TrainingJob: a training program, run on as many pods as it says, to its end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from capstan_operator.api.base import Model, Rule, Text
from capstan_operator.api.common import (
    ACCELERATOR_ONCE,
    TEMPLATE,
    Accelerator,
    ClaimURI,
    Duration,
    EnvFromSource,
    EnvVar,
    Line,
    Opaque,
    Resources,
)
from capstan_operator.api.sources import DATA_ONCE, DataSource
from capstan_operator.api.training_policies import FailurePolicy, SuccessPolicy
from capstan_operator.api.training_status import TrainingJobStatus

KIND = "TrainingJob"
PLURAL = "trainingjobs"
#: This operator, in managedBy.
MANAGER = "capstan.dev/operator"

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


#: Checkpoints that are kept when the spec does not say; the runner's own default.
KEPT = 3


class Checkpoint(Model):
    """Where the program saves its state, to go on from after a restart."""

    uri: ClaimURI = Field(
        description=(
            "A folder, as pvc://<claim>/<path>: a volume, because the program itself writes to it. The claim"
            " is mounted in every replica, and the program finds the"
            " folder's path in CAPSTAN_CHECKPOINT_DIR. It creates the folder, saves to it and resumes from"
            " it; the newest checkpoint that it has published there is in CAPSTAN_RESUME_FROM."
        )
    )
    keep: int = Field(
        KEPT,
        description="How many of the checkpoints that the program publishes are kept. The oldest go first.",
        ge=1,
        le=1000,
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
    """What to train, with what, on how many pods.

    Changing it while the job runs starts a new attempt, save for what is said to end none.
    """

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
    success_policy: SuccessPolicy | None = Field(
        None, description="When the job has succeeded. None: when all replicas have."
    )
    priority_class_name: (
        Annotated[
            str,
            Text(
                "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
                "must be the name of a PriorityClass: lower-case letters, digits, dashes and dots",
                253,
            ),
        ]
        | None
    ) = Field(
        None,
        description=(
            "The PriorityClass of the pods: which jobs' pods make room for which, and which are placed first."
        ),
    )
    failure_policy: FailurePolicy = Field(
        FailurePolicy(),
        description=(
            "How often the whole gang is restarted when a replica fails, by whose failure it is. Changing it"
            " ends no attempt."
        ),
    )
    suspend: bool = Field(
        False,
        description=(
            "Whether the job stands still. true: its pods get SIGTERM and checkpoint.gracePeriod to save, and"
            " are given up; nothing counts as a failure. false: the next attempt begins, with whatever else"
            " of the spec was changed meanwhile."
        ),
    )
    startup_deadline: Duration | None = Field(
        None,
        description=(
            "How long it may take until all replicas run, in each attempt; after that the job fails"
            " (StartupDeadlineExceeded). What a queue holds back is not counted. A duration such as 30m."
        ),
    )
    active_deadline: Duration | None = Field(
        None,
        description=(
            "How long the job may take in all, restarts included; after that it fails (DeadlineExceeded), as"
            " by a Job's activeDeadlineSeconds. The clock stands while the job is suspended or queued."
        ),
    )
    ttl_after_finished: Duration | None = Field(
        None,
        description=(
            "How long the job's children (pods with their logs, Job, Service, NetworkPolicy) stay when it has"
            " succeeded or failed. The TrainingJob and its status stay, and nothing is run again. None: until"
            " it is deleted."
        ),
    )
    managed_by: (
        Annotated[
            str,
            Text(
                "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?",
                "must be a path with a domain, such as example.com/controller",
                63,
            ),
        ]
        | None
    ) = Field(
        None,
        description=(
            f"Who acts on this job, as a Job's managedBy. None or {MANAGER}: this operator. Anybody else: it"
            " leaves the job and its status alone. Cannot be changed."
        ),
    )
    supervise: bool = Field(
        True,
        description=(
            "Whether the command runs under Capstan's runner: it passes signals on, keeps the last lines of"
            " output and"
            " reports how the command ended. The runner needs nothing of the image."
        ),
    )

    rules = (
        ACCELERATOR_ONCE,
        *DATA_ONCE,
        Rule(
            "!has(self.successPolicy) || self.successPolicy.replica < self.replicas",
            "successPolicy.replica counts from 0: it must be less than replicas",
            lambda self: self.success_policy is None or self.success_policy.replica < self.replicas,
        ),
        Rule(
            "!has(self.successPolicy) || !has(self.output) || self.successPolicy.replica == 0",
            "replica 0 writes the output, so with one successPolicy.replica must be 0",
            lambda self: (
                self.success_policy is None or self.output is None or self.success_policy.replica == 0
            ),
        ),
        Rule(
            "has(self.managedBy) == has(oldSelf.managedBy)"
            " && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)",
            "managedBy cannot be changed: delete the job and create it anew",
            lambda _: True,
        ),
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
