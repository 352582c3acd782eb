"""Compressed bodies, both ways: gzip, and deflate with zlib's wrapping."""

import gzip
import json
import zlib

import numpy as np
import pytest
import tritonclient.http as triton_http

from tests.conformance.target import not_offered

ALGORITHMS = {"gzip": gzip.decompress, "deflate": zlib.decompress}
COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
PATH = "/v2/models/identity_fp32/infer"
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 500], "data": [1.5] * 500}]}
).encode()


@pytest.fixture(autouse=True)
def model(target):
    target.needs("identity_fp32")
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    status, _, answer = target.request("POST", PATH, gzip.compress(BODY), headers)
    if status == 501:
        not_offered(f"compressed requests ({answer.decode()})")


@pytest.mark.parametrize("response", [None, *ALGORITHMS])
@pytest.mark.parametrize("request_algorithm", [None, *ALGORITHMS])
def test_tritonclient(target, request_algorithm, response):
    array = np.random.default_rng(2).integers(0, 3, (2, 4000)).astype(np.float32)
    tensor = triton_http.InferInput("x", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    client = triton_http.InferenceServerClient(target.http)
    result = client.infer(
        "identity_fp32",
        [tensor],
        request_compression_algorithm=request_algorithm,
        response_compression_algorithm=response,
    )
    client.close()
    np.testing.assert_array_equal(result.as_numpy("y"), array)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_answer_is_compressed_when_asked_for(target, algorithm):
    headers = {"Accept-Encoding": algorithm, "Content-Type": "application/json"}
    status, answered, body = target.request("POST", PATH, BODY, headers)
    assert status == 200, body
    assert answered["content-encoding"] == algorithm
    assert json.loads(ALGORITHMS[algorithm](body))["outputs"][0]["data"] == [1.5] * 500


def test_the_answer_is_plain_when_not_asked_for(target):
    status, answered, body = target.request("POST", PATH, BODY, {"Content-Type": "application/json"})
    assert status == 200
    assert "content-encoding" not in answered
    assert json.loads(body)["outputs"][0]["data"] == [1.5] * 500


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_no_such_compression(target, algorithm):
    headers = {"Content-Encoding": algorithm, "Content-Type": "application/json"}
    for broken in (BODY, COMPRESS[algorithm](BODY)[:-20], b""):
        status, _, answer = target.request("POST", PATH, broken, headers)
        assert status in target.refused, answer


def test_an_unknown_compression(target):
    headers = {"Content-Encoding": "br", "Content-Type": "application/json"}
    status, answered, _ = target.request("POST", PATH, BODY, headers)
    assert status == 501
    assert answered["accept-encoding"] == "gzip, deflate"
