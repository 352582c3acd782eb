"""LitServe with two workers, over its own JSON route, since it has no binary tensors.

python litserve_server.py MODEL.onnx PORT
"""

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort

FILE, PORT = sys.argv[1], int(sys.argv[2])


class Api(litserve.LitAPI):
    """One request after another in each of the workers, without LitServe's batching."""

    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(FILE, options, providers=["CPUExecutionProvider"])
        self.dtype = np.int64 if "int64" in self.session.get_inputs()[0].type else np.float32

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        tensor = request["inputs"][0]
        return np.asarray(tensor["data"], self.dtype).reshape(tensor["shape"])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x})[0]

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        tensor = {"name": "y", "datatype": "FP32", "shape": output.shape, "data": output.ravel().tolist()}
        return {"outputs": [tensor]}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=2, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
