"""Metrics of GPUs, of a driver that is made up: the tests have no GPU."""

import logging
import sys
from types import SimpleNamespace

import pytest
from capstan_serving import metrics, nvml


class NVMLError(Exception):
    pass


def driver(broken=False):
    """NVML as `pynvml` has it, with two GPUs, of which the second tells only its memory."""

    def init():
        if broken:
            raise NVMLError("Driver Not Loaded")

    def of_the_first(value):
        def read(gpu):
            if gpu == 1:
                raise NVMLError("Not Supported")
            return value

        return read

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=int,
        nvmlDeviceGetUUID=["GPU-a", b"GPU-b"].__getitem__,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=100 + gpu, used=7 + gpu),
        nvmlDeviceGetUtilizationRates=of_the_first(SimpleNamespace(gpu=42)),
        nvmlDeviceGetCudaComputeCapability=of_the_first([8, 9]),
        nvmlDeviceGetPowerUsage=of_the_first(61_500),
        nvmlDeviceGetPowerManagementLimit=of_the_first(700_000),
        nvmlDeviceGetTotalEnergyConsumption=of_the_first(1_234_567),
    )


def page(gpus):
    lines = metrics.exposition([], [], gpus=gpus).decode().splitlines()
    return [line for line in lines if line.startswith(("nv_gpu", "nv_energy"))]


def test_what_a_gpu_tells_is_shown_in_tritons_units(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    gpus = nvml.find()
    assert page(gpus) == [
        'nv_gpu_utilization{gpu_uuid="GPU-a"} 0.42',
        'nv_gpu_power_usage{gpu_uuid="GPU-a"} 61.5',
        'nv_gpu_power_limit{gpu_uuid="GPU-a"} 700.0',
        'nv_energy_consumption{gpu_uuid="GPU-a"} 1234.567',
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 100',
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 101',
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 7',
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 8',
    ]
    assert b"# TYPE nv_energy_consumption counter" in metrics.exposition([], [], gpus=gpus)


@pytest.mark.parametrize("module", [None, driver(broken=True)])
def test_without_a_driver_there_are_no_such_metrics_and_one_line_for_who_looks(monkeypatch, caplog, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with caplog.at_level(logging.DEBUG, "capstan_serving"):
        assert nvml.find() is None
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "no metrics of GPUs" in record.getMessage()
    assert page(None) == []


def test_what_gpus_can_compute():
    one, both = driver(), driver()
    one.nvmlDeviceGetCount = lambda: 1
    assert nvml.Gpus(one).capabilities() == {"8.9"}
    assert nvml.Gpus(both).capabilities() == set()  # the second does not tell
    both.nvmlDeviceGetCudaComputeCapability = lambda gpu: [9, gpu]
    assert nvml.Gpus(both).capabilities() == {"9.0", "9.1"}
