"""ModelStreamInfer: one stream for many requests, whose errors are answers."""

import asyncio
import queue

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from grpc import RpcError, StatusCode
from tritonclient.utils import InferenceServerException

from tests.conformance.target import Client, code, not_offered


@pytest.fixture(autouse=True)
def offered(target):
    target.needs("identity_fp32")
    client = target.stub()
    try:
        list(client._client_stub.ModelStreamInfer(iter([_message(target, 0)]), timeout=60))
    except RpcError as error:
        if error.code() is StatusCode.UNIMPLEMENTED:
            not_offered("ModelStreamInfer")
        raise
    finally:
        client.close()


def _message(target, number):
    array = np.full((1, 2), number, np.float32)
    request = target.grpc_request("identity_fp32", x=("FP32", array))
    request.id = str(number)
    return request


def _array(number):
    return np.full((1, 2), number, np.float32)


def _inputs(module, number):
    tensor = module.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(_array(number))
    return [tensor]


def test_answers_come_in_order(target):
    answers = queue.Queue()
    client = triton_grpc.InferenceServerClient(target.grpc)
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        client.async_stream_infer("identity_fp32", _inputs(triton_grpc, number), request_id=str(number))
    for number in range(20):
        result, error = answers.get(timeout=60)
        assert error is None
        assert result.get_response().id == str(number)
        np.testing.assert_array_equal(result.as_numpy("y"), _array(number))
    client.stop_stream()
    client.close()
    assert answers.empty()


def test_aio(target):
    async def run():
        async def requests():
            for number in range(20):
                yield {
                    "model_name": "identity_fp32",
                    "inputs": _inputs(triton_grpc_aio, number),
                    "request_id": str(number),
                }

        async with triton_grpc_aio.InferenceServerClient(target.grpc) as client:
            number = 0
            async for result, error in client.stream_infer(requests()):
                assert error is None
                assert result.get_response().id == str(number)
                np.testing.assert_array_equal(result.as_numpy("y"), _array(number))
                number += 1
        assert number == 20

    asyncio.run(run())


def test_an_error_is_an_answer_and_the_stream_goes_on(target):
    answers = queue.Queue()
    client = triton_grpc.InferenceServerClient(target.grpc)
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("no_such_model", _inputs(triton_grpc, 1))
    result, error = answers.get(timeout=60)
    assert result is None
    assert "no_such_model" in str(error)
    client.async_stream_infer("identity_fp32", _inputs(triton_grpc, 2))
    result, error = answers.get(timeout=60)
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("y"), _array(2))
    client.stop_stream()
    client.close()


def test_an_error_is_a_status_where_asked_for(target):
    """Triton does so for what fails in the model; what it refuses before is an answer all the same."""
    target.needs("sums")
    answers = queue.Queue()
    client = triton_grpc.InferenceServerClient(target.grpc)
    client.start_stream(
        lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"}
    )
    tensors = []
    for name, columns in (("a", 2), ("b", 3)):  # matrices that cannot be added
        tensor = triton_grpc.InferInput(name, [1, columns], "INT32")
        tensor.set_data_from_numpy(np.ones((1, columns), np.int32))
        tensors.append(tensor)
    client.async_stream_infer("sums", tensors)
    _, error = answers.get(timeout=60)
    assert isinstance(error, InferenceServerException)
    assert error.status() is not None
    assert code(error) in target.codes(500, 400)
    client.stop_stream()
    client.close()


def test_an_empty_final_response_says_so(target):
    client = target.stub()
    request = _message(target, 4)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = list(client._client_stub.ModelStreamInfer(iter([request]), timeout=60))
    client.close()
    finals = [
        answer.infer_response.parameters["triton_final_response"].bool_param
        for answer in answers
        if "triton_final_response" in answer.infer_response.parameters
    ]
    assert finals[-1] is True
    assert not any(finals[:-1])
    assert len([answer for answer in answers if answer.infer_response.outputs]) == 1


def test_a_stream_of_nothing_ends(target):
    client = target.stub()
    assert list(client._client_stub.ModelStreamInfer(iter([]), timeout=60)) == []
    client.close()


def test_a_stream_left_alone_harms_nobody(target):
    for _ in range(5):
        client = target.stub()
        call = client._client_stub.ModelStreamInfer(iter([_message(target, n) for n in range(50)]))
        next(call)
        call.cancel()
        client.close()
    result = Client("grpc", target).infer("identity_fp32", {"x": ("FP32", _array(6))})
    np.testing.assert_array_equal(result.as_numpy("y"), _array(6))
