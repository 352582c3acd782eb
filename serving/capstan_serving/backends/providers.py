"""Which of ONNX Runtime's execution providers a model is given, and their options.

What the installed ONNX Runtime has is an argument. No option that names a file is taken from a configuration.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from capstan_serving.backends import tensorrt
from capstan_serving.backends.tensorrt import Options
from capstan_serving.config.refusals import CUDA_GRAPHS
from capstan_serving.errors import ModelLoadError

PROVIDERS = {
    "tensorrt": tensorrt.PROVIDER,
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""By the names of configurations and of the command line."""

GPU = ("tensorrt", "cuda")

_BOOLEANS = {"0": "0", "1": "1", "false": "0", "true": "1"}

# The options of each provider: `0` is a switch, `n` a number, `s` a string. Triton's names of some are below.
_OPTIONS = {
    "tensorrt": {
        "trt_max_workspace_size": "n",
        "trt_max_partition_iterations": "n",
        "trt_min_subgraph_size": "n",
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_int8_use_native_calibration_table": "0",
        "trt_dla_enable": "0",
        "trt_dla_core": "n",
        "trt_engine_cache_enable": "0",
        "trt_engine_cache_prefix": "s",
        "trt_force_sequential_engine_build": "0",
        "trt_context_memory_sharing_enable": "0",
        "trt_layer_norm_fp32_fallback": "0",
        "trt_timing_cache_enable": "0",
        "trt_force_timing_cache": "0",
        "trt_detailed_build_log": "0",
        "trt_build_heuristics_enable": "0",
        "trt_sparsity_enable": "0",
        "trt_builder_optimization_level": "n",
        "trt_auxiliary_streams": "n",
        "trt_tactic_sources": "s",
        "trt_profile_min_shapes": "s",
        "trt_profile_max_shapes": "s",
        "trt_profile_opt_shapes": "s",
    },
    "cuda": {
        "gpu_mem_limit": "n",
        "arena_extend_strategy": "s",
        "cudnn_conv_algo_search": "s",
        "cudnn_conv_use_max_workspace": "0",
        "cudnn_conv1d_pad_to_nc1d": "0",
        "do_copy_in_default_stream": "0",
        "use_ep_level_unified_stream": "0",
        "use_tf32": "0",
        "prefer_nhwc": "0",
        "fuse_conv_bias": "0",
        "tunable_op_enable": "0",
        "tunable_op_tuning_enable": "0",
        "enable_skip_layer_norm_strict_mode": "0",
    },
    "openvino": {
        "device_type": "s",
        "precision": "s",
        "num_of_threads": "n",
        "num_streams": "n",
        "model_priority": "s",
        "enable_opencl_throttling": "0",
        "disable_dynamic_shapes": "0",
    },
    "cpu": {},
}
_TRITON_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS: Mapping[str, Options] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}


_GRAPHS = ("trt_cuda_graph_enable", "enable_cuda_graph")


def asked(config: Any, flag: Sequence[str], where: str) -> list[tuple[str, Options]]:
    """Providers and their options in the order of choice: the configuration's, else the command line's."""
    chosen: list[tuple[str, Options]] = []
    accelerators = config.optimization.execution_accelerators
    for field, names in (("gpu_execution_accelerator", GPU), ("cpu_execution_accelerator", ("openvino",))):
        for accelerator in getattr(accelerators, field):
            name = accelerator.name
            if name not in names:
                raise ModelLoadError(
                    f"{where}: {field} {name!r} is not supported; supported are {', '.join(names)}"
                )
            if any(name == other for other, _ in chosen):
                raise ModelLoadError(f"{where}: {field} {name!r} is there twice; remove one")
            here = f"{where}: {name}"
            options = _options(name, dict(accelerator.parameters), here)
            if name == "tensorrt":
                options |= tensorrt.profiles(config, options, here)
            chosen.append((name, options))
    chosen = chosen or [(name, {}) for name in flag]
    if all(name != "cpu" for name, _ in chosen):
        chosen.append(("cpu", {}))
    return chosen


def _options(provider: str, parameters: Mapping[str, str], where: str) -> Options:
    options: Options = {}
    for key, value in parameters.items():
        if provider == "tensorrt" and key == "precision_mode":
            if value not in _PRECISIONS:
                raise ModelLoadError(f"{where}: precision_mode must be FP32, FP16 or INT8, not {value!r}")
            options |= _PRECISIONS[value]
            continue
        name = _TRITON_NAMES.get(key, key) if provider == "tensorrt" else key
        kind = _OPTIONS[provider].get(name)
        if name in _GRAPHS:
            raise ModelLoadError(f"{where}: {key} is not supported: {CUDA_GRAPHS}; remove it")
        if kind is None:
            paths = " (files and folders are not taken from a configuration; see --engine-cache)"
            hint = paths if "path" in name or "cache" in name or "table" in name else ""
            raise ModelLoadError(f"{where}: the parameter {key!r} is not supported{hint}; remove it")
        if kind == "0":
            if value.lower() not in _BOOLEANS:
                raise ModelLoadError(f"{where}: {key} must be 1, true, 0 or false, not {value!r}")
        elif kind == "n" and not value.removeprefix("-").isdecimal():
            raise ModelLoadError(f"{where}: {key} must be a whole number, not {value!r}")
        options[name] = _BOOLEANS[value.lower()] if kind == "0" else value
    return options


def usable(
    wanted: Sequence[tuple[str, Options]], available: Collection[str], gpu: int | None
) -> list[tuple[str, Options]]:
    """Those of the wanted that are installed and have their device, by ONNX Runtime's names."""
    chosen = []
    for name, options in wanted:
        if PROVIDERS[name] not in available or (name in GPU and gpu is None):
            continue
        device = {"device_id": str(gpu)} if name in GPU else {}
        chosen.append((PROVIDERS[name], options | device))
    return chosen


def gpus() -> tuple[int, ...]:
    """The NVIDIA GPUs that this machine or container has."""
    devices = (re.fullmatch(r"nvidia\d+", path.name) for path in Path("/dev").iterdir())
    return tuple(range(sum(bool(device) for device in devices)))
