"""What NVIDIA's management library tells of the GPUs.

The library comes with the driver, its Python module with the `gpu` extra. Where either is missing there are
no such metrics. What a GPU does not tell (one that is divided by MIG tells no utilization) is left out.
"""

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

_log = logging.getLogger(__name__)

_METRICS: tuple[tuple[str, str, str, Callable[[Any, Any], float]], ...] = (
    (
        "nv_gpu_utilization",
        "GPU utilization, from 0.0 to 1.0",
        "gauge",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    (
        "nv_gpu_power_usage",
        "GPU power usage, in watts",
        "gauge",
        lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ),
    (
        "nv_gpu_power_limit",
        "GPU power limit, in watts",
        "gauge",
        lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000,
    ),
    (
        "nv_energy_consumption",
        "GPU energy since the driver was loaded, in joules",
        "counter",
        lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000,
    ),
    (
        "nv_gpu_memory_total_bytes",
        "GPU memory, in bytes",
        "gauge",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    (
        "nv_gpu_memory_used_bytes",
        "GPU memory in use, in bytes",
        "gauge",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
)
"""Triton's names, and how NVML tells them: in percent, milliwatts, millijoules and bytes."""

Sample = tuple[str, float]
"""A GPU's UUID, and a value."""


class Gpus:
    """The GPUs of this machine or container."""

    def __init__(self, nvml: Any) -> None:
        """`nvml` is the module `pynvml`, or one like it, initialized."""
        self._nvml = nvml
        self._gpus = []
        for index in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = nvml.nvmlDeviceGetUUID(gpu)
            self._gpus.append((uuid.decode() if isinstance(uuid, bytes) else uuid, gpu))

    def metrics(self) -> Iterator[tuple[str, str, str, list[Sample]]]:
        """Name, help, kind and samples of each that any GPU tells."""
        for name, help_text, kind, read in _METRICS:
            samples = [
                (uuid, value) for uuid, gpu in self._gpus if (value := self._value(read, gpu)) is not None
            ]
            if samples:
                yield name, help_text, kind, samples

    def capabilities(self) -> set[str]:
        """Their compute capabilities."""
        found = set()
        for _, gpu in self._gpus:
            try:
                major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(gpu)
            except self._nvml.NVMLError:
                return set()
            found.add(f"{major}.{minor}")
        return found

    def _value(self, read: Callable[[Any, Any], float], gpu: Any) -> float | None:
        try:
            return read(self._nvml, gpu)
        except self._nvml.NVMLError:
            return None


def find() -> Gpus | None:
    """The GPUs, if there are any that can be asked."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        _log.debug("no metrics of GPUs: %s", error)
        return None
    try:
        nvml.nvmlInit()
        return Gpus(nvml)
    except nvml.NVMLError as error:
        _log.debug("no metrics of GPUs: %s", error)
        return None
