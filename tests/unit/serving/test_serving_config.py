"""What `config.pbtxt` says, and what is refused. (The models themselves are the contract tests' part.)"""

from pathlib import Path

import numpy as np
import pytest
from capstan_serving.backends import options
from capstan_serving.config import document, plan, tensors, warmup
from capstan_serving.config.schema import ModelConfig
from capstan_serving.errors import ModelLoadError
from capstan_serving.scheduling import QueuePolicy, Scheduling
from capstan_serving.signature import Signature, TensorSpec

FILE = Path("models/m/config.pbtxt")

MODEL = Signature(
    inputs=(TensorSpec("x", "FP32", (-1, 4)),), outputs=(TensorSpec("y", "INT64", (-1,)),), max_batch=8
)


def config(text):
    return document.from_text(text.encode(), FILE)


def resolve(text, model=MODEL):
    return tensors.resolve(config(text), model, "m")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "m"\nmax_batchsize: 4', "line 2, column 1: "),
        ('name: "m"\nmax_batchsize: 4', "max_batchsize"),
        ('input { name: "x"\n  data_type: TYPE_FLOAT }', "line 2, column 14"),
        ("max_batch_size: many", "line 1, column 17"),
        ("input {", "line 1"),
        (
            "sequence_batching { direct { } }",
            "sequence_batching is not supported: every request stands alone",
        ),
        ("ensemble_scheduling { step [ { } ] }", "ensemble_scheduling is not supported"),
        ("input [ {}, { optional: true } ]", "input[1].optional is not supported: every input is needed"),
        (
            "instance_group { rate_limiter { priority: 1 } }",
            "instance_group[0].rate_limiter is not supported",
        ),
        (
            "optimization { input_pinned_memory { enable: true } }",
            "optimization.input_pinned_memory.enable is not supported",
        ),
        ("model_transaction_policy { decoupled: true }", "decoupled is not supported: an ONNX model answers"),
        (
            "metric_tags { key: 'a' value: 'b' } batch_input {}",
            "metric_tags is not supported: metrics are labelled by model and version only",
        ),
        ("metric_tags { key: 'a' value: 'b' } batch_input {}", "batch_input is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_place(text, said):
    with pytest.raises(ModelLoadError, match=str(FILE)) as caught:
        config(text)
    assert said in str(caught.value)


def test_defaults_of_what_is_not_supported_are_as_good_as_none():
    config("model_transaction_policy {} optimization { output_pinned_memory { enable: false } priority: 0 }")


def test_a_load_request_has_the_configuration_as_json():
    read = document.from_json('{"max_batch_size": 4, "input": [{"name": "x", "dims": ["3", 4]}]}', "m")
    assert (read.max_batch_size, list(read.input[0].dims)) == (4, [3, 4])
    for text in (
        "",
        "[]",
        "{",
        '{"max_batch": 4}',
        '{"input": {}}',
        '{"metric_tags": {"a": "b"}}',
        "[" * 5000,
    ):
        with pytest.raises(ModelLoadError, match="request for model 'm'"):
            document.from_json(text, "m")


def test_the_json_has_numbers_for_numbers():
    read = config(
        "max_batch_size: 4 input { dims: [ 3, -1 ] } dynamic_batching { max_queue_delay_microseconds: 7 "
        "priority_levels: 2 priority_queue_policy { key: 2 value { default_timeout_microseconds: 9 } } } "
        "parameters { key: 'k' value { string_value: '5' } }"
    )
    shown = document.to_dict(read)
    assert shown["max_batch_size"] == 4
    assert shown["input"][0]["dims"] == [3, -1]
    assert shown["dynamic_batching"]["max_queue_delay_microseconds"] == 7
    assert shown["dynamic_batching"]["priority_queue_policy"]["2"]["default_timeout_microseconds"] == 9
    assert shown["parameters"] == {"k": {"string_value": "5"}}
    assert shown["response_cache" if "response_cache" in shown else "platform"] == ""


def test_the_configuration_is_for_this_model():
    read = config("")
    plan.check(read, "m", "m")
    assert (read.name, read.platform, read.backend) == ("m", "onnxruntime_onnx", "onnxruntime")
    for text, said in (
        ('name: "other"', "name is 'other'"),
        ('platform: "tensorrt_plan"', "'tensorrt_plan' is not supported"),
        ('backend: "python"', "'python' is not supported"),
    ):
        with pytest.raises(ModelLoadError, match=said):
            plan.check(config(text), "m", "m")


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [9]),
        ("version_policy { latest { num_versions: 2 } }", [3, 9]),
        ("version_policy { latest { num_versions: 9 } }", [1, 3, 9]),
        ("version_policy { all {} }", [1, 3, 9]),
        ("version_policy { specific { versions: [ 3, 1, 3 ] } }", [1, 3]),
    ],
)
def test_the_version_policy_chooses(policy, served):
    assert plan.versions(config(policy), [1, 3, 9], "m") == served


