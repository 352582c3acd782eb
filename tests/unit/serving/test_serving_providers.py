"""Which providers a model is given, and their options. (None but the CPU's can be run here.)"""

from pathlib import Path

import onnxruntime
import pytest
from capstan_serving.backends import providers, tensorrt
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
        *((f"trt_profile_{part}_shapes", "x:8x4") for part in ("min", "opt", "max")),
        ("trt_timing_cache_enable", "True"),
    )
    assert asked(text)[0] == (
        "tensorrt",
        {
            "trt_fp16_enable": "1",
            "trt_max_workspace_size": "1073741824",
            "trt_profile_min_shapes": "x:8x4",
            "trt_profile_opt_shapes": "x:8x4",
            "trt_profile_max_shapes": "x:8x4",
            "trt_timing_cache_enable": "1",
        },
    )
    assert asked(accelerator("cuda", ("use_tf32", "0")))[0] == ("cuda", {"use_tf32": "0"})


def test_cuda_graphs_are_refused():
    why = "a captured graph reads the memory of its first execution"
    with pytest.raises(ModelLoadError, match=rf"optimization\.cuda\.graphs is not supported: {why}"):
        asked(accelerator("tensorrt", more="cuda { graphs: true }"))
    for name, key in (("tensorrt", "trt_cuda_graph_enable"), ("cuda", "enable_cuda_graph")):
        with pytest.raises(ModelLoadError, match=f"{key} is not supported: {why}"):
            asked(accelerator(name, (key, "1")))


INPUTS = """
max_batch_size: 16
input { name: "image" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }
input { name: "scale" data_type: TYPE_FP32 dims: 1 reshape { } }
"""


def profile(text):
    options = dict(asked(text))["tensorrt"]
    return [options.get(f"trt_profile_{part}_shapes") for part in ("min", "opt", "max")]


def test_an_engine_is_built_for_all_rows_that_a_batch_may_have():
    assert profile(INPUTS + accelerator("tensorrt")) == [
        "image:1x3x224x224,scale:1",
        "image:16x3x224x224,scale:16",
        "image:16x3x224x224,scale:16",
    ]
    preferred = "dynamic_batching { preferred_batch_size: [ 4, 8 ] }"
    assert profile(INPUTS + preferred + accelerator("tensorrt"))[1] == "image:8x3x224x224,scale:8"
    own = [(f"trt_profile_{part}_shapes", f"image:{rows}x3x8x8") for part, rows in PARTS.items()]
    assert profile(INPUTS + accelerator("tensorrt", *own)) == [shapes for _, shapes in own]
    assert asked(INPUTS, flag=("tensorrt",))[0] == ("tensorrt", {}), (
        "nobody said that this model is TensorRT's"
    )
    assert asked(INPUTS + accelerator("cuda"))[0] == ("cuda", {})


PARTS = {"min": 1, "opt": 2, "max": 4}


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 8 ",
        INPUTS.replace("16", "0"),
        INPUTS.replace("3,", "-1,"),
        INPUTS.replace("image", "image:0"),
        INPUTS.replace("image", "a,b"),
    ],
)
def test_shapes_that_do_not_follow_are_left_to_tensorrt(text):
    assert profile(text + accelerator("tensorrt")) == [None] * 3


def test_a_profile_is_all_three_shapes():
    two = [(f"trt_profile_{part}_shapes", "x:1x4") for part in ("min", "max")]
    with pytest.raises(
        ModelLoadError, match="trt_profile_min_shapes means nothing without trt_profile_opt_shapes"
    ):
        asked(accelerator("tensorrt", *two))


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
    cache = tmp_path / "cache"

    def kept(*choices):
        return tensorrt.cached(choices, cache, file)

    cuda = [(CUDA, {"device_id": "0"}), (CPU, {})]
    assert kept(cuda) == [cuda]
    assert not cache.exists()
    first, second = kept([(CUDA, {}), (TRT, {"trt_timing_cache_enable": "0"})], [(TRT, {}), (CPU, {})])
    folder = Path(second[0][1]["trt_engine_cache_path"])
    assert (folder.parent, folder.is_dir()) == (cache, True)
    assert second == [
        (
            TRT,
            {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(folder),
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": str(folder),
            },
        ),
        (CPU, {}),
    ]
    assert first == [(CUDA, {}), (TRT, second[0][1] | {"trt_timing_cache_enable": "0"})]
    weights.write_bytes(b"2")
    assert kept([(TRT, {})])[0][0][1]["trt_engine_cache_path"] != str(folder)


def test_a_cache_that_cannot_be_written_is_said_before_an_engine_is_built(tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(ModelLoadError, match="--engine-cache cannot be used"):
        tensorrt.cached([[(TRT, {})]], file, file)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ModelLoadError, match="cannot be written; correct its mode or name another"):
        tensorrt.cached([[(TRT, {})]], tmp_path / "cache", file)
