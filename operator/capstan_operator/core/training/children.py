"""The children of one attempt of a TrainingJob: a headless Service and an Indexed Job."""

from __future__ import annotations

import math
from typing import Final

from capstan_operator.api.training_job import KEPT, TrainingJobSpec
from capstan_operator.core import (
    accelerators,
    claims,
    durations,
    fetch,
    get,
    labels,
    names,
    origin,
    pods,
    podtemplate,
)
from capstan_operator.core.frameworks import FRAMEWORKS
from capstan_operator.core.frameworks.shape import Shape, index_variable
from capstan_operator.core.model import Manifest, Settings
from capstan_operator.core.policies import nodes
from capstan_operator.core.policies.failure import OUT_OF_MEMORY
from capstan_operator.core.training import reporting

ROLE: Final = "worker"
#: The user's container, and the one before it that brings the runner.
TRAINER: Final = "trainer"
AGENT: Final = "capstan-agent"
#: Where worker processes of data loaders and NCCL share memory; the runtime's own is 64 MiB.
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  (a path in the pod, on a volume of its own)
#: Where the runner is, in both containers.
AGENT_FOLDER: Final = "/var/run/capstan/agent"
#: Where the runner serves metrics. CAPSTAN_METRICS_PORT in spec.env moves it; 0 there turns it off.
METRICS: Final = 8003
#: What replica 0 leaves in the output's folder.
MODEL_FILE: Final = "model.onnx"

#: Seconds a program has after SIGTERM when the spec names none, and what the runner needs beyond them.
_GRACE: Final = 60.0
_MARGIN: Final = 15

#: Fields that say nothing of pods that run: changing them ends no attempt.
_NOT_OF_PODS: Final = {
    "failure_policy",
    "suspend",
    "startup_deadline",
    "active_deadline",
    "ttl_after_finished",
}

#: What the Job API lets nobody change once a Job is made.
_IMMUTABLE: Final = (
    "template",
    "completions",
    "completionMode",
    "selector",
    "podFailurePolicy",
    "podReplacementPolicy",
    "successPolicy",
)


def asked(resource: Manifest, spec: TrainingJobSpec) -> origin.Origin:
    """What tells one spec from another: what the user wrote, so that no release of ours restarts jobs."""
    written = spec.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_OF_PODS)
    return origin.Origin(get.number(resource, "metadata", "generation"), names.digest(written))


def peers_service(resource: Manifest) -> Manifest:
    """The Service that gives replicas their host names, also before they are ready."""
    name = resource["metadata"]["name"]
    return pods.child(
        resource,
        "v1",
        "Service",
        names.peers(name),
        ROLE,
        {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels.selector(resource["kind"], name),
        },
    )


def job(
    resource: Manifest,
    spec: TrainingJobSpec,
    attempt: int,
    settings: Settings,
    live: Manifest | None = None,
) -> Manifest:
    """The Job of an attempt, or what the live one should be.

    Its pods fail it at once; whether there is another attempt is decided here.
    """
    name = names.job(resource["metadata"]["name"], ROLE, attempt)
    attempt_label = {labels.ATTEMPT: str(attempt)}
    return pods.child(
        resource,
        "batch/v1",
        "Job",
        name,
        ROLE,
        {
            "completionMode": "Indexed",
            "completions": spec.replicas,
            "parallelism": spec.replicas,
            "backoffLimit": 0,
            # A replacement beside a pod that is still ending would be a gang of old and new.
            "podReplacementPolicy": "Failed",
            # Any failure fails the Job. With the policy, its condition also says which pod it was and why,
            # which is all that is left when the pod is gone.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [0]}},
                ]
            },
            **_success(spec),
            "template": _template(resource, spec, name, attempt, settings),
        },
        attempt_label,
        {labels.MADE_FROM: asked(resource, spec).recorded(live)},
    )


def _success(spec: TrainingJobSpec) -> Manifest:
    if spec.success_policy is None:
        return {}
    return {"successPolicy": {"rules": [{"succeededIndexes": str(spec.success_policy.replica)}]}}


def kept(desired: Manifest, live: Manifest) -> Manifest:
    """The Job as desired, save for what a live Job's API will not let change."""
    found = get.mapping(live, "spec")
    fixed = {field: found[field] for field in _IMMUTABLE if field in found}
    return {**desired, "spec": {**desired["spec"], **fixed}}


def output_file(spec: TrainingJobSpec) -> str | None:
    """The address of the model a job leaves."""
    return f"{spec.output.uri.rstrip('/')}/{MODEL_FILE}" if spec.output else None


def supervised(spec: TrainingJobSpec) -> bool:
    """Whether the program runs under the runner: it must know the command to run."""
    return spec.supervise and spec.command is not None


def processes(spec: TrainingJobSpec) -> int:
    """Processes a replica runs."""
    if isinstance(spec.processes_per_replica, int):
        return spec.processes_per_replica
    return max(1, accelerators.count(spec.accelerator, spec.resources))