@pytest.mark.parametrize("policy", ["versions: 2", ""])
def test_specific_versions_must_be_there(policy):
    with pytest.raises(ModelLoadError, match="version_policy"):
        plan.versions(config(f"version_policy {{ specific {{ {policy} }} }}"), [1], "m")


@pytest.mark.parametrize(
    ("groups", "gpus", "instances"),
    [
        ("", (), plan.Instances(2)),
        ("", (0, 1), plan.Instances(4, (0, 1))),
        ("instance_group { count: 5 }", (), plan.Instances(5)),
        ("instance_group { kind: KIND_CPU }", (0,), plan.Instances(2)),
        ("instance_group { kind: KIND_GPU }", (0, 1), plan.Instances(2, (0, 1))),
        ("instance_group { kind: KIND_GPU count: 3 gpus: 1 }", (0, 1), plan.Instances(3, (1,))),
        ("instance_group [ { count: 1 kind: KIND_CPU }, { count: 2 } ]", (), plan.Instances(3)),
    ],
)
def test_instance_groups(groups, gpus, instances):
    assert plan.instances(config(groups), 2, gpus, "m") == instances


@pytest.mark.parametrize(
    ("group", "gpus", "said"),
    [
        ("kind: KIND_GPU", (), "no GPU can be used here"),
        ("kind: KIND_GPU gpus: 3", (0,), "GPU 3 is asked for"),
        ("kind: KIND_CPU gpus: 0", (0,), "KIND_CPU has no gpus"),
        ("kind: KIND_MODEL", (), "KIND_MODEL is not supported"),
        ("count: -1", (), "must not be negative"),
        ("kind: KIND_CPU } instance_group { kind: KIND_GPU", (0,), "both KIND_CPU and KIND_GPU"),
    ],
)
def test_instance_groups_that_cannot_be(group, gpus, said):
    with pytest.raises(ModelLoadError, match=said):
        plan.instances(config(f"instance_group {{ {group} }}"), 2, gpus, "m")


@pytest.mark.parametrize(
    ("on_gpu", "capabilities", "file"),
    [
        (False, (), "other.onnx"),
        (False, ("8.0",), "other.onnx"),
        (True, ("8.0",), "ampere.onnx"),
        (True, ("9.0",), "other.onnx"),
    ],
)
def test_the_file_is_chosen_by_what_the_gpus_can_compute(on_gpu, capabilities, file):
    text = "default_model_filename: 'other.onnx' cc_model_filenames { key: '8.0' value: 'ampere.onnx' }"
    assert plan.filename(config(text), on_gpu, capabilities, "m") == file


@pytest.mark.parametrize(
    ("key", "capabilities", "said"),
    [
        ("8.0", (), "which is not known; use default_model_filename"),
        ("8.0", ("8.0", "9.0"), "which is 8.0, 9.0; use"),
        ("sm_80", ("8.0",), "names 'sm_80'; write a compute capability, such as 8.0"),
    ],
)
def test_a_file_that_cannot_be_chosen(key, capabilities, said):
    with pytest.raises(ModelLoadError, match=said):
        plan.filename(config(f"cc_model_filenames {{ key: '{key}' value: 'x' }}"), True, capabilities, "m")


def test_dynamic_batching_becomes_a_scheduling():
    read = config(
        "max_batch_size: 8 response_cache { enable: true } dynamic_batching { preferred_batch_size: [ 4, 2 ] "
        "max_queue_delay_microseconds: 100 priority_levels: 2 "
        "default_priority_level: 2 "
        "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 max_queue_size: 3 } "
        "priority_queue_policy { key: 1 value { allow_timeout_override: true } } } "
        "parameters { key: 'latency_objective_microseconds' value { string_value: '20000' } }"
    )
    assert plan.scheduling(read, "m") == Scheduling(
        preferred_batch_size=(2, 4),
        max_queue_delay_microseconds=100,
        priority_levels=2,
        default_priority_level=2,
        default_queue_policy=QueuePolicy("DELAY", 5, False, 3),
        priority_queue_policy={1: QueuePolicy("REJECT", 0, True, 0)},
        latency_objective_microseconds=20000,
        response_cache=True,
    )


