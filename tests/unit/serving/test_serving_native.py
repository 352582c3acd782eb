"""The native server with a Python backend in this process: what a backend can rely on, and not break."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from capstan_serving._native import Server
from capstan_serving.catalog import Catalog
from capstan_serving.control import Control
from capstan_serving.errors import InvalidArgument, Unavailable
from capstan_serving.scheduling import Scheduling
from capstan_serving.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))),
    outputs=(TensorSpec("y", "FP32", (-1, -1)), TensorSpec("t", "BYTES", (-1,))),
    max_batch=8,
)


@pytest.fixture
def serve():
    servers = []

    def serve(execute, signature=SIGNATURE, workers=2, labels=None, **scheduling):
        server = Server(
            Control(Catalog()),
            host="127.0.0.1",
            ports=(0, 0, 0),
            max_request_bytes=1 << 20,
            max_inflight_bytes=1 << 22,
            max_connections=256,
            client_timeout=30,
            queue_size=64,
        )
        servers.append(server)
        server.add_model(
            "m",
            1,
            signature=signature,
            execute=execute,
            workers=workers,
            scheduling=Scheduling(**scheduling),
            labels=labels or {},
        )
        server.set_ready(True)
        return server

    yield serve
    for server in servers:
        assert server.drain(10)


def infer(server, rows=1, outputs=None):
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": list(range(2 * rows))},
        {"name": "s", "datatype": "BYTES", "shape": [rows], "data": ["é"] * rows},
    ]
    request = {"inputs": inputs} | ({"outputs": [{"name": name} for name in outputs]} if outputs else {})
    url = f"http://127.0.0.1:{server.http_port}/v2/models/m/infer"
    try:
        with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=20) as response:
            return response.status, {tensor["name"]: tensor for tensor in json.load(response)["outputs"]}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def test_a_backend_gets_views_and_names(serve):
    seen = []

    def execute(batch):
        array, strings = batch.inputs["x"], batch.inputs["s"]
        seen.append(
            (array.flags.writeable, array.flags.aligned, array.flags.owndata, list(strings), batch.outputs)
        )
        values = {"y": array + 1, "t": np.array(["ok"] * len(strings), dtype=object)}
        return [values[name] for name in batch.outputs]

    server = serve(execute)
    status, outputs = infer(server, rows=2)
    assert (status, outputs["y"]["data"], outputs["t"]["data"]) == (200, [1, 2, 3, 4], ["ok", "ok"])
    status, outputs = infer(server, outputs=["t"])
    assert list(outputs) == ["t"]
    assert seen == [
        (False, True, False, ["é".encode()] * 2, ("y", "t")),
        (False, True, False, ["é".encode()], ("t",)),
    ]


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: [],
        lambda x: [x, x, x],
        lambda x: None,
        lambda x: 7,
        lambda x: [x.astype(np.float64), x],
        lambda x: [object(), object()],
    ],
)
def test_a_backend_that_returns_nonsense_is_an_internal_error(serve, returned, caplog):
    status, error = infer(serve(lambda batch: returned(batch.inputs["x"])))
    assert status == 500
    assert "inference with model 'm' failed" in error
    assert "Error: " in caplog.text


@pytest.mark.parametrize(
    ("raised", "status"),
    [(InvalidArgument("no"), 400), (Unavailable("no"), 503), (ZeroDivisionError("no"), 500)],
)
def test_a_backends_errors_have_their_codes(serve, raised, status):
    def execute(_batch):
        raise raised

    answered, error = infer(serve(execute))
    assert (answered, "no" in error) == (status, True)


@pytest.mark.parametrize("columns", [3, 100_000])
def test_outputs_of_any_layout_arrive(serve, columns):
    """Small ones are copied, large ones kept until they are sent, transposed ones made contiguous."""

    def execute(batch):
        rows = len(batch.inputs["x"])
        wide = np.arange(rows * columns, dtype=np.float32).reshape(columns, rows).T
        return [{"y": wide, "t": np.full(rows, "t", dtype=object)}[name] for name in batch.outputs]

    server = serve(execute)
    status, outputs = infer(server, rows=2, outputs=["y"])
    assert status == 200
    assert outputs["y"]["shape"] == [2, columns]
    expected = np.arange(2 * columns, dtype=np.float32).reshape(columns, 2).T
    np.testing.assert_array_equal(outputs["y"]["data"], expected.reshape(-1))


def test_a_backend_whose_rows_do_not_match_is_not_batched_wrongly(serve):
    """Its outputs cannot be told apart, so each request is executed on its own."""

    def execute(batch):
        total = np.array([[batch.inputs["x"].sum()]], dtype=np.float32)
        return [{"y": total, "t": np.array(["t"], dtype=object)}[name] for name in batch.outputs]

    server = serve(execute)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda rows: infer(server, rows), [1, 2, 3] * 20))
    for rows, (status, outputs) in zip([1, 2, 3] * 20, answers, strict=True):
        assert (status, outputs["y"]["data"]) == (200, [sum(range(2 * rows))])


def test_draining_twice_is_draining(serve):
    server = serve(lambda batch: [])
    assert server.ready
    assert server.drain(5)
    assert server.drain(5)
    assert not server.ready


def test_labels_name_classes(serve):
    def execute(batch):
        return [np.array([[0.5, 0.25, 4.0]], np.float32) for _ in batch.outputs]

    server = serve(execute, labels={"y": ["cat", "dog"]})
    body = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        ],
        "outputs": [{"name": "y", "parameters": {"classification": 3}}],
    }
    url = f"http://127.0.0.1:{server.http_port}/v2/models/m/infer"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=20) as response:
        (output,) = json.load(response)["outputs"]
    assert output["data"] == ["4.000000:2", "0.500000:0:cat", "0.250000:1:dog"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 3])
