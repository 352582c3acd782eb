"""What a client sees of a model's scheduling, with a backend that goes on when the test lets it."""

import contextlib
import http.client
import json
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import grpc
import numpy as np
import pytest
from capstan_serving import metrics
from capstan_serving._native import Server
from capstan_serving.catalog import Catalog
from capstan_serving.control import Control
from capstan_serving.errors import InvalidArgument
from capstan_serving.scheduling import QueuePolicy, Scheduling
from capstan_serving.signature import Signature, TensorSpec
from tritonclient.grpc import service_pb2, service_pb2_grpc

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "INT64", (-1, 1)),),
    outputs=(TensorSpec("y", "INT64", (-1, 1)), TensorSpec("z", "INT64", (-1, 1))),
    max_batch=8,
)
PATIENCE = 30


class Gate:
    """A backend that says what it begins, and goes on when it is let. 13 is a bad request."""

    def __init__(self, is_open=False):
        self.begun = queue.Queue()
        self.executions = []
        self.open = threading.Event()
        if is_open:
            self.open.set()

    def __call__(self, batch):
        values = batch.inputs["x"][:, 0].tolist()
        self.begun.put(values)
        assert self.open.wait(PATIENCE)
        self.executions.append(values)
        if 13 in values:
            raise InvalidArgument("13")
        return [batch.inputs["x"] * (2 if name == "y" else 3) for name in batch.outputs]


class Serving:
    """A server in this process, and clients of it."""

    def __init__(self):
        self.server = Server(
            Control(Catalog()),
            host="127.0.0.1",
            ports=(0, 0, 0),
            max_request_bytes=1 << 20,
            max_inflight_bytes=1 << 22,
            max_connections=256,
            client_timeout=30,
            queue_size=64,
            response_cache_bytes=1 << 20,
        )
        self.server.set_ready(True)
        self.pool = ThreadPoolExecutor(64)
        self.gates = []

    def add(self, name="m", version=1, workers=1, is_open=False, signature=SIGNATURE, **scheduling):
        gate = Gate(is_open)
        self.gates.append(gate)
        self.server.add_model(
            name,
            version,
            signature=signature,
            execute=gate,
            workers=workers,
            scheduling=Scheduling(**scheduling),
        )
        return gate

    def infer(self, value, name="m", outputs=(), **parameters):
        tensor = {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [value]}
        body = {"inputs": [tensor], "parameters": parameters}
        body |= {"outputs": [{"name": output} for output in outputs]} if outputs else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", f"/v2/models/{name}/infer", json.dumps(body))
            response = connection.getresponse()
            answer = json.load(response)
        if response.status == 200:
            return [tensor["data"] for tensor in answer["outputs"]]
        return response.status, answer["error"]

    def send(self, *arguments, **parameters):
        """Infer in another thread, once everything sent before is with the server."""
        before = self.present()
        future = self.pool.submit(self.infer, *arguments, **parameters)
        self.until(lambda: self.present() > before or future.done())
        return future

    def present(self):
        """Requests that the server has seen."""
        return sum(
            model["pending"] + model["queue"][0] + model["failed"][0] for model in self.server.statistics()
        )

    def statistics(self, name="m"):
        (found,) = [model for model in self.server.statistics() if model["name"] == name]
        return found

    def until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.server.statistics()
            time.sleep(0.002)

    def close(self):
        for gate in self.gates:
            gate.open.set()
        assert self.server.drain(PATIENCE)
        self.pool.shutdown()


@pytest.fixture
def serving():
    serving = Serving()
    yield serving
    serving.close()


def busy(serving, gate, value=0):
    """Occupy the model's one worker."""
    future = serving.send(value)
    assert gate.begun.get(timeout=PATIENCE) == [value]
    return future


def test_a_delay_waits_for_others_and_no_longer_than_it_must(serving):
    gate = serving.add(is_open=True, max_queue_delay_microseconds=20_000_000, preferred_batch_size=(2, 4))
    futures = [serving.send(value) for value in (1, 2)]
    assert [future.result(PATIENCE) for future in futures] == [[[2], [3]], [[4], [6]]]
    assert gate.executions == [[1, 2]]


def test_without_a_delay_nothing_waits(serving):
    gate = serving.add(is_open=True)
    assert [serving.infer(value) for value in (1, 2)] == [[[2], [3]], [[4], [6]]]
    assert gate.executions == [[1], [2]]