def test_an_order_is_preserved():
    read = config("max_batch_size: 8 dynamic_batching { preserve_ordering: true }")
    assert plan.scheduling(read, "m") == Scheduling(preserve_ordering=True)


def test_a_model_without_a_scheduler_batches_when_it_can():
    read = config("max_batch_size: 8")
    assert plan.scheduling(read, "m") == Scheduling()
    assert read.HasField("dynamic_batching")
    assert plan.scheduling(config(""), "m") == Scheduling(batching=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dynamic_batching {}", "needs a max_batch_size above 0"),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }", "from 1 to max_batch_size, 4"),
        (
            "max_batch_size: 4 dynamic_batching { priority_levels: 2 }",
            "default_priority_level must be from 1",
        ),
        (
            "max_batch_size: 4 dynamic_batching { default_priority_level: 2 }",
            "default_priority_level must be",
        ),
        (
            "max_batch_size: 4 dynamic_batching { priority_queue_policy { key: 2 value {} } }",
            "names a level beyond",
        ),
        *(
            (
                f"max_batch_size: 4 dynamic_batching {{ preserve_ordering: true {wrong} }} {beside}",
                "preserve_ordering goes neither with",
            )
            for wrong, beside in (
                ("priority_levels: 2 default_priority_level: 1", ""),
                ("default_queue_policy { timeout_action: DELAY }", ""),
                ("", "response_cache { enable: true }"),
            )
        ),
        (
            "parameters { key: 'latency_objective_microseconds' value { string_value: 'x' } }",
            "a whole number",
        ),
    ],
)
def test_schedulings_that_cannot_be(text, said):
    with pytest.raises(ModelLoadError, match=said):
        plan.scheduling(config(text), "m")


def test_without_tensors_the_configuration_is_the_models():
    read = config("")
    resolved = tensors.resolve(read, MODEL, "m")
    assert resolved.signature == MODEL
    shown = document.to_dict(read)
    assert shown["max_batch_size"] == 8
    assert (shown["input"][0]["dims"], shown["input"][0]["data_type"]) == ([4], "TYPE_FP32")
    assert (shown["output"][0]["dims"], shown["output"][0]["data_type"]) == ([], "TYPE_INT64")


def test_dims_leave_the_batch_dimension_out_only_with_a_max_batch_size():
    with_batch = resolve('max_batch_size: 3 input { name: "x" data_type: TYPE_FP32 dims: 4 }').signature
    assert (with_batch.inputs[0].shape, with_batch.max_batch, with_batch.limited) == ((-1, 4), 3, True)
    without = resolve('input { name: "x" data_type: TYPE_FP32 dims: [ 2, 4 ] }').signature
    assert (without.inputs[0].shape, without.max_batch) == ((2, 4), None)
    assert resolve("max_batch_size: 0").signature.max_batch is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batch_size: -1", "max_batch_size must not be negative"),
        (
            'input { name: "z" data_type: TYPE_FP32 dims: [ -1, 4 ] }',
            "the model has no input 'z'; its inputs are 'x'",
        ),
        (
            'input { name: "x" data_type: TYPE_INT32 dims: [ -1, 4 ] }',
            "has data_type TYPE_INT32, the model has",
        ),
        ('input { name: "x" dims: [ -1, 4 ] }', "has data_type TYPE_INVALID"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [ -1, 5 ] }', "is [-1, 5], the model has [-1, 4]"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] }', "is [-1, -1], the model has [-1, 4]"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 4 }', "is [4], the model has [-1, 4]"),
        ('input { name: "x" data_type: TYPE_FP32 }', "has no dims; add the model's, [-1, 4]"),
        ('input { name: "x" data_type: TYPE_FP32 dims: [ 0, 4 ] }', "each must be above 0"),
        (
            'max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }',
            "is [-1, -1, 4] (max_batch_size above 0 adds a first dimension of -1)",
        ),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] format: FORMAT_NCHW }',
            "has a format, which needs three dims",
        ),
        (
            'max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: 5 reshape { shape: 4 } }',
            "cannot be reshaped from [5] to [4]",
        ),
        ('output { name: "y" data_type: TYPE_INT64 dims: -1 } ' * 2, "an output is there twice"),
    ],
)
def test_tensors_are_held_against_the_models(text, said):
    with pytest.raises(ModelLoadError) as caught:
        resolve(text)
    assert said in str(caught.value)


