"""Classification: the best of an output's classes as text, `value:index` or `value:index:label`."""

import numpy as np
import pytest

from tests.conformance.models import LABELS, batched_weights
from tests.conformance.target import failing


def _classes(client, model, array, count):
    name = next(iter(array))
    datatype, values = array[name]
    module = client.module
    output = module.InferRequestedOutput("y", class_count=count)
    inputs = client.inputs(**{name: (datatype, values)})
    return client.call("infer", model, inputs, outputs=[output]).as_numpy("y")


@pytest.fixture(autouse=True)
def offered(target):
    target.extension("classification")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_best_come_first_with_their_labels(client, target, count):
    target.needs("batched")
    weights, bias = batched_weights()
    array = np.array([[1, 2, 3, 4], [-4, 3, -2, 1]], np.float32)
    result = _classes(client, "batched", {"x": ("FP32", array)}, count)
    kept = min(count, 3)
    assert result.shape == (2, kept)
    for row, scores in zip(result, array @ weights + bias, strict=True):
        best = np.argsort(-scores, kind="stable")[:kept]
        for item, index in zip(row, best, strict=True):
            value, shown, label = item.decode().split(":")
            assert (float(value), int(shown), label) == (scores[index], index, LABELS[index])


def test_without_labels(client, target):
    target.needs("identity_fp32")
    array = np.array([[0.25, 4, -1]], np.float32)
    result = _classes(client, "identity_fp32", {"x": ("FP32", array)}, 2)
    parts = [item.decode().split(":") for item in result.reshape(-1)]
    assert [(float(value), int(index)) for value, index, *_ in parts] == [(4.0, 1), (0.25, 0)]


@pytest.mark.parametrize("datatype", ["INT8", "UINT64", "INT32", "FP64"])
def test_other_numbers(client, target, datatype):
    model = f"identity_{datatype.lower()}"
    target.needs(model)
    array = np.array([[3, 9, 5]]).astype(_dtype(datatype))
    result = _classes(client, model, {"x": (datatype, array)}, 3)
    assert [int(item.decode().split(":")[1]) for item in result.reshape(-1)] == [1, 2, 0]


def _dtype(datatype):
    return {"INT8": np.int8, "UINT64": np.uint64, "INT32": np.int32, "FP64": np.float64}[datatype]


@pytest.mark.hostile
def test_text_has_no_classes(client, target):
    target.needs("identity_bytes")
    status, message = failing(
        lambda: _classes(client, "identity_bytes", {"x": ("BYTES", np.array([["a"]], dtype=object))}, 1)
    )
    assert status == 400, message


def test_over_http_they_may_be_json(target):
    target.needs("batched")
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    }
    status, answer = target.json("POST", "/v2/models/batched/infer", body)
    assert status == 200, answer
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"], len(output["data"])) == ("BYTES", [1, 2], 2)
