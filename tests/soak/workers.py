"""What a soak does to a server: each worker does one kind of thing over and over, and checks what it gets."""

import asyncio
import collections
import contextlib
import json
import random
from collections.abc import Awaitable, Coroutine
from typing import Any, Self, TypeVar

import numpy as np
import onnxruntime as ort
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from tests.conformance import models
from tests.conformance.server import Server
from tests.conformance.target import code

PATIENCE = 100
"""Seconds that an answer may take before it counts as lost: far more than any does on a busy machine."""

DATATYPES = {"float32": "FP32", "int32": "INT32", "object": "BYTES"}
CONFIG = {
    "backend": "onnxruntime",
    "max_batch_size": 0,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}],
}
ARRAY = np.arange(5, dtype=np.float32)
Arrays = dict[str, np.ndarray]
T = TypeVar("T")


KINDS = ("right answers", "streams", "refused", "cancelled", "gone away", "loads", "unloads")
"""What must have happened for a soak to say anything."""


class Wrong(Exception):
    """What should not have happened."""


class Load:
    """The clients, and what is known of the server."""

    def __init__(self, server: Server, sessions: dict[str, ort.InferenceSession], seed: int) -> None:
        self.server = server
        self.sessions = sessions
        self.random = random.Random(seed)
        self.stopping = False
        self.counts: collections.Counter[str] = collections.Counter()
        self.added = [1.0]
        """What the model `spare` has added so far; from `oldest` on, it may still."""
        self.oldest = 0
        self.unloads = 0
        self.unloaded = False

    async def __aenter__(self) -> Self:
        self.http = triton_http.InferenceServerClient(self.server.http, conn_limit=32, conn_timeout=PATIENCE)
        self.grpc = triton_grpc.InferenceServerClient(self.server.grpc)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        await self.grpc.close()

    def workers(self) -> list[Coroutine[Any, Any, None]]:
        """All that goes on at once."""
        over = ((triton_http, self.http), (triton_grpc, self.grpc))
        return [
            *(self.infer(*door) for door in over for _ in range(4)),
            *(self.infer_spare(*door) for door in over),
            *(self.be_wrong(*door) for door in over),
            self.stream(),
            self.cancel(),
            self.go_away(),
            self.load_and_unload(),
        ]

    def request(self) -> tuple[str, Arrays]:
        """A model and its inputs, from a few bytes to a megabyte."""
        model = self.random.choice(["batched", "sums", "identity_fp32", "identity_bytes"])
        generator = np.random.default_rng(self.random.getrandbits(32))
        rows = self.random.randint(1, 4)
        if model == "batched":
            return model, {"x": generator.integers(-9, 9, (rows, 4)).astype(np.float32)}
        if model == "sums":
            shape = (rows, self.random.choice([1, 7, 500]))
            return model, {name: generator.integers(-1000, 1000, shape, np.int32) for name in "ab"}
        if model == "identity_bytes":
            words = [generator.bytes(self.random.choice([0, 3, 2000])).hex() for _ in range(rows)]
            return model, {"x": np.array([words], dtype=object)}
        columns = self.random.choice([1, 100, 10_000, 262_144 // rows])
        return model, {"x": generator.standard_normal((rows, columns)).astype(np.float32)}

    def check(self, model: str, arrays: Arrays, result: Any) -> None:
        """Compare an answer with ONNX Runtime's."""
        session = self.sessions[model]
        names = [output.name for output in session.get_outputs()]
        for name, want in zip(names, session.run(names, arrays), strict=True):
            got = result.as_numpy(name)
            if want.dtype == object:
                got = np.array([word.decode() for word in got.reshape(-1)], object).reshape(got.shape)
            if got.dtype != want.dtype or not np.array_equal(got, want):
                raise Wrong(f"{model} of {arrays} is {want}, and the answer was {got}")
        self.counts["right answers"] += 1

    async def infer(self, module: Any, client: Any) -> None:
        """One after another."""
        while not self.stopping:
            model, arrays = self.request()
            self.check(model, arrays, await answered(client.infer(model, inputs(module, arrays))))

    async def stream(self) -> None:
        """Some at a time over one stream."""
        while not self.stopping:
            sent = [self.request() for _ in range(self.random.randint(1, 20))]

            async def requests(sent: list[tuple[str, Arrays]] = sent) -> Any:
                for model, arrays in sent:
                    yield {"model_name": model, "inputs": inputs(triton_grpc, arrays)}

            answers = 0
            try:
                async with asyncio.timeout(PATIENCE):
                    async for result, error in self.grpc.stream_infer(requests()):
                        if error:
                            raise Wrong(f"a stream answered {error}")
                        self.check(*sent[answers], result)
                        answers += 1
            except TimeoutError as error:
                raise Wrong(f"a stream was lost after {answers} of {len(sent)}") from error
            if answers != len(sent):
                raise Wrong(f"a stream of {len(sent)} requests has had {answers} answers")
            self.counts["streams"] += 1

    async def be_wrong(self, module: Any, client: Any) -> None:
        """Requests that must be refused."""
        x = np.ones((1, 4), np.float32)
        wrong: list[tuple[int, str, Arrays]] = [
            (404, "no_such_model", {"x": x}),
            (400, "batched", {"z": x}),
            (400, "batched", {"x": np.ones((1, 5), np.float32)}),
            (400, "batched", {"x": np.ones((1, 4), np.int32)}),
            (400, "sums", {"a": np.ones((1, 4), np.int32)}),
            (500, "sums", {"a": np.ones((1, 4), np.int32), "b": np.ones((1, 3), np.int32)}),
        ]
        while not self.stopping:
            right, model, arrays = self.random.choice(wrong)
            try:
                await answered(client.infer(model, inputs(module, arrays)))
            except InferenceServerException as error:
                if code(error) != right:
                    raise Wrong(f"{model} of {arrays} is a {right}, and the answer was {error}") from error
                self.counts["refused"] += 1
            else:
                raise Wrong(f"{model} took {arrays}")
            await asyncio.sleep(0.005)

    async def cancel(self) -> None:
        """Requests that their caller gives up."""
        while not self.stopping:
            model, arrays = self.request()
            call = asyncio.ensure_future(self.grpc.infer(model, inputs(triton_grpc, arrays)))
            await asyncio.sleep(self.random.choice([0, 0.0005, 0.002]))
            call.cancel()
            await asyncio.wait([call])  # and not `await call`: a soak that ends cancels this worker too
            if not call.cancelled():
                call.exception()
            self.counts["cancelled"] += 1
            await asyncio.sleep(0.01)

    async def go_away(self) -> None:
        """Clients that end in the middle of a request, or before its answer."""
        address, _, port = self.server.http.rpartition(":")
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2000], "data": [1.5] * 2000}
        body = json.dumps({"inputs": [tensor]}).encode()
        head = (
            f"POST /v2/models/identity_fp32/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        whole = head.encode() + body
        while not self.stopping:
            _, writer = await asyncio.open_connection(address, int(port))
            writer.write(whole[: self.random.choice([1, 30, len(head), len(head) + 100, len(whole)])])
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.transport.abort()
            self.counts["gone away"] += 1
            await asyncio.sleep(0.01)

    async def infer_spare(self, module: Any, client: Any) -> None:
        """A model that comes and goes: what it answers is of its time, and so is that it does not."""
        while not self.stopping:
            oldest, unloads, unloaded = self.oldest, self.unloads, self.unloaded
            try:
                result = await answered(client.infer("spare", inputs(module, {"x": ARRAY})))
            except InferenceServerException as error:
                if not unloaded and unloads == self.unloads:
                    raise Wrong(f"spare was not unloaded, and the answer was {error}") from error
                if code(error) != 503:
                    raise Wrong(f"spare was unloaded, and the answer was {error}") from error
                self.counts["unloaded"] += 1
                await asyncio.sleep(0.005)
                continue
            got = result.as_numpy("y")
            if not any(np.array_equal(got, ARRAY + number) for number in self.added[oldest:]):
                raise Wrong(f"spare adds one of {self.added[oldest:]}, and the answer was {got - ARRAY}")
            self.counts["right answers"] += 1

    async def load_and_unload(self) -> None:
        """Replace `spare` while it serves, and now and then take it away for a while."""
        while not self.stopping:
            number = float(self.random.randint(2, 99))
            await self.replace(number, models.added(number))
            if self.random.random() < 0.3:
                self.unloads, self.unloaded = self.unloads + 1, True
                await answered(self.http.unload_model("spare"))
                await asyncio.sleep(0.02)
                await self.replace(1, None)
                self.unloaded = False
                self.counts["unloads"] += 1
            await asyncio.sleep(0.1)

    async def replace(self, number: float, file: bytes | None) -> None:
        """Load it with the request's file or, without one, the repository's."""
        self.added.append(number)
        client = self.random.choice([self.http, self.grpc])
        given = {"config": json.dumps(CONFIG), "files": {"file:1/model.onnx": file}} if file else {}
        await answered(client.load_model("spare", **given))
        self.oldest = len(self.added) - 1
        self.counts["loads"] += 1


def inputs(module: Any, arrays: Arrays) -> list[Any]:
    """Tensors to send."""
    made = []
    for name, array in arrays.items():
        tensor = module.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


async def answered(call: Awaitable[T]) -> T:
    """An answer, be it an error; none is Wrong."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await call
    except TimeoutError as error:
        raise Wrong(f"no answer in {PATIENCE} s") from error