def test_every_input_is_needed_and_outputs_may_be_left_out():
    model = Signature((*MODEL.inputs, TensorSpec("z", "FP32", (-1,))), (*MODEL.outputs, *MODEL.inputs))
    with pytest.raises(ModelLoadError, match="input 'z' is missing"):
        resolve('input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }', model)
    kept = resolve('output { name: "y" data_type: TYPE_INT64 dims: -1 }', model).signature
    assert [spec.name for spec in kept.outputs] == ["y"]


def test_reshapes_keep_rows_and_carry_open_sizes_over():
    resolved = resolve(
        'max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: 4 } }'
    )
    assert resolved.signature.inputs[0].shape == (-1, 2, 2)
    given = resolved.inputs["x"].to_model(np.arange(12).reshape(3, 2, 2))
    assert given.shape == (3, 4)
    assert resolved.inputs["x"].from_model(given).shape == (3, 2, 2)
    open_sizes = tensors.Reshape((-1, 1, -1), (-1, -1), batched=False)
    assert open_sizes.to_model(np.zeros((3, 1, 5))).shape == (3, 5)
    assert open_sizes.from_model(np.zeros((3, 5))).shape == (3, 1, 5)


def test_parameters_become_session_options():
    def parameter(key, value):
        return f"parameters {{ key: '{key}' value {{ string_value: '{value}' }} }} "

    read = options.read(
        config(
            parameter("intra_op_thread_count", 3)
            + parameter("execution_mode", 1)
            + parameter("enable_mem_arena", 0)
            + parameter("session.intra_op.allow_spinning", 1)
            + parameter("memory.enable_memory_arena_shrinkage", "cpu:0")
            + "optimization { graph { level: -1 } }"
        ),
        "m",
    )
    assert (read.intra_op_threads, read.inter_op_threads, read.parallel) == (3, 1, True)
    assert (read.mem_arena, read.mem_pattern, read.shrink) == (False, True, "cpu:0")
    assert read.graph_level == "BASIC"
    assert read.entries == {"session.intra_op.allow_spinning": "1", "session.inter_op.allow_spinning": "0"}
    assert options.read(config(""), "m") == options.DEFAULT
    for text, said in (
        (parameter("threads", 3), "'threads' is not supported; supported are intra_op_thread_count"),
        (parameter("gpu_mem_limit", 3), "belongs to the accelerator 'cuda'"),
        (parameter("enable_mem_arena", 2), "must be 0 or 1, not 2"),
        (parameter("intra_op_thread_count", -1), "must be a whole number, not '-1'"),
        ("optimization { graph { level: 7 } }", "must be -1, 0, 1 or 2, not 7"),
    ):
        with pytest.raises(ModelLoadError) as caught:
            options.read(config(text), "m")
        assert said in str(caught.value)


def warm(text, tmp_path, signature=MODEL):
    return list(warmup.samples(config(f"model_warmup {{ {text} }}"), signature, tmp_path.joinpath, "m"))


def test_warm_up_samples(tmp_path):
    tmp_path.joinpath("rows").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    head = 'name: "w" batch_size: 2 count: 3 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 '
    ((name, count, inputs),) = warm(head + 'input_data_file: "rows" } }', tmp_path)
    assert (name, count, inputs["x"].tolist()) == ("w", 3, [[0, 1, 2, 3], [4, 5, 6, 7]])
    ((_, _, inputs),) = warm(head + "zero_data: true } }", tmp_path)
    assert not inputs["x"].any()
    ((_, _, inputs),) = warm(head + "random_data: true } }", tmp_path)
    assert (inputs["x"].dtype, inputs["x"].shape) == (np.float32, (2, 4))
    text = Signature((TensorSpec("s", "BYTES", (2,), text=True),), ())
    tmp_path.joinpath("words").write_bytes(b"\x02\0\0\0ab\x01\0\0\0c")
    strings = 'inputs { key: "s" value { data_type: TYPE_STRING dims: 2 '
    ((name, count, inputs),) = warm(strings + 'input_data_file: "words" } }', tmp_path, text)
    assert (name, count, list(inputs["s"])) == ("0", 1, ["ab", "c"])
    ((_, _, inputs),) = warm(strings + "zero_data: true } }", tmp_path, text)
    assert list(inputs["s"]) == ["", ""]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("batch_size: 9 ", "from 1 to max_batch_size, 8"),
        ("batch_size: 1", "has the inputs [], the model ['x']"),
        (
            'batch_size: 1 inputs { key: "x" value { data_type: TYPE_INT8 dims: 4 } }',
            "must have data_type TYPE_FP32",
        ),
        (
            'batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 5 } }',
            "is [1, 5], the model has",
        ),
        (
            'batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 } }',
            "must say one of zero_data",
        ),
        (
            'batch_size: 2 inputs { key: "x" value { data_type: TYPE_FP32 dims: 4 input_data_file: "s" } }',
            "does not hold a FP32 [2, 4]",
        ),
    ],
)
def test_warm_up_samples_that_cannot_be(sample, said, tmp_path):
    tmp_path.joinpath("s").write_bytes(b"12345678")
    with pytest.raises(ModelLoadError) as caught:
        warm(sample, tmp_path)
    assert said in str(caught.value)


