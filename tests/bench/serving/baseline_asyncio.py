"""The yardstick for HTTP: the fastest server that plain Python can be, with nothing of a server's duties.

    python baseline_asyncio.py MODEL.onnx

uvloop's sockets, httptools' parser (both C), orjson, and ONNX Runtime called on the event loop. It believes
what it is told: no limits, no validation, no timeouts, no queue, no metrics, one model. Needs numpy,
onnxruntime, orjson, httptools and uvloop. It prints the port it listens on.
"""

import asyncio
import sys
from typing import Any

import httptools
import numpy as np
import onnxruntime as ort
import orjson
import uvloop

DTYPES = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
JOIN_BELOW = 64 * 1024


class Model:
    """A session with the server's own settings."""

    def __init__(self, file: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def infer(self, body: bytes, json_length: int) -> list[Any]:
        """A binary request's answer: its head, its JSON and its tensors."""
        request = orjson.loads(memoryview(body)[:json_length])
        feeds = {}
        position = json_length
        for tensor in request["inputs"]:
            dtype = DTYPES[tensor["datatype"]]
            size = tensor["parameters"]["binary_data_size"]
            array = np.frombuffer(body, dtype, size // dtype.itemsize, position)
            feeds[tensor["name"]] = array.reshape(tensor["shape"])
            position += size
        arrays = self.session.run(None, feeds)
        outputs = [
            {
                "name": name,
                "datatype": NAMES[array.dtype],
                "shape": array.shape,
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in zip(self.outputs, arrays, strict=True)
        ]
        text = orjson.dumps({"model_name": "m", "model_version": "1", "outputs": outputs})
        data = [memoryview(array).cast("B") for array in arrays]
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
            b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n"
        ) % (len(text), len(text) + sum(map(len, data)))
        return [head, text, *data]


class Connection(asyncio.Protocol):
    """One connection; requests on it come one after another."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.parts: list[bytes] = []
        self.json_length = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self.json_length = int(value)

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        answer = self.model.infer(body, self.json_length)
        if sum(map(len, answer)) < JOIN_BELOW:
            self.transport.write(b"".join(answer))
        else:
            self.transport.writelines(answer)


async def main() -> None:
    """Serve until killed."""
    model = Model(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(lambda: Connection(model), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
