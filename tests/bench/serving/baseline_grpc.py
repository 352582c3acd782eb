"""The yardstick for gRPC: grpc.aio, with ONNX Runtime called on the event loop and nothing else.

python baseline_grpc.py MODEL.onnx

Needs numpy, onnxruntime and tritonclient's messages. It prints the port it listens on.
"""

import asyncio
import sys

import grpc
import numpy as np
import onnxruntime as ort
from tritonclient.grpc import service_pb2, service_pb2_grpc

DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Raw contents in, raw contents out."""

    def __init__(self, file: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    async def ModelInfer(  # noqa: N802 - the service's name for it
        self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        feeds = {
            tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        for name, array in zip(self.outputs, self.session.run(None, feeds), strict=True):
            answer.outputs.add(name=name, datatype=NAMES[array.dtype], shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=UNLIMITED)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(sys.argv[1]), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
