"""BentoML with two workers: `bentoml serve bentoml_server:Service`; the variable MODEL names the file.

BentoML takes numpy arrays as JSON.
"""

import os

import bentoml
import numpy as np
import onnxruntime as ort

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "1")


@bentoml.service(workers=2, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Service:
    """One session a worker."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.dtype = np.int64 if "int64" in self.session.get_inputs()[0].type else np.float32

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x.astype(self.dtype, copy=False)})[0]
