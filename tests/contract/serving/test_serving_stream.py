"""Calls that are streams, deadlines, compression and health over gRPC."""

import asyncio
import queue
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.contract.serving.wire import END_STREAM, HEADERS, INFER, Http2, message

HEALTH = "/grpc.health.v1.Health/Watch"


def tensor(values, module=triton_grpc):
    made = module.InferInput("x", list(values.shape), "FP32")
    made.set_data_from_numpy(values)
    return made


def request(number=0, model="identity_fp32", size=1):
    values = np.full((1, size), number, np.float32)
    message = service_pb2.ModelInferRequest(model_name=model, id=str(number))
    message.inputs.add(name="x", datatype="FP32", shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    return message


def spin(times):
    message = service_pb2.ModelInferRequest(model_name="spin", id="spin")
    message.inputs.add(name="n", datatype="INT64", shape=[1])
    message.raw_input_contents.append(np.array([times], np.int64).tobytes())
    return message


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


class Stream:
    """A client's stream, and what came back on it."""

    def __init__(self, client, **options):
        self.answers = queue.Queue()
        self.client = client
        client.start_stream(lambda result, error: self.answers.put((result, error)), **options)

    def take(self):
        return self.answers.get(timeout=60)


@pytest.fixture
def client(server):
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        yield client


def test_responses_come_in_order_and_each_is_final(client):
    stream = Stream(client)
    for number in range(200):
        client.async_stream_infer(
            "identity_fp32",
            [tensor(np.full((1, 1), number, np.float32))],
            request_id=str(number),
            enable_empty_final_response=number % 2 == 0,
        )
    for number in range(200):
        result, error = stream.take()
        assert error is None
        response = result.get_response()
        assert (response.id, result.as_numpy("y").tolist()) == (str(number), [[number]])
        assert response.parameters["triton_final_response"].bool_param
    client.stop_stream()
    assert stream.answers.empty()


def test_an_error_is_a_response_and_the_stream_goes_on(client):
    stream = Stream(client)
    one = [tensor(np.ones((1, 1), np.float32))]
    client.async_stream_infer("nothing", one, request_id="bad")
    client.async_stream_infer("identity_fp32", one, request_id="good")
    _, error = stream.take()
    assert "unknown model: 'nothing'" in str(error)
    result, error = stream.take()
    assert (error, result.get_response().id) == (None, "good")


def test_an_error_says_which_request_it_is_of(stub):
    (answer,) = stub.ModelStreamInfer(iter([request(7, model="nothing")]), timeout=60)
    assert "'nothing'" in answer.error_message
    assert answer.infer_response.id == "7"


def test_errors_end_the_stream_when_that_is_asked_for(client):
    stream = Stream(client, headers={"triton_grpc_error": "true"})
    client.async_stream_infer("nothing", [tensor(np.ones((1, 1), np.float32))])
    _, error = stream.take()
    assert isinstance(error, InferenceServerException)
    assert error.status() == "StatusCode.NOT_FOUND"


def test_the_aio_client_streams(server):
    async def run():
        async with triton_grpc_aio.InferenceServerClient(server.grpc) as client:

            async def requests():
                for number in range(20):
                    values = np.full((1, 1), number, np.float32)
                    yield {"model_name": "identity_fp32", "inputs": [tensor(values, triton_grpc_aio)]}

            return [
                result.as_numpy("y").item()
                async for result, error in client.stream_infer(requests())
                if error is None
            ]

    assert asyncio.run(run()) == list(range(20))


def test_a_broken_message_ends_the_stream_after_the_answers_to_the_others(server):
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        slow, good = spin(500).SerializeToString(), request().SerializeToString()
        answers = call(iter([slow, good, b"\xff\xff\xff", good]), timeout=60)
        assert b"spin" in next(answers)
        assert b"identity_fp32" in next(answers)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_empty_stream_ends_well(stub):
    assert list(stub.ModelStreamInfer(iter([]), timeout=60)) == []


def test_a_stream_that_is_idle_stays_open(stub):
    go = threading.Event()

    def requests():
        yield request(1)
        go.wait(60)
        yield request(2)

    answers = stub.ModelStreamInfer(requests(), timeout=60)
    assert next(answers).infer_response.id == "1"
    go.set()
    assert next(answers).infer_response.id == "2"


def test_a_client_that_does_not_read_holds_up_only_itself(server, stub):
    """Large answers that nobody takes: the server stops reading rather than to pile them up."""
    sent = []
    size = 1 << 18

    def requests():
        for number in range(500):
            sent.append(number)
            yield request(number, size=size)

    before = server.memory()
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
        lazy = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), timeout=120)
        seen = -1
        while len(sent) != seen:  # until it comes to a stop
            seen = len(sent)
            time.sleep(1)
        assert len(sent) < 400
        assert server.memory() - before < 400 << 20
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=60).live
        lazy.cancel()


