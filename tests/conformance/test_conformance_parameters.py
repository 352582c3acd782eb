"""Parameters of a request: those that schedule it, those that are reserved,
those that are the model's own."""

import threading
import time

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conformance.target import as_json

ONE = {"x": ("FP32", np.ones((1, 1), np.float32))}


@pytest.mark.parametrize("parameters", [{"note": "hello"}, {"flag": True}, {"count": 7}])
def test_a_models_own_parameters_are_accepted(client, target, parameters):
    target.extension("parameters")
    target.needs("identity_fp32")
    result = client.infer("identity_fp32", ONE, parameters=parameters)
    np.testing.assert_array_equal(result.as_numpy("y"), ONE["x"][1])


def test_reserved_prefix_over_grpc(target):
    target.needs("identity_fp32")
    client = target.stub()
    request = target.grpc_request("identity_fp32", **ONE)
    request.parameters["triton_something"].bool_param = True
    with pytest.raises(Exception, match="reserved") as caught:
        client._client_stub.ModelInfer(request)
    client.close()
    assert caught.value.code().name == "INVALID_ARGUMENT"


def test_reserved_prefix_over_http(target):
    target.needs("identity_fp32")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = {"inputs": [tensor], "parameters": {"triton_something": True}}
    status, answer = target.json("POST", "/v2/models/identity_fp32/infer", body)
    assert status == 400, answer
    assert "reserved" in answer["error"]


@pytest.mark.parametrize("options", [{"priority": 1}, {"priority": 2}, {"timeout": 60_000_000}])
def test_priority_and_timeout_of_a_queue_that_has_them(client, target, options):
    target.needs("queue")
    result = client.infer("queue", {"n": ("INT64", np.ones((1, 1), np.int64))}, **options)
    assert result.as_numpy("y").shape == (1, 1)


@pytest.mark.parametrize("options", [{"priority": 1}, {"timeout": 60_000_000}])
def test_priority_and_timeout_of_a_model_without(client, target, options):
    target.needs("identity_fp32")
    result = client.infer("identity_fp32", ONE, **options)
    np.testing.assert_array_equal(result.as_numpy("y"), ONE["x"][1])


@pytest.fixture(scope="module")
def half_a_second(target):
    """How many turns of the model `queue` take half a second here."""
    target.needs("queue")
    turns = 500
    while True:
        began = time.monotonic()
        _spin(target, turns)
        took = time.monotonic() - began
        if took > 0.1:
            return int(turns * 0.5 / took)
        turns *= 4


def _spin(target, turns):
    tensor = {"name": "n", "datatype": "INT64", "shape": [1, 1], "data": [int(turns)]}
    status, answer = target.json("POST", "/v2/models/queue/infer", {"inputs": [tensor]})
    assert status == 200, answer


@pytest.fixture
def busy(target, half_a_second):
    """A model that executes something long, so that all else waits."""
    thread = threading.Thread(target=_spin, args=(target, half_a_second * 4))
    thread.start()
    time.sleep(0.2)  # nothing tells that a request is being executed
    yield
    thread.join()


def test_a_request_that_waited_too_long_is_refused(client, target, busy):
    n = {"n": ("INT64", np.ones((1, 1), np.int64))}
    status, message = client.error("infer", "queue", n, timeout=1000)
    assert status == 503, message
    assert "timeout" in message.lower()


def test_a_full_queue_refuses(client, target, busy):
    n = {"n": ("INT64", np.ones((1, 1), np.int64))}
    outcomes = []

    def one():
        try:
            client.infer("queue", n)
            outcomes.append((200, ""))
        except InferenceServerException as error:
            outcomes.append((error.status(), str(error)))

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [message for status, message in outcomes if status in ("503", "StatusCode.UNAVAILABLE")]
    assert len(refused) + outcomes.count((200, "")) == 10, outcomes
    assert 4 <= len(refused) <= 6, outcomes
    assert all("queue size" in message for message in refused)


def test_the_important_overtake(target, busy, half_a_second):
    """The first served waits longest, but one that is more important goes before."""
    some_time = half_a_second // 4  # each takes so long that answers are not seen in another order
    target.needs("queue")
    order = []

    def one(priority):
        tensor = {"name": "n", "datatype": "INT64", "shape": [1, 1], "data": [some_time]}
        body = {"inputs": [tensor], "parameters": {"priority": priority}}
        status, answer = target.json("POST", "/v2/models/queue/infer", body)
        assert status == 200, answer
        order.append(priority)

    threads = [threading.Thread(target=one, args=(priority,)) for priority in (2, 2, 1)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # they must arrive in this order
    for thread in threads:
        thread.join()
    assert order[0] == 1, order


def test_stream_parameters(target):
    """The one name with the prefix that is allowed."""
    target.needs("identity_fp32")
    client = target.stub()
    request = target.grpc_request("identity_fp32", **ONE)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    answer = as_json(client._client_stub.ModelInfer(request))
    client.close()
    assert answer["outputs"][0]["shape"] == [1, 1]