def test_the_class_is_of_the_published_name():
    assert ModelConfig.DESCRIPTOR.full_name == "inference.ModelConfig"


def read(text):
    return options.read(config(text), "m")


def parameter(key, value):
    return f"parameters {{ key: '{key}' value {{ string_value: '{value}' }} }} "


SHRINK = "memory.enable_memory_arena_shrinkage"


@pytest.mark.parametrize(
    ("text", "gpus", "said"),
    [
        (parameter(SHRINK, "cpu:0"), (), None),
        (parameter(SHRINK, "cpu:0;gpu:1"), (1,), None),
        (parameter(SHRINK, "foo"), (), "names 'foo'; the model's arenas are cpu, cpu:0"),
        (parameter(SHRINK, "gpu:0"), (), "names 'gpu:0'"),
        (parameter(SHRINK, "gpu:0;gpu:1"), (0, 1), "names 'gpu:0'"),
        (parameter(SHRINK, "cpu:0") + parameter("enable_mem_arena", "0"), (), "arenas are none"),
    ],
)
def test_only_an_arena_that_is_there_is_shrunk(text, gpus, said):
    if said is None:
        read(text).check(gpus, "m")
    else:
        with pytest.raises(ModelLoadError, match=said):
            read(text).check(gpus, "m")


@pytest.mark.parametrize("key", ["intra_op_thread_count", "inter_op_thread_count"])
def test_threads_have_a_bound(key):
    assert read(parameter(key, "1024"))
    with pytest.raises(ModelLoadError, match=f"{key} must be 1024 at most"):
        read(parameter(key, "1000000000000"))


def test_instances_have_a_bound():
    groups = config("instance_group { count: 1000 } instance_group { count: 25 }")
    with pytest.raises(ModelLoadError, match="add up to 1025 threads; have 1024 at most"):
        plan.instances(groups, 1, (), "m")


@pytest.mark.parametrize("number", [99, -1])
def test_a_datatype_that_is_none_is_told_by_its_number(number, tmp_path):
    with pytest.raises(ModelLoadError, match=f"has data_type {number}, the model has TYPE_FP32"):
        resolve(f'max_batch_size: 8 input {{ name: "x" data_type: {number} dims: 4 }}')
    sample = f"batch_size: 1 inputs {{ key: 'x' value {{ data_type: {number} dims: 4 zero_data: true }} }}"
    with pytest.raises(ModelLoadError, match="must have data_type TYPE_FP32"):
        list(warmup.samples(config(f"model_warmup {{ {sample} }}"), MODEL, tmp_path.joinpath, "m"))


def test_a_warm_up_larger_than_memory_is_told(tmp_path):
    model = Signature(inputs=(TensorSpec("x", "FP32", (-1, -1)),), outputs=(), max_batch=8)
    dims = f"dims: {1 << 60}"
    sample = f"batch_size: 8 inputs {{ key: 'x' value {{ data_type: TYPE_FP32 {dims} zero_data: true }} }}"
    with pytest.raises(ModelLoadError, match="for which there is no memory"):
        list(warmup.samples(config(f"model_warmup {{ {sample} }}"), model, tmp_path.joinpath, "m"))


def test_a_label_is_a_line(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("a\x0cb\r\nc\u2028d\n\ne\n".encode())
    assert tensors.labels(file) == ["a\x0cb", "c\u2028d", "", "e"]
    file.write_bytes(b"")
    assert tensors.labels(file) == []
