"""What has become of a TrainingJob: its status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capstan_operator.api.base import Model
from capstan_operator.api.common import Conditions, Digest

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Step = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class ReplicaStatus(Model):
    """How many pods of a role there are."""

    desired: int = Field(description="Wanted.")
    ready: int = Field(description="Running.")
    succeeded: int = Field(description="Ended well.")
    failed: int = Field(description="Ended badly.")


class Failure(Model):
    """The first pod that failed, in the last attempt that did."""

    class_: Literal["user", "outOfMemory", "infrastructure", "hang"] = Field(
        alias="class",
        description=(
            "Whose it is: the program's or the spec's (user), too little memory (outOfMemory), a node's, an"
            " eviction's, a preemption's or a deletion's (infrastructure), or a program's that goes on no"
            " more (hang). Each class has its own budget of restarts in spec.failurePolicy."
        ),
    )
    attempt: int = Field(description="The attempt that failed.")
    job_uid: str | None = Field(None, alias="jobUID", description="The UID of that attempt's Job.")
    pod: str | None = Field(None, description="The pod's name.")
    pod_uid: str | None = Field(None, alias="podUID", description="The pod's UID.")
    node: str | None = Field(None, description="The node it was on.")
    container: str | None = Field(None, description="The container that failed.")
    exit_code: int | None = Field(None, description="Its exit code; 128 and more: ended by a signal.")
    reason: str = Field(description="Why, in one CamelCase word.")
    message: str = Field(description="Why, in a sentence, and what to do.")
    log: str | None = Field(None, description="The last lines it wrote.")
    checkpoint_step: Step | None = Field(
        None,
        description="The newest checkpoint's step by then. A newer one gives the budgets of restarts back.",
    )


class Restarts(Model):
    """Restarts by the class of failure that they followed."""

    user: int | None = Field(None, description="After the program's own failure.")
    out_of_memory: int | None = Field(None, description="After a container passed its memory limit.")
    infrastructure: int | None = Field(
        None, description="After a node's failure, an eviction, a preemption or a deletion."
    )
    hang: int | None = Field(None, description="After the program went on no more.")


class Progress(Model):
    """How far the program has come, as it has reported last."""

    step: Step = Field(description="The step it has done.")
    total_steps: Step | None = Field(None, description="How many there are to do.")
    percent: int | None = Field(None, ge=0, le=100, description="How much of it is done.")
    eta: Time | None = Field(None, description="When it will be done, if it goes on as fast.")
    metrics: dict[Annotated[str, Field(max_length=63)], float] | None = Field(
        None, description="What it measured last, such as {loss: 0.12}.", max_length=32
    )
    summary: str | None = Field(None, description="All of it in a few words, such as 1200/5000 24%.")
    time: Time = Field(description="When it was reported.")


class CheckpointStatus(Model):
    """The newest state that the program has saved, as it has reported."""

    step: Step = Field(description="The step it was saved after.")
    time: Time = Field(description="When it was saved.")
    uri: str | None = Field(None, description="Where it is, as pvc://<claim>/<path>.", max_length=1100)


class OutputStatus(Model):
    """The model the job has left."""

    uri: str = Field(description="The model's file, as pvc://<claim>/<path>/model.onnx.")
    digest: Digest | None = Field(None, description="Its digest, when the command was supervised.")


class TrainingJobStatus(Model):
    """What has become of the job."""

    phase: (
        Literal[
            "Queued",
            "Pending",
            "Initializing",
            "Running",
            "Restarting",
            "Suspended",
            "Succeeded",
            "Failed",
        ]
        | None
    ) = Field(
        None,
        description=(
            "Where the job is: Queued (held back by a scheduling gate or a queue), Pending (no room, no"
            " image: see conditions), Initializing, Running, Restarting (a new attempt begins), Suspended,"
            " Succeeded, Failed. The last two are final."
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
    restarts_count_towards_max: Restarts | None = Field(
        None,
        description=(
            "Those of them that count towards the maxRestarts of spec.failurePolicy: a failure after which a"
            " new checkpoint was saved does not."
        ),
    )
    replicas: dict[str, ReplicaStatus] | None = Field(
        None, description="How many pods there are, by role (worker)."
    )
    progress: Progress | None = Field(None, description="How far the program has come, as it reports itself.")
    checkpoint: CheckpointStatus | None = Field(
        None, description="The newest state the program has saved, as it reports itself."
    )
    failure: Failure | None = Field(
        None, description="The first pod that failed, in the last attempt that did."
    )
    failed_nodes: dict[Annotated[str, Field(max_length=253)], int] | None = Field(
        None,
        description=(
            "How many attempts have failed on each node by what may be the node's fault. One with two or more"
            " is avoided by the attempts that follow."
        ),
        max_length=16,
    )
    output: OutputStatus | None = Field(None, description="The model, once the job has succeeded.")
    start_time: Time | None = Field(None, description="When the job was first acted on.")
    starting_since: Time | None = Field(
        None, description="Since when replicas are missing, for startupDeadline. Absent while all run."
    )
    paused_since: Time | None = Field(
        None, description="Since when the job stands still: it is Suspended or Queued."
    )
    paused_seconds: int | None = Field(
        None,
        description="How long it stood still before; activeDeadline does not count that.",
        json_schema_extra={"format": "int64"},
    )
    completion_time: Time | None = Field(None, description="When it succeeded or failed.")
