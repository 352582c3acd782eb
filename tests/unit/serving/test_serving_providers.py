"""Which providers a model is given, and their options. (None but the CPU's can be run here.)"""

from pathlib import Path

import onnxruntime
import pytest
from capstan_serving.backends import providers
from capstan_serving.config import document
from capstan_serving.errors import ModelLoadError

TRT, CUDA, OPENVINO, CPU = providers.PROVIDERS.values()


def asked(text="", flag=("cuda", "cpu")):
    return providers.asked(document.from_text(text.encode(), Path("config.pbtxt")), flag, "m")


def accelerator(name, *parameters, where="gpu_execution_accelerator", more=""):
    written = "".join(f"parameters {{ key: '{key}' value: '{value}' }} " for key, value in parameters)
    return (
        f"optimization {{ execution_accelerators {{ {where} [ {{ name: '{name}' {written} }} ] }} {more} }}"
    )


def test_the_names_are_onnx_runtimes():
    assert set(providers.PROVIDERS.values()) <= set(onnxruntime.get_all_providers())


def test_the_configuration_is_asked_before_the_command_line():
    assert asked() == [("cuda", {}), ("cpu", {})]
    assert asked(flag=("tensorrt",)) == [("tensorrt", {}), ("cpu", {})]
    assert asked(accelerator("tensorrt"), flag=("cpu",)) == [("tensorrt", {}), ("cpu", {})]
    assert asked(accelerator("openvino", where="cpu_execution_accelerator")) == [
        ("openvino", {}),
        ("cpu", {}),
    ]


def test_parameters_have_tritons_names_or_onnx_runtimes():
    text = accelerator(
        "tensorrt",
        ("precision_mode", "FP16"),
        ("max_workspace_size_bytes", "1073741824"),
        ("trt_profile_max_shapes", "x:8x4"),
        ("trt_timing_cache_enable", "True"),
    )
    assert asked(text)[0] == (
        "tensorrt",
        {
            "trt_fp16_enable": "1",
            "trt_max_workspace_size": "1073741824",
            "trt_profile_max_shapes": "x:8x4",
            "trt_timing_cache_enable": "1",
        },
    )
    assert asked(accelerator("cuda", ("use_tf32", "0")))[0] == ("cuda", {"use_tf32": "0"})


def test_cuda_graphs_are_tensorrts():
    graphs = "cuda { graphs: true }"
    assert asked(accelerator("tensorrt", more=graphs))[0][1] == {"trt_cuda_graph_enable": "1"}
    with pytest.raises(ModelLoadError, match=r"cuda\.graphs needs the tensorrt accelerator"):
        asked(accelerator("cuda", more=graphs))


def test_an_accelerator_is_there_once():
    twice = accelerator("cuda").replace("[ {", "[ { name: 'cuda' }, {")
    with pytest.raises(ModelLoadError, match="gpu_execution_accelerator 'cuda' is there twice; remove one"):
        asked(twice)


@pytest.mark.parametrize(
    ("name", "parameter", "said"),
    [
        ("auto_mixed_precision", (), "'auto_mixed_precision' is not supported; supported are tensorrt, cuda"),
        ("tensorrt", ("precision_mode", "FP8"), "must be FP32, FP16 or INT8"),
        ("tensorrt", ("trt_engine_cache_path", "/tmp"), "see --engine-cache"),
        ("tensorrt", ("trt_extra_plugin_lib_paths", "x.so"), "files and folders are not taken"),
        ("tensorrt", ("int8_calibration_table_name", "t"), "files and folders are not taken"),
        ("tensorrt", ("max_workspace_size_bytes", "1G"), "must be a whole number, not '1G'"),
        ("cuda", ("use_tf32", "maybe"), "must be 1, true, 0 or false"),
        ("cuda", ("device_id", "1"), "'device_id' is not supported"),
        ("cuda", ("trt_fp16_enable", "1"), "'trt_fp16_enable' is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name, parameter, said):
    with pytest.raises(ModelLoadError) as caught:
        asked(accelerator(name, *([parameter] if parameter else [])))
    assert said in str(caught.value)


def test_only_what_is_installed_and_has_its_device_is_used():
    wanted = [("tensorrt", {"trt_fp16_enable": "1"}), ("cuda", {}), ("openvino", {}), ("cpu", {})]
    everything = [TRT, CUDA, OPENVINO, CPU]
    assert providers.usable(wanted, everything, 1) == [
        (TRT, {"trt_fp16_enable": "1", "device_id": "1"}),
        (CUDA, {"device_id": "1"}),
        (OPENVINO, {}),
        (CPU, {}),
    ]
    assert providers.usable(wanted, everything, None) == [(OPENVINO, {}), (CPU, {})]
    assert providers.usable(wanted, [CPU], 0) == [(CPU, {})]


def test_engines_are_kept_by_what_the_model_is(tmp_path):
    file = tmp_path / "1" / "model.onnx"
    file.parent.mkdir()
    file.write_bytes(b"graph")
    weights = file.with_name("weights")
    weights.write_bytes(b"1")
    before = providers.cache_folder(tmp_path / "cache", file)
    assert before.parent == tmp_path / "cache"
    weights.write_bytes(b"2")
    assert providers.cache_folder(tmp_path / "cache", file) != before
    assert providers.cache_options(before)["trt_engine_cache_path"] == str(before)