def test_batching_can_be_turned_off(serving):
    gate = serving.add(batching=False)
    first = busy(serving, gate)
    futures = [serving.send(value) for value in (1, 2)]
    gate.open.set()
    assert all(future.result(PATIENCE) for future in (first, *futures))
    assert gate.executions == [[0], [1], [2]]


def test_priorities_go_first(serving):
    gate = serving.add(batching=False, priority_levels=3, default_priority_level=2)
    futures = [busy(serving, gate)]
    futures += [
        serving.send(value, priority=priority) for value, priority in ((1, 3), (2, 0), (3, 1), (4, 9))
    ]
    stub = grpc.insecure_channel(f"127.0.0.1:{serving.server.grpc_port}")
    with stub:
        request = service_pb2.ModelInferRequest(model_name="m")
        request.inputs.add(name="x", datatype="INT64", shape=[1, 1])
        request.raw_input_contents.append(np.int64(5).tobytes())
        request.parameters["priority"].uint64_param = 1
        before = serving.present()
        futures.append(service_pb2_grpc.GRPCInferenceServiceStub(stub).ModelInfer.future(request))
        serving.until(lambda: serving.present() > before)
        gate.open.set()
        for future in futures:
            future.result(PATIENCE)
    assert gate.executions == [[0], [3], [5], [2], [4], [1]]


def test_a_timeout_is_answered_while_every_worker_is_busy(serving):
    gate = serving.add()
    first = busy(serving, gate)
    assert serving.infer(1, timeout=2000) == (503, "Request timeout expired")
    assert not first.done()
    gate.open.set()
    first.result(PATIENCE)
    assert gate.executions == [[0]]
    assert serving.statistics()["rejected"] == 1


def test_a_timeout_may_delay(serving):
    policy = QueuePolicy("DELAY", default_timeout_microseconds=1, allow_timeout_override=False)
    gate = serving.add(
        batching=False, priority_levels=1, default_priority_level=1, priority_queue_policy={1: policy}
    )
    futures = [busy(serving, gate), serving.send(1), serving.send(2)]
    gate.open.set()
    assert [future.result(PATIENCE)[0] for future in futures] == [[0], [2], [4]]


def test_a_full_queue_refuses(serving):
    gate = serving.add(default_queue_policy=QueuePolicy(max_queue_size=2))
    futures = [busy(serving, gate), serving.send(1), serving.send(2)]
    status, error = serving.infer(3)
    assert status == 503
    assert "Exceeds maximum queue size" in error
    gate.open.set()
    assert all(future.result(PATIENCE) for future in futures)


@pytest.mark.parametrize("preserve", [True, False])
def test_answers_keep_the_order_of_their_requests_if_they_must(serving, preserve):
    begun, go = threading.Event(), threading.Event()

    def execute(batch):
        if batch.inputs["x"][0, 0] == 0:
            begun.set()
            assert go.wait(PATIENCE)
        return [batch.inputs["x"]] * len(batch.outputs)

    scheduling = Scheduling(batching=False, preserve_ordering=preserve)
    serving.server.add_model("m", 1, signature=SIGNATURE, execute=execute, workers=2, scheduling=scheduling)
    first = serving.send(0)
    assert begun.wait(PATIENCE)
    second = serving.send(1)
    serving.until(lambda: serving.statistics()["executions"] == 1)
    if preserve:
        assert not wait([second], timeout=0.2).done, "it overtook"
    else:
        second.result(PATIENCE)
        assert not first.done()
    go.set()
    assert [first.result(PATIENCE)[0], second.result(PATIENCE)[0]] == [[0], [1]]


def test_orders_and_what_breaks_them_are_not_combined(serving):
    for wrong in ({"response_cache": True}, {"priority_levels": 2, "default_priority_level": 1}):
        with pytest.raises(ValueError, match="preserve_ordering"):
            serving.add(preserve_ordering=True, **wrong)


