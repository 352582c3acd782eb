"""PyTriton: NVIDIA's tritonserver with its Python backend, dynamic batching without delay, two workers.

python pytriton_server.py MODEL.onnx HTTP-PORT GRPC-PORT
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

FILE, HTTP, GRPC = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def worker(file: Path = FILE) -> object:
    """One with a session of its own."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    @batch
    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": session.run(None, {"x": x})[0]}

    return infer


def tensor(value: ort.NodeArg) -> Tensor:
    """Its description, without the batch."""
    dtype = np.int64 if "int64" in value.type else np.float32
    return Tensor(name=value.name, dtype=dtype, shape=tuple(value.shape[1:]))


if __name__ == "__main__":
    shapes = ort.InferenceSession(FILE, providers=["CPUExecutionProvider"])
    config = TritonConfig(
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        http_port=HTTP,
        grpc_port=GRPC,
        allow_metrics=False,
    )
    with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as triton:
        triton.bind(
            model_name=FILE.parent.parent.name,
            infer_func=[worker(), worker()],
            inputs=[tensor(shapes.get_inputs()[0])],
            outputs=[tensor(shapes.get_outputs()[0])],
            config=ModelConfig(max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()