def _template(
    resource: Manifest, spec: TrainingJobSpec, job_name: str, attempt: int, settings: Settings
) -> Manifest:
    name, kind = resource["metadata"]["name"], resource["kind"]
    uris = [place.uri for place in (spec.checkpoint, spec.output) if place]
    data = spec.data or []
    volumes = [
        *claims.volumes(uris),
        *fetch.data_volumes(data, uris),
        pods.empty_dir("shm", medium="Memory"),
    ]
    pod: Manifest = {
        "restartPolicy": "Never",
        "subdomain": names.peers(name),
        "terminationGracePeriodSeconds": math.ceil(_grace(spec)) + _MARGIN,
        "containers": [_trainer(resource, spec, job_name, attempt, settings)],
        "volumes": volumes,
    }
    if spec.priority_class_name:
        pod["priorityClassName"] = spec.priority_class_name
    avoided = nodes.avoided(get.mapping(resource, "status"))
    affinity = nodes.avoiding(accelerators.affinity(spec.accelerator, spec.framework), avoided)
    if affinity:
        pod["affinity"] = affinity
    before = fetch.data_containers(data, settings)
    if supervised(spec):
        before = [_installer(settings), *before]
        volumes.append(pods.empty_dir(AGENT))
        if settings.reports:
            volumes += reporting.volumes()
    if before:
        pod["initContainers"] = before
    return pods.template(
        labels.standard(kind, name, ROLE) | {labels.ATTEMPT: str(attempt)},
        pod,
        spec.template,
        {"restartPolicy": "Never", "subdomain": pod["subdomain"]},
    )


def _trainer(
    resource: Manifest, spec: TrainingJobSpec, job_name: str, attempt: int, settings: Settings
) -> Manifest:
    name = resource["metadata"]["name"]
    shape = Shape(
        job=job_name,
        service=names.peers(name),
        namespace=resource["metadata"]["namespace"],
        replicas=spec.replicas,
        processes=processes(spec),
    )
    framework = FRAMEWORKS[spec.framework]
    uris = [place.uri for place in (spec.checkpoint, spec.output) if place]
    variables = [*_env(name, spec, attempt), *framework.env(shape)]
    container: Manifest = {
        "name": TRAINER,
        "image": spec.image,
        "env": variables,
        "securityContext": dict(pods.RESTRICTED),
        "volumeMounts": [
            *claims.mounts(uris),
            *fetch.data_mounts(spec.data or []),
            {"name": "shm", "mountPath": SHARED_MEMORY},
        ],
    }
    ports = [
        {"name": port, "containerPort": number, "protocol": "TCP"}
        for port, number in (
            framework.ports(shape) | ({"metrics": METRICS} if supervised(spec) else {})
        ).items()
    ]
    amounts = accelerators.amounts(spec.accelerator, spec.resources)
    container |= {
        key: value
        for key, value in {"ports": ports, "resources": amounts, "workingDir": spec.working_dir}.items()
        if value
    }
    container |= _command(spec)
    if supervised(spec):
        container["volumeMounts"].append({"name": AGENT, "mountPath": AGENT_FOLDER, "readOnly": True})
        if settings.reports:
            container["env"] = [*variables, *reporting.variables(settings.reports)]
            container["volumeMounts"] += reporting.mounts()
    user: Manifest = {}
    if spec.env:
        user["env"] = [variable.model_dump(exclude_none=True) for variable in spec.env]
    if spec.env_from:
        user["envFrom"] = [source.model_dump(exclude_none=True) for source in spec.env_from]
    remedy = spec.failure_policy.out_of_memory.env
    if remedy and get.number(resource, "status", "restarts", OUT_OF_MEMORY):
        after = {"env": [variable.model_dump(exclude_none=True) for variable in remedy]}
        return podtemplate.merged(podtemplate.merged(container, user), after)
    return podtemplate.merged(container, user)


def _env(name: str, spec: TrainingJobSpec, attempt: int) -> list[Manifest]:
    variables = {
        "CAPSTAN_JOB_NAME": name,
        "CAPSTAN_ATTEMPT": str(attempt),
        "CAPSTAN_REPLICAS": str(spec.replicas),
    }
    if supervised(spec):
        variables["CAPSTAN_METRICS_PORT"] = str(METRICS)
        if spec.failure_policy.hang.timeout:
            variables["CAPSTAN_HANG_TIMEOUT"] = spec.failure_policy.hang.timeout
    if spec.output:
        variables["CAPSTAN_OUTPUT_DIR"] = claims.place(spec.output.uri).folder
    if spec.checkpoint:
        variables["CAPSTAN_CHECKPOINT_DIR"] = claims.place(spec.checkpoint.uri).folder
        if spec.checkpoint.keep != KEPT:  # the runner's own default need not be told
            variables["CAPSTAN_CHECKPOINT_KEEP"] = str(spec.checkpoint.keep)
    variables |= fetch.data_env(spec.data or [])
    return [*pods.env(variables), index_variable("CAPSTAN_REPLICA_INDEX")]


def _command(spec: TrainingJobSpec) -> Manifest:
    command, arguments = spec.command or [], spec.args or []
    if not supervised(spec):
        return {key: list(words) for key, words in (("command", command), ("args", arguments)) if words}
    grace = spec.checkpoint.grace_period if spec.checkpoint else f"{_GRACE:.0f}s"
    runner = [f"{AGENT_FOLDER}/run", "--grace", grace]
    if spec.output:
        runner += ["--output-file", f"{claims.place(spec.output.uri).folder}/{MODEL_FILE}"]
    return {"command": [*runner, "--", *command, *arguments]}


def _installer(settings: Settings) -> Manifest:
    return {
        "name": AGENT,
        "image": settings.agent_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["capstan-agent", "install", AGENT_FOLDER],
        "securityContext": dict(pods.READ_ONLY),
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "volumeMounts": [{"name": AGENT, "mountPath": AGENT_FOLDER}],
    }


def _grace(spec: TrainingJobSpec) -> float:
    """The program's grace, in seconds."""
    return durations.seconds(spec.checkpoint.grace_period) if spec.checkpoint else _GRACE
