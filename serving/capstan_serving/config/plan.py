"""What a configuration means for the server: which versions, how many instances, and how requests wait."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from capstan_serving.errors import ModelLoadError
from capstan_serving.scheduling import QueuePolicy, Scheduling

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"

MAX_THREADS = 1024
"""Of a model: a clerical error, or a client's load request, must not take the server's memory."""

_CAPABILITY = re.compile(r"[0-9]+\.[0-9]+")

_AUTO, _GPU, _CPU, _MODEL = range(4)


@dataclass(frozen=True, slots=True)
class Instances:
    """How many threads execute a model, and on which GPUs; without one, on the processors."""

    workers: int
    gpus: tuple[int, ...] = ()


def check(config: Any, name: str, where: str) -> None:
    """Refuse a configuration that is for another model or another backend."""
    if config.name not in ("", name):
        raise ModelLoadError(
            f"{where}: name is {config.name!r}, the folder {name!r}; remove the name or rename one"
        )
    if config.platform not in ("", PLATFORM) or config.backend not in ("", BACKEND):
        asked = config.backend or config.platform
        raise ModelLoadError(
            f"{where}: {asked!r} is not supported; the one backend is {BACKEND} ({PLATFORM})"
        )
    config.name, config.platform, config.backend = name, PLATFORM, BACKEND


def versions(config: Any, present: Collection[int], where: str) -> list[int]:
    """The versions to serve, of those that are there, in order."""
    policy = config.version_policy
    if not policy.HasField("all") and not policy.HasField("specific") and not policy.latest.num_versions:
        policy.latest.num_versions = 1
    if policy.HasField("specific"):
        wanted = sorted(set(policy.specific.versions))
        if missing := [version for version in wanted if version not in present]:
            raise ModelLoadError(f"{where}: version_policy names version {missing[0]}, which is not there")
        if not wanted:
            raise ModelLoadError(f"{where}: version_policy is specific but names no version; name one")
        return wanted
    found = sorted(present)
    return found if policy.HasField("all") else found[-policy.latest.num_versions :]


def instances(config: Any, workers: int, gpus: Collection[int], where: str) -> Instances:
    """Where a model is executed, and by how many; `gpus` are those of this machine that can be used."""
    groups = list(config.instance_group)
    if not groups:
        groups = [config.instance_group.add(kind=_AUTO, count=workers)]
    total, used = 0, []
    kinds = set()
    for index, group in enumerate(groups):
        here = f"{where}: instance_group[{index}]"
        if group.kind == _MODEL:
            raise ModelLoadError(f"{here}: KIND_MODEL is not supported; use KIND_CPU, KIND_GPU or KIND_AUTO")
        if group.count < 0:
            raise ModelLoadError(f"{here}: count must not be negative")
        if group.kind == _AUTO:
            group.kind = _GPU if gpus else _CPU
        if group.kind == _CPU and len(group.gpus):
            raise ModelLoadError(f"{here}: KIND_CPU has no gpus; remove them or use KIND_GPU")
        group.name = group.name or f"{config.name}_{index}"
        kinds.add(group.kind)
        if group.kind == _GPU:
            if not len(group.gpus):
                group.gpus.extend(sorted(gpus))
            if not gpus or (missing := [gpu for gpu in group.gpus if gpu not in gpus]):
                asked = f"GPU {missing[0]}" if gpus else "KIND_GPU"
                have = f"there are {sorted(gpus)}" if gpus else "no GPU can be used here"
                raise ModelLoadError(f"{here}: {asked} is asked for, but {have}; use KIND_AUTO or KIND_CPU")
            used += [gpu for gpu in group.gpus if gpu not in used]
        group.count = group.count or (1 if group.kind == _GPU else workers)
        total += group.count * max(1, len(group.gpus))
    if total > MAX_THREADS:
        raise ModelLoadError(
            f"{where}: the instance groups add up to {total} threads; have {MAX_THREADS} at most"
        )
    if len(kinds) > 1:
        raise ModelLoadError(
            f"{where}: instance groups of both KIND_CPU and KIND_GPU are not supported; keep one"
        )
    return Instances(total, tuple(used))


def filename(config: Any, on_gpu: bool, capabilities: Collection[str], where: str) -> str:
    """The model's file in a version's folder: on a GPU that for its compute capability, if there is one.

    `capabilities` are those of all GPUs here: NVML and CUDA do not number them alike."""
    named: dict[str, str] = dict(config.cc_model_filenames)
    if strange := [key for key in named if not _CAPABILITY.fullmatch(key)]:
        raise ModelLoadError(
            f"{where}: cc_model_filenames names {strange[0]!r}; write a compute capability, such as 8.0"
        )
    name: str = config.default_model_filename
    if not named or not on_gpu:
        return name
    if len(capabilities) != 1:
        have = ", ".join(sorted(capabilities)) or "not known"
        raise ModelLoadError(
            f"{where}: cc_model_filenames needs GPUs of one compute capability, which is {have}; use "
            "default_model_filename"
        )
    (capability,) = capabilities
    return named.get(capability, name)


def scheduling(config: Any, where: str) -> Scheduling:
    """How requests wait and are put together."""
    objective = number(config, "latency_objective_microseconds", where)
    cache = config.response_cache.enable
    batched = config.max_batch_size > 0
    if not config.HasField("dynamic_batching"):
        if batched:
            config.dynamic_batching.SetInParent()
        return Scheduling(batching=batched, latency_objective_microseconds=objective, response_cache=cache)
    if not batched:
        raise ModelLoadError(f"{where}: dynamic_batching needs a max_batch_size above 0")
    dynamic = config.dynamic_batching
    preferred = tuple(sorted(set(dynamic.preferred_batch_size)))
    if any(not 0 < size <= config.max_batch_size for size in preferred):
        raise ModelLoadError(
            f"{where}: preferred_batch_size must be from 1 to max_batch_size, {config.max_batch_size}"
        )
    levels, default = dynamic.priority_levels, dynamic.default_priority_level
    if (levels and not 1 <= default <= levels) or (default and not levels):
        raise ModelLoadError(f"{where}: default_priority_level must be from 1 to priority_levels, {levels}")
    policies = {level: _policy(policy) for level, policy in dynamic.priority_queue_policy.items()}
    if any(not 1 <= level <= levels for level in policies):
        raise ModelLoadError(f"{where}: priority_queue_policy names a level beyond priority_levels, {levels}")
    late = [dynamic.default_queue_policy, *dynamic.priority_queue_policy.values()]
    if dynamic.preserve_ordering and (levels > 1 or cache or any(policy.timeout_action for policy in late)):
        raise ModelLoadError(
            f"{where}: preserve_ordering goes neither with priorities nor with the timeout_action DELAY nor"
            " with the response cache; turn one of them off"
        )
    return Scheduling(
        batching=True,
        preferred_batch_size=preferred,
        max_queue_delay_microseconds=dynamic.max_queue_delay_microseconds,
        preserve_ordering=dynamic.preserve_ordering,
        priority_levels=levels,
        default_priority_level=default,
        default_queue_policy=_policy(dynamic.default_queue_policy)
        if dynamic.HasField("default_queue_policy")
        else QueuePolicy(),
        priority_queue_policy=policies,
        latency_objective_microseconds=objective,
        response_cache=cache,
    )


def _policy(policy: Any) -> QueuePolicy:
    return QueuePolicy(
        timeout_action="DELAY" if policy.timeout_action else "REJECT",
        default_timeout_microseconds=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def number(config: Any, key: str, where: str, default: int = 0) -> int:
    """A parameter that is a whole number, not negative."""
    if key not in config.parameters:
        return default
    text = config.parameters[key].string_value
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ModelLoadError(f"{where}: the parameter {key} must be a whole number, not {text!r}")
    return int(text)
