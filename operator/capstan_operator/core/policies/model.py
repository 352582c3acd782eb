"""Which model an InferenceService serves: what its spec names, or what its TrainingJob has left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from capstan_operator.api.inference_service import ModelSource
from capstan_operator.core import get
from capstan_operator.core.model import Manifest
from capstan_operator.core.policies.finding import Finding

TRAINING_JOB_NOT_FOUND: Final = "TrainingJobNotFound"
TRAINING_JOB_NOT_FINISHED: Final = "TrainingJobNotFinished"
TRAINING_JOB_FAILED: Final = "TrainingJobFailed"
TRAINING_JOB_WITHOUT_OUTPUT: Final = "TrainingJobWithoutOutput"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is there to be fetched."""

    name: str
    version: str
    uri: str
    digest: str | None = None
    training_job: str | None = None

    def json(self) -> Manifest:
        """The status' `model`."""
        result = {"name": self.name, "version": self.version, "uri": self.uri}
        optional = {"digest": self.digest, "trainingJob": self.training_job}
        return result | {key: value for key, value in optional.items() if value}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The model, or None, and how that came about."""

    model: Model | None
    finding: Finding
    available: bool


def resolve(source: ModelSource, owner: str, references: tuple[Manifest, ...], last: Manifest) -> Resolved:
    """The model a spec names. `last` is the status' model: a job that is gone has left what it has left."""
    name = source.name or owner
    if source.uri is not None:
        model = Model(name, source.version, source.uri, source.digest)
        return Resolved(model, Finding("Named", f"The spec names {source.uri}."), available=True)
    job_name = source.from_training_job.name if source.from_training_job else ""
    job = next((r for r in references if get.name(r) == job_name and r.get("kind") == "TrainingJob"), None)
    output = get.mapping(job, "status", "output")
    if get.text(job, "status", "phase") == "Succeeded" and get.text(output, "uri"):
        model = Model(
            name,
            source.version,
            get.text(output, "uri"),
            source.digest or get.text(output, "digest") or None,
            job_name,
        )
        said = f"TrainingJob {job_name} has left {model.uri}."
        return Resolved(model, Finding("Trained", said), available=True)
    finding = _missing(job, job_name)
    if last.get("trainingJob") == job_name and get.text(last, "uri"):
        digest = source.digest or get.text(last, "digest") or None
        model = Model(name, source.version, get.text(last, "uri"), digest, job_name)
        told = Finding(finding.reason, f"{finding.message} What it left before is served on.")
        return Resolved(model, told, available=False)
    return Resolved(None, finding, available=False)


def _missing(job: Manifest | None, name: str) -> Finding:
    phase = get.text(job, "status", "phase")
    if job is None:
        return Finding(
            TRAINING_JOB_NOT_FOUND,
            f"There is no TrainingJob {name} in this namespace: create it, or correct"
            " spec.model.fromTrainingJob.name.",
        )
    if phase == "Failed":
        return Finding(
            TRAINING_JOB_FAILED,
            f"TrainingJob {name} failed and left no model: see its status.failure, correct it, and create it"
            " anew.",
        )
    if phase == "Succeeded" or not get.mapping(job, "spec", "output"):
        return Finding(
            TRAINING_JOB_WITHOUT_OUTPUT,
            f"TrainingJob {name} has no spec.output, so it leaves no model: create it anew with one, or name"
            " the model by"
            " spec.model.uri.",
        )
    return Finding(
        TRAINING_JOB_NOT_FINISHED, f"TrainingJob {name} is {phase or 'Pending'}: its model is waited for."
    )