def test_what_cannot_be_answered_in_time_is_refused_at_once(serving):
    """The model takes 0.2 s, so of many that come together few can be done within 0.5 s."""

    def execute(batch):
        time.sleep(0.2)
        done.append(len(batch.inputs["x"]))
        return [batch.inputs["x"]] * len(batch.outputs)

    done = []
    scheduling = Scheduling(batching=False, latency_objective_microseconds=500_000)
    serving.server.add_model("m", 1, signature=SIGNATURE, execute=execute, workers=1, scheduling=scheduling)
    serving.infer(0)
    learned = len(done)
    answers = list(serving.pool.map(serving.infer, range(40)))
    refused = [answer for answer in answers if answer[0] == 503]
    assert len(refused) >= 30
    assert any("latency objective of 500ms" in error for _, error in refused)
    assert len(done) - learned == len(answers) - len(refused) >= 1
    assert serving.statistics()["rejected"] == len(refused)
    assert serving.infer(1) == [[1], [1]]


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_a_client_that_goes_gives_up_its_place(serving, door):
    gate = serving.add(batching=False, default_queue_policy=QueuePolicy(max_queue_size=1))
    first = busy(serving, gate)
    body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    if door == "http":
        connection = http.client.HTTPConnection("127.0.0.1", serving.server.http_port)
        connection.request("POST", "/v2/models/m/infer", json.dumps(body))
        leave = connection.close
    else:
        channel = grpc.insecure_channel(f"127.0.0.1:{serving.server.grpc_port}")
        request = service_pb2.ModelInferRequest(model_name="m")
        request.inputs.add(name="x", datatype="INT64", shape=[1, 1])
        request.raw_input_contents.append(np.int64(1).tobytes())
        leave = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request).cancel
    serving.until(lambda: serving.statistics()["pending"] == 1)
    assert serving.infer(2)[0] == 503  # it is full
    leave()
    serving.until(lambda: serving.statistics()["cancelled"] == 1)
    third = serving.send(3)
    assert serving.statistics()["pending"] == 1
    gate.open.set()
    assert [first.result(PATIENCE)[0], third.result(PATIENCE)[0]] == [[0], [6]]
    assert gate.executions == [[0], [3]]
    page = metrics.exposition(serving.server.statistics(), []).decode()
    assert 'nv_inference_request_failure{model="m",version="1",reason="CANCELED"} 1' in page
    if door == "grpc":
        channel.close()


def test_a_model_with_a_long_queue_starves_no_other(serving):
    """Each model has its own threads and its own queue."""
    gate = serving.add(batching=False)
    futures = [busy(serving, gate)] + [serving.send(value) for value in range(1, 30)]
    other = serving.add("other", is_open=True)
    for value in range(10):
        assert serving.infer(value, "other")[0] == [2 * value]
    assert len(other.executions) == 10
    assert serving.statistics()["pending"] == 29
    gate.open.set()
    assert all(future.result(PATIENCE) for future in futures)


def test_repeated_requests_are_answered_from_the_cache(serving):
    gate = serving.add(is_open=True, response_cache=True)
    plain = serving.add("plain", is_open=True)
    for _ in range(3):
        assert serving.infer(1) == [[2], [3]]
        assert serving.infer(1, "plain") == [[2], [3]]
    assert serving.infer(1, outputs=["z"]) == [[3]]
    assert serving.infer(1, outputs=["z", "y"]) == [[3], [2]]
    assert serving.infer(2) == [[4], [6]]
    assert (len(gate.executions), len(plain.executions)) == (4, 3)
    for _ in range(2):
        assert serving.infer(13) == (400, "13")
    assert len(gate.executions) == 6  # failures are not kept
    seen = serving.statistics()
    assert (seen["cache_hit"][0], seen["cache_miss"][0]) == (2, 4)
    assert (seen["success"][0], seen["inferences"]) == (6, 4)
    assert serving.statistics("plain")["cache_miss"][0] == 0


def test_a_reloaded_model_answers_for_itself(serving):
    serving.add(is_open=True, response_cache=True)
    assert serving.infer(1) == [[2], [3]]
    again = serving.add(is_open=True, response_cache=True)
    assert serving.infer(1) == [[2], [3]]
    assert again.executions == [[1]]


def test_every_request_is_counted_once(serving):
    gate = serving.add()
    futures = [busy(serving, gate)] + [serving.send(value) for value in (1, 2, 13)]
    gate.open.set()
    assert [future.result(PATIENCE)[0] for future in futures] == [[0], [2], [4], 400]
    seen = serving.statistics()
    assert (seen["success"][0], seen["failed"][0], seen["backend_failed"]) == (3, 1, 1)
    assert sum(seen["request_times"][0]) == 3
    assert (sum(seen["queue_times"][0]), seen["queue"][0]) == (4, 4)
    assert seen["queue_times"][1] == seen["queue"][1]
    assert sum(seen["compute_times"][0]) == sum(seen["batch_rows"][0]) == seen["executions"] == 3
    assert seen["batch_rows"][1] == seen["inferences"] == 3
    assert {rows: size[0] for rows, size in seen["by_rows"].items()} == {1: 3}