def test_cancelling_a_stream_frees_its_places(own_repository, start):
    own_repository.add_spin()
    slow = start(own_repository, "--workers", "1").ready()
    pending = 'nv_inference_pending_request_count{model="spin",version="1"}'
    queued = 'nv_inference_queue_duration_us{model="spin",version="1"}'
    cancelled = 'nv_inference_request_failure{model="spin",version="1",reason="CANCELED"}'
    with grpc.insecure_channel(slow.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([spin(4000), *(spin(1) for _ in range(5))]), timeout=120)
        slow.until(lambda: slow.scrape()[queued] > 0)  # the first is executing
        slow.until(lambda: slow.scrape()[pending] == 5)
        call.cancel()
        slow.until(lambda: slow.scrape()[cancelled] >= 5, timeout=90)
        slow.until(lambda: slow.scrape()[pending] == 0)
        assert stub.ModelInfer(spin(1), timeout=60).id == "spin"


# "grpc-status" and "4", as HPACK's Huffman code has them.
DEADLINE_EXCEEDED = bytes.fromhex("889acac8b21234da8f816b")


def test_a_deadline_that_passes_is_told_by_the_server(own_repository, start):
    """Clients have timers of their own, so this one is made by hand."""
    own_repository.add_spin()
    slow = start(own_repository, "--workers", "1").ready()
    with Http2(slow.grpc) as connection:
        connection.open(1, INFER, grpc_timeout="200m")
        connection.body(1, message(spin(30_000).SerializeToString()))
        end = connection.end(1)
        assert (end.kind, end.flags & END_STREAM) == (HEADERS, END_STREAM), "no status without a message"
        assert DEADLINE_EXCEEDED in end.payload, end.payload.hex()
        assert slow.scrape()['nv_inference_request_success{model="spin",version="1"}'] == 0


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client, algorithm):
    values = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    result = client.infer("identity_fp32", [tensor(values)], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("y"), values)
    stream = Stream(client, compression_algorithm=algorithm)
    client.async_stream_infer("identity_fp32", [tensor(values)])
    result, error = stream.take()
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("y"), values)


def test_a_reply_is_compressed_when_the_request_was(server):
    """Zeros on the wire: what the client gets is far less than what they are."""
    values = np.zeros((1 << 18, 2), np.float32)
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = request()
        message.inputs[0].shape[:] = values.shape
        message.raw_input_contents[0] = values.tobytes()
        for compression, least, most in (
            (grpc.Compression.Gzip, 0, 100_000),
            (grpc.Compression.NoCompression, values.nbytes, 2 * values.nbytes),
        ):
            before = traffic(server.process.pid)
            answer = stub.ModelInfer(message, timeout=60, compression=compression)
            assert answer.raw_output_contents[0] == values.tobytes()
            assert least <= traffic(server.process.pid) - before <= most


def traffic(pid):
    """Bytes the process has written, sockets included."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def test_a_compression_bomb_is_refused_at_the_limit(server):
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(64 << 20), timeout=60, compression=grpc.Compression.Gzip)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_health_is_watched(own_repository, start):
    own_repository.add_spin()
    serving = start(own_repository).ready()
    with grpc.insecure_channel(serving.grpc) as channel:
        watch = channel.unary_stream(HEALTH)
        ours = watch(b"\x0a\x1einference.GRPCInferenceService", timeout=120)
        unknown = watch(b"\x0a\x01x", timeout=120)
        assert next(ours) == b"\x08\x01"
        assert next(unknown) == b"\x08\x03"
        unknown.cancel()
        serving.process.terminate()
        assert next(ours) == b"\x08\x02"
        with pytest.raises(grpc.RpcError) as caught:
            next(ours)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert serving.end() == 0


def test_a_drain_ends_open_streams_after_their_answers(own_repository, start):
    own_repository.add_spin()
    serving = start(own_repository).ready()
    with grpc.insecure_channel(serving.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stop = threading.Event()

        def requests():
            yield spin(5000)
            stop.wait(60)

        answers = stub.ModelStreamInfer(requests(), timeout=120)
        queued = 'nv_inference_queue_duration_us{model="spin",version="1"}'
        serving.until(lambda: serving.scrape()[queued] > 0)
        serving.process.terminate()
        assert next(answers).infer_response.id == "spin"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        stop.set()
    assert serving.end() == 0
