"""The models that benchmarks serve: from one that costs nothing to ones that compute for milliseconds."""

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

WIDTHS: dict[str, tuple[int, ...]] = {
    "mlp": (4,),
    "cnn": (3, 64, 64),
    "transformer": (16,),
    "identity": (262144,),
}
"""Each model's input, without the batch."""

VOCABULARY = 2000


def sample(name: str) -> np.ndarray:
    """One request's input."""
    generator = np.random.default_rng(0)
    shape = (1, *WIDTHS[name])
    if name == "transformer":
        return generator.integers(0, VOCABULARY, shape)
    return generator.standard_normal(shape).astype(np.float32)


def write(repository: Path) -> None:
    """All of them, as a model repository."""
    for name in WIDTHS:
        graph = _Graph(name)
        getattr(graph, name)()
        file = repository / name / "1" / "model.onnx"
        file.parent.mkdir(parents=True)
        onnx.save(graph.model(), file)


class _Graph:
    """A graph that grows from its input `x` to its output `y`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.outputs = 0
        self.generator = np.random.default_rng(1)

    def model(self) -> onnx.ModelProto:
        kind = TensorProto.INT64 if self.name == "transformer" else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("x", kind, ["N", *WIDTHS[self.name]])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", self.outputs])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """A node; the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int, fan: int) -> str:
        return self.constant((self.generator.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def finish(self, last: str, outputs: int) -> None:
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        self.outputs = outputs

    def dense(self, value: str, width: int, out: int) -> str:
        product = self.add("MatMul", value, self.weight(width, out, fan=width))
        return self.add("Add", product, self.weight(out, fan=out))

    def mlp(self) -> None:
        """4-16-3."""
        hidden = self.add("Gemm", "x", self.weight(4, 16, fan=4), self.weight(16, fan=16))
        logits = self.add("Gemm", self.add("Relu", hidden), self.weight(16, 3, fan=16), self.weight(3, fan=3))
        self.nodes.append(helper.make_node("Softmax", [logits], ["y"], axis=1))
        self.outputs = 3

    def identity(self) -> None:
        """1 MiB in, 1 MiB out."""
        self.finish("x", WIDTHS["identity"][0])

    def cnn(self) -> None:
        """Six residual blocks on an image of 64 by 64."""
        value = self.convolution("x", 3, 32, relu=True)
        for width, out, stride in ((32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)):
            inner = self.convolution(value, width, out, stride=stride, relu=True)
            inner = self.convolution(inner, out, out)
            if width != out:
                value = self.convolution(value, width, out, kernel=1, stride=stride)
            value = self.add("Relu", self.add("Add", inner, value))
        pooled = self.add("Flatten", self.add("GlobalAveragePool", value))
        self.finish(self.dense(pooled, 256, 10), 10)

    def convolution(
        self, value: str, width: int, out: int, *, kernel: int = 3, stride: int = 1, relu: bool = False
    ) -> str:
        kernels = self.weight(out, width, kernel, kernel, fan=width * kernel * kernel)
        options = {
            "kernel_shape": [kernel, kernel],
            "strides": [stride, stride],
            "pads": [kernel // 2] * 4,
        }
        result = self.add("Conv", value, kernels, self.weight(out, fan=out), **options)
        return self.add("Relu", result) if relu else result

    def transformer(self) -> None:
        """Two encoder layers of width 256 with 4 heads, over 16 tokens."""
        width, heads = 256, 4
        split = self.constant(np.array([0, 16, heads, width // heads]))
        merge = self.constant(np.array([0, 16, width]))
        scale = self.constant(np.array((width // heads) ** -0.5, np.float32))
        value = self.add("Gather", self.weight(VOCABULARY, width, fan=width), "x")

        def head(order: list[int]) -> str:
            parted = self.add("Reshape", self.dense(value, width, width), split)
            return self.add("Transpose", parted, perm=order)

        def normal(value: str) -> str:
            ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
            return self.add("LayerNormalization", value, self.constant(ones), self.constant(zeros), axis=-1)

        for _ in range(2):
            query, key, content = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
            scores = self.add("Softmax", self.add("Mul", self.add("MatMul", query, key), scale), axis=-1)
            mixed = self.add("Transpose", self.add("MatMul", scores, content), perm=[0, 2, 1, 3])
            mixed = self.dense(self.add("Reshape", mixed, merge), width, width)
            value = normal(self.add("Add", value, mixed))
            wide = self.add("Relu", self.dense(value, width, 4 * width))
            value = normal(self.add("Add", value, self.dense(wide, 4 * width, width)))
        pooled = self.add("ReduceMean", value, axes=[1], keepdims=0)
        self.finish(self.dense(pooled, width, 2), 2)
