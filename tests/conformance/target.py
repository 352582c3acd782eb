"""The server that is checked, and one way to call it with each of Triton's four clients."""

import asyncio
import http.client
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from google.protobuf import json_format
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

CLIENTS = {
    "http": triton_http,
    "grpc": triton_grpc,
    "http.aio": triton_http_aio,
    "grpc.aio": triton_grpc_aio,
}

#: What a check that finds a feature missing says; the table counts it as "not offered".
NOT_OFFERED = "not offered: "

#: gRPC's codes as HTTP has them.
CODES = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 408,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 400,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 413,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


def not_offered(what: str) -> None:
    """End the check: the server says that it does not have this."""
    pytest.skip(NOT_OFFERED + what)


def code(error: InferenceServerException) -> int:
    """An error's code as HTTP has it, whichever client raised it; 0 when the server gave none."""
    status = str(error.status()).removeprefix("StatusCode.")
    return int(CODES.get(status, status if status.isdigit() else 0))


class Target:
    """A server by its addresses. `grpc` may be None: then what needs it is not asked."""

    def __init__(self, http_address: str, grpc_address: str | None, *, is_ours: bool = False) -> None:
        self.http = http_address.removeprefix("http://").rstrip("/")
        self.grpc = grpc_address and grpc_address.removeprefix("grpc://")
        self.is_ours = is_ours
        self._ready: dict[str, bool] = {}

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP request as it is: status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection(self.http, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return response.status, named, response.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A request and an answer in JSON; None for an answer without a body."""
        sent = None if body is None else json.dumps(body).encode()
        status, _, answer = self.request(method, path, sent, {"Content-Type": "application/json"})
        return status, json.loads(answer) if answer else None

    def codes(self, right: int, *elsewhere: int) -> tuple[int, ...]:
        """What an error's code may be: the right one and, unless the server is ours, what others have."""
        return (right,) if self.is_ours else (right, *elsewhere)

    @property
    def refused(self) -> tuple[int, ...]:
        """The codes of what is the caller's fault; Triton's JSON parser and its repository say INTERNAL."""
        return self.codes(400, 500)

    def needs(self, *models: str) -> None:
        """These models, or the check is not asked."""
        for model in models:
            if model not in self._ready:
                self._ready[model] = self.request("GET", f"/v2/models/{model}/ready")[0] == 200
            if not self._ready[model]:
                not_offered(f"the model {model} is not served")

    def extension(self, name: str) -> None:
        """This extension, by the server's own list, or the check is not asked."""
        _, metadata = self.json("GET", "/v2")
        if name not in metadata["extensions"]:
            not_offered(f"the extension {name} is not in the server's list")

    def stub(self) -> Any:
        """The gRPC calls as they are, when tritonclient would not send such a message."""
        if not self.grpc:
            not_offered("no gRPC address was given")
        return triton_grpc.InferenceServerClient(self.grpc)

    def grpc_request(self, model: str, **tensors: tuple[str, np.ndarray]) -> service_pb2.ModelInferRequest:
        """A request with raw contents."""
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, (datatype, array) in tensors.items():
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return request


class Client:
    """One of the four clients; every method answers in JSON's terms."""

    def __init__(self, kind: str, target: Target) -> None:
        if kind.startswith("grpc") and not target.grpc:
            not_offered("no gRPC address was given")
        self.kind = kind
        self.module = CLIENTS[kind]
        self.url = target.grpc if kind.startswith("grpc") else target.http
        self.is_http = kind.startswith("http")

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of tritonclient's; messages come as dictionaries."""
        if self.kind.endswith("aio"):
            answer = asyncio.run(self._call_aio(method, *arguments, **options))
        else:
            client = self.module.InferenceServerClient(self.url)
            try:
                answer = getattr(client, method)(*arguments, **options)
            finally:
                client.close()
        return as_json(answer)

    async def _call_aio(self, method: str, *arguments: Any, **options: Any) -> Any:
        async with self.module.InferenceServerClient(self.url) as client:
            return await getattr(client, method)(*arguments, **options)

    def inputs(self, **tensors: tuple[str, np.ndarray]) -> list[Any]:
        """Tensors to send, in binary."""
        made = []
        for name, (datatype, array) in tensors.items():
            tensor = self.module.InferInput(name, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            made.append(tensor)
        return made

    def infer(self, model: str, tensors: dict[str, tuple[str, np.ndarray]], **options: Any) -> Any:
        """An inference; `outputs` may be names."""
        names = options.pop("outputs", None)
        outputs = [self.module.InferRequestedOutput(name) for name in names] if names else None
        return self.call("infer", model, self.inputs(**tensors), outputs=outputs, **options)

    def error(self, method: str, *arguments: Any, **options: Any) -> tuple[int, str]:
        """The code and the message of a call that must fail; `infer` is this class's."""
        call = self.infer if method == "infer" else partial(self.call, method)
        return failing(lambda: call(*arguments, **options))

    def failing_infer(self, model: str, inputs: list[Any], **options: Any) -> tuple[int, str]:
        """The same for tensors as they are."""
        return failing(lambda: self.call("infer", model, inputs, **options))


def failing(call: Callable[[], Any]) -> tuple[int, str]:
    """The code, as HTTP has it, and the message of a call that must fail."""
    try:
        answer = call()
    except InferenceServerException as error:
        return code(error), error.message()
    raise AssertionError(f"it must fail, and answered {answer}")


def as_json(answer: Any) -> Any:
    """A protobuf message as JSON's types have it, with 64-bit numbers as numbers; all else as it is."""
    if not hasattr(answer, "DESCRIPTOR"):
        return answer
    return _numbers(
        json_format.MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    )


def _numbers(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _numbers(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, key) for item in value]
    is_number = isinstance(value, str) and key not in ("name", "version", "versions", "id", "reason")
    return int(value) if is_number and value.lstrip("-").isdigit() else value


def sample(datatype: str, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    """Values of a datatype, its extremes among them."""
    generator = np.random.default_rng(7)
    if datatype == "BYTES":
        words = ["", "a", "Grüße", "日本", "x" * 70_000]
        return np.array(generator.choice(words, shape), dtype=object)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        array = generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
        array.flat[:2] = limits.min, limits.max
        return array
    array = generator.standard_normal(shape).astype(dtype)
    if datatype != "BF16":  # which numpy does not know
        limits = np.finfo(dtype)
        extremes = (limits.max, limits.min, limits.smallest_normal, limits.smallest_subnormal, -0.0)
        array.flat[: len(extremes)] = extremes[: array.size]
    return array


def equal(result: np.ndarray, want: np.ndarray, ulps: int = 0) -> None:
    """The same datatype and the same values; `ulps` allows for what decimal numbers lose in some parsers."""
    if want.dtype == np.object_:
        words = [item.decode() if isinstance(item, bytes) else item for item in result.reshape(-1)]
        result = np.array(words, dtype=object).reshape(result.shape)
    assert result.dtype == want.dtype
    if ulps:
        np.testing.assert_array_max_ulp(result, want, ulps)
    else:
        np.testing.assert_array_equal(result, want)
        assert want.dtype == np.object_ or result.tobytes() == want.tobytes(), "a zero has lost its sign"
