"""The models that the checks ask for, as a model repository for any server with an ONNX backend.

    python -m tests.conformance.models DIR

Every check names the model it needs; a server that lacks one is asked the rest. What each does is said here,
so that a server without an ONNX backend can be given the same by its own means.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
CONTENTS = {  # the field of gRPC's typed contents that holds it
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

LABELS = ("setosa", "versicolor", "virginica")

Tensor = tuple[str, int, list[int | str]]

BATCHED = """\
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" }
dynamic_batching { }
"""

QUEUE = """\
max_batch_size: 1
input { name: "n" data_type: TYPE_INT64 dims: [ 1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    timeout_action: REJECT default_timeout_microseconds: 100000000
    allow_timeout_override: true max_queue_size: 4
  }
}
"""

VERSIONS = """\
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }
version_policy { all { } }
"""


def batched_weights() -> tuple[np.ndarray, np.ndarray]:
    """Of the model `batched`: y = x @ w + b, in numbers that FP32 adds without rounding."""
    generator = np.random.default_rng(1)
    return (
        generator.integers(-8, 8, (4, 3)).astype(np.float32),
        generator.integers(-8, 8, 3).astype(np.float32),
    )


def model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[Tensor],
    outputs: list[Tensor],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    """An ONNX model."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def identity(datatype: str, shape: list[int | str]) -> bytes:
    """`y` is `x`."""
    kind = DATATYPES[datatype]
    return model(
        "identity", [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)]
    )


def added(number: float) -> bytes:
    """`y` is `x` plus a number: versions of a model that can be told apart."""
    return model(
        "added",
        [helper.make_node("Add", ["x", "number"], ["y"])],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
        {"number": np.array(number, np.float32)},
    )


def spin() -> bytes:
    """Multiplies matrices as often as its input says: a model that is as slow as a check wants."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", "m"], ["product"]),
            helper.make_node("Tanh", ["product"], ["v_out"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [128, 128]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [128, 128]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["n"], ["count"], keepdims=0),
        helper.make_node("Loop", ["count", "", "m"], ["last"], body=body),
        helper.make_node("ReduceMean", ["last"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["n"], ["zeros_of"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["zeros_of", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "mean"], ["y"]),
    ]
    matrix = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    return model(
        "spin",
        nodes,
        [("n", TensorProto.INT64, ["batch", 1])],
        [("y", TensorProto.FLOAT, ["batch", 1])],
        {"m": matrix, "zero": np.array(0, np.float32)},
    )


def sums() -> bytes:
    """`sum` is a + b, `difference` is a - b."""
    matrix = ["n", "m"]
    return model(
        "sums",
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        [("a", TensorProto.INT32, matrix), ("b", TensorProto.INT32, matrix)],
        [("sum", TensorProto.INT32, matrix), ("difference", TensorProto.INT32, matrix)],
    )


def batched() -> bytes:
    """`y` is x @ w + b."""
    weights, bias = batched_weights()
    return model(
        "batched",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 3])],
        {"w": weights, "b": bias},
    )


def files() -> dict[str, bytes]:
    """Every file of the repository, by its path."""
    made = {f"identity_{name.lower()}/1/model.onnx": identity(name, ["n", "m"]) for name in DATATYPES}
    return made | {
        "sums/1/model.onnx": sums(),
        "spare/1/model.onnx": added(1),
        "batched/1/model.onnx": batched(),
        "batched/config.pbtxt": BATCHED.encode(),
        "batched/labels.txt": "".join(f"{label}\n" for label in LABELS).encode(),
        "queue/1/model.onnx": spin(),
        "queue/config.pbtxt": QUEUE.encode(),
        "versions/1/model.onnx": added(1),
        "versions/3/model.onnx": added(3),
        "versions/config.pbtxt": VERSIONS.encode(),
    }


def make(folder: Path) -> None:
    """Write the repository."""
    for name, content in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make(Path(sys.argv[1]))
