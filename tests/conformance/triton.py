"""The real tritonserver to check the checks with: NVIDIA's binary out of the wheel nvidia-pytriton.

    uv venv --python /usr/bin/python3.11 VENV
    uv pip install --python VENV -r tests/bench/serving/peers/pytriton.txt
    python -m tests.conformance.triton VENV DIR        (the ports 8000, 8001 and 8002)

It needs Debian's python3.11 and libpython3.11. That wheel has the server and its Python backend, and no ONNX
backend; so the suite's models are run by ONNX Runtime inside the Python backend, each with a configuration.
"""

import os
import shutil
import sys
from pathlib import Path

import onnx
from onnx import TensorProto

from tests.conformance import models

NAMES = {kind: name for name, kind in models.DATATYPES.items()} | {TensorProto.STRING: "STRING"}

MODEL = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.texts = {tensor.name for tensor in self.session.get_inputs() if tensor.type == "tensor(string)"}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        for name in self.texts:
            words = [word.decode() for word in feeds[name].reshape(-1)]
            feeds[name] = np.array(words, dtype=object).reshape(feeds[name].shape)
        names = list(request.requested_output_names())
        answers = []
        for name, array in zip(names, self.session.run(names, feeds)):
            if array.dtype == object:
                words = [word.encode() for word in array.reshape(-1)]
                array = np.array(words, dtype=object).reshape(array.shape)
            answers.append(pb_utils.Tensor(name, np.ascontiguousarray(array)))
        return pb_utils.InferenceResponse(output_tensors=answers)
"""


def _tensors(kind: str, values: list[onnx.ValueInfoProto]) -> str:
    return "".join(
        f'{kind} {{ name: "{value.name}" data_type: TYPE_{NAMES[value.type.tensor_type.elem_type]} '
        f"dims: [ {', '.join(str(size.dim_value or -1) for size in value.type.tensor_type.shape.dim)} ] }}\n"
        for value in values
    )


def convert(repository: Path) -> None:
    """Give each model the Python backend, and a configuration where it has none."""
    shutil.rmtree(repository / "identity_bf16")  # of which that backend makes no numpy arrays
    for folder in repository.iterdir():
        config = folder / "config.pbtxt"
        if not config.exists():
            graph = onnx.load(next(folder.glob("*/model.onnx"))).graph
            tensors = _tensors("input", list(graph.input)) + _tensors("output", list(graph.output))
            config.write_text(f"max_batch_size: 0\n{tensors}")
        cpu = "" if "instance_group" in config.read_text() else "instance_group { kind: KIND_CPU }\n"
        config.write_text(f'backend: "python"\n{cpu}{config.read_text()}')
        for version in folder.glob("*/model.onnx"):
            version.with_name("model.py").write_text(MODEL)


def main() -> None:
    """Become the server."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    venv, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (package,) = venv.glob("lib/python3.11/site-packages/pytriton")
    backends = folder / "backends"
    shutil.copytree(package / "tritonserver" / "backends", backends)
    stub = "python_backend_stubs/3.11/triton_python_backend_stub"
    shutil.copy(package / "tritonserver" / stub, backends / "python")
    models.make(folder / "models")
    convert(folder / "models")
    libraries = package.parent / "nvidia_pytriton.libs"
    environment = os.environ | {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(package.parent),
        "LD_LIBRARY_PATH": str(libraries),
    }
    server = package / "tritonserver" / "bin" / "tritonserver"
    arguments = [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-on-error=false",
        "--strict-readiness=false",
        "--grpc-infer-allocation-pool-size=8",
        *sys.argv[3:],
    ]
    os.execve(server, [str(server), *arguments], environment)


if __name__ == "__main__":
    main()
