"""When a TrainingJob has succeeded, and what becomes of it when something fails: budgets by class."""

from __future__ import annotations

from pydantic import Field

from capstan_operator.api.base import Model
from capstan_operator.api.common import Duration, EnvVar


class Budget(Model):
    """How often the gang is restarted after failures of one class."""

    max_restarts: int = Field(
        description=(
            "Restarts after such failures until the job fails. A checkpoint newer than the last failure's"
            " gives them back."
        ),
        ge=0,
        le=1000,
    )


class OutOfMemoryBudget(Budget):
    """How often the gang is restarted when a container has passed its memory limit, and how."""

    env: list[EnvVar] | None = Field(
        default=None,
        description=(
            "The remedy: environment variables of the program in all attempts after such a failure, over"
            " those of spec.env, such as a smaller batch with more steps of gradient accumulation."
        ),
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class HangBudget(Budget):
    """When a program is taken for hung, and how often the gang is restarted then."""

    timeout: Duration | None = Field(
        default=None,
        description=(
            "For how long the program may write nothing and report no progress, such as 30m: then its stacks"
            " are taken and it is ended. Longer than the longest silence of a sound run, its start included."
            " Holds from the next attempt on. Default: it is never ended for that."
        ),
    )


class SuccessPolicy(Model):
    """When the job has done what it is for."""

    replica: int = Field(
        description="The replica whose success is the job's. The others are then asked to end.", ge=0, le=999
    )


class FailurePolicy(Model):
    """A budget of restarts for each class of failure."""

    user: Budget = Field(
        default=Budget(max_restarts=0),
        description="The program's own failures, and those of the spec. Default: 0.",
    )
    out_of_memory: OutOfMemoryBudget = Field(
        default=OutOfMemoryBudget(max_restarts=0),
        description="A container passed its memory limit and was killed. Default: 0.",
    )
    infrastructure: Budget = Field(
        default=Budget(max_restarts=3),
        description=(
            "A node failed, or a pod was evicted, preempted, drained or deleted: not the program's fault."
            " Default: 3."
        ),
    )
    hang: HangBudget = Field(
        default=HangBudget(max_restarts=3),
        description="The program went on no more and was ended. Default: 3, and no timeout.",
    )
