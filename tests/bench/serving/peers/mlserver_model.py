"""An MLServer runtime for ONNX, since MLServer has none of its own."""

import numpy as np
import onnxruntime as ort
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec


class OnnxModel(MLModel):
    """`parameters.uri` is the file."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        uri = self.settings.parameters.uri
        self.session = ort.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        (tensor,) = payload.inputs
        array = np.ascontiguousarray(NumpyCodec.decode_input(tensor))
        result = self.session.run(None, {"x": array})[0]
        return types.InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", result)])
