"""A server's life: what it refuses to load, what it says then, how it is full, left, and told to stop."""

import json
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from capstan_demo.kube import until
from onnx import TensorProto, helper

SPIN = "/v2/models/spin/infer"


def spin(times, **parameters):
    tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [times]}
    return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()


def metric(serving, name, model="spin", **labels):
    shown = "".join(f',{key}="{value}"' for key, value in labels.items())
    return serving.scrape()[f'{name}{{model="{model}",version="1"{shown}}}']


def pending(serving):
    return metric(serving, "nv_inference_pending_request_count")


@pytest.fixture
def slow(own_repository, start):
    """A server with one worker and a model whose time the caller chooses."""
    own_repository.add_spin()
    return start(own_repository, "--workers", "1", "--queue-size", "2").ready()


def open_request(serving, content):
    connection = socket.create_connection(("127.0.0.1", serving.port), 60)
    head = f"POST {SPIN} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def test_a_full_queue_is_503_and_a_gone_client_frees_its_place(slow):
    busy = open_request(slow, spin(8_000))
    slow.until(lambda: metric(slow, "nv_inference_queue_duration_us") > 0)  # it is executing
    waiting = [open_request(slow, spin(1)) for _ in range(2)]
    slow.until(lambda: pending(slow) == 2)
    status, answer = slow.request("POST", SPIN, spin(1))
    assert (status, json.loads(answer)["error"]) == (503, "Exceeds maximum queue size of model 'spin'")
    for connection in waiting:
        connection.close()
    assert b"200 OK" in busy.recv(65536)
    busy.close()
    slow.until(lambda: metric(slow, "nv_inference_request_failure", reason="CANCELED") == 2)
    assert slow.request("POST", SPIN, spin(1))[0] == 200
    assert metric(slow, "nv_inference_request_success") == 2
    assert metric(slow, "nv_inference_request_failure", reason="REJECTED") == 1


def test_a_request_that_waited_too_long_is_503(slow):
    busy = open_request(slow, spin(5_000))
    slow.until(lambda: metric(slow, "nv_inference_queue_duration_us") > 0)
    status, answer = slow.request("POST", SPIN, spin(1, timeout=1000))
    assert (status, json.loads(answer)["error"]) == (503, "Request timeout expired")
    busy.close()


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_requests_in_flight_hold_so_many_bytes_together(own_repository, start, door):
    own_repository.add_identity("m", "FP32", ["n"])
    serving = start(
        own_repository, "--max-request-bytes", "1000000", "--max-inflight-bytes", "1000000"
    ).ready()
    body = b" " * 600_000
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 1}\r\n\r\n"

    def ask():
        if door == "http":
            status, answer = serving.request("POST", "/v2/models/m/infer", body)
            return status, answer.decode()
        with grpc.insecure_channel(serving.grpc) as channel:
            try:
                return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(body, timeout=60)
            except grpc.RpcError as error:
                return error.code(), error.details()

    wrong, full = {
        "http": (400, 503),
        "grpc": (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE),
    }[door]
    # Nothing is asked before: what it holds may go a moment after its answer, and refuse the slow one.
    with socket.create_connection(("127.0.0.1", serving.port), 60) as slow:
        slow.sendall(head.encode() + body)  # but for a byte
        serving.until(lambda: ask()[0] == full)
        assert "hold as much as they may, 1000000 bytes" in ask()[1]
        assert serving.get("/v2/models/m")[0] == 200
    serving.until(lambda: ask()[0] == wrong)


def refuses(port):
    """Whether nobody listens any more; the last to come may still be let in and closed."""
    try:
        socket.create_connection(("127.0.0.1", port), 60).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_sigterm_finishes_what_was_accepted_and_accepts_no_more(slow):
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slow.request, "POST", SPIN, spin(4_000))
        slow.until(lambda: metric(slow, "nv_inference_queue_duration_us") > 0)
        second = pool.submit(slow.request, "POST", SPIN, spin(10))
        slow.until(lambda: pending(slow) == 1)
        # The last of them may be accepted after it has learned that it ends.
        idle = [socket.create_connection(("127.0.0.1", slow.port), 60) for _ in range(20)]
        slow.process.terminate()
        slow.wait_for("draining")
        for connection in idle:
            assert connection.recv(1) == b""
            connection.close()
        slow.until(lambda: refuses(slow.port))
        assert first.result()[0] == 200
        assert second.result()[0] == 200
    assert slow.end() == 0
    assert "drained" in slow.log


def test_a_drain_ends_in_time_whatever_is_open(own_repository, start):
    own_repository.add_spin()
    serving = start(own_repository, "--workers", "1", "--drain-timeout", "0.2").ready()
    busy = open_request(serving, spin(8_000))
    serving.until(lambda: metric(serving, "nv_inference_queue_duration_us") > 0)
    idle = [open_request(serving, spin(1)) for _ in range(3)]
    assert serving.terminate() == 1
    assert "abandoned" in serving.log
    for connection in (busy, *idle):
        connection.close()


@pytest.mark.parametrize("content", [b"", b"\x08\x07junk", None], ids=["empty", "junk", "cut off"])
def test_a_broken_model_stops_the_server_with_a_reason(own_repository, start, tmp_path, content):
    file = own_repository.add_identity("m", "FP32", ["n"])
    file.write_bytes(file.read_bytes()[:40] if content is None else content)
    log = tmp_path / "termination-log"
    serving = start(own_repository, "--termination-log", str(log))
    assert serving.end() == 1
    report = json.loads(log.read_text())
    assert report["capstan"] == 1
    assert (report["class"], report["exitCode"], report["reason"]) == ("user", 1, "ModelLoadFailed")
    assert str(file) in report["message"]
    assert "not a whole ONNX model" in report["message"]
    assert "export it again" in report["message"]


def test_without_exit_on_error_the_others_are_served(own_repository, start):
    own_repository.add_identity("good", "FP32", ["n"])
    own_repository.add_identity("bad", "FP32", ["n"]).write_bytes(b"junk")
    serving = start(own_repository, "--no-exit-on-error").ready()
    _, answer = serving.request("POST", "/v2/repository/index", b"")
    bad, good = json.loads(answer)
    assert (bad["state"], good["state"]) == ("UNAVAILABLE", "READY")
    assert "not a whole ONNX model" in bad["reason"]
    _, answer = serving.request("POST", "/v2/repository/index", b'{"ready": true}')
    assert [model["name"] for model in json.loads(answer)] == ["good"]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    request = json.dumps({"inputs": [tensor]}).encode()
    assert serving.request("POST", "/v2/models/good/infer", request)[0] == 200
    assert serving.request("POST", "/v2/models/bad/infer", request)[0] == 503
    assert serving.get("/v2/models/bad/ready")[0] == 400
    assert serving.get("/v2/models/good/ready")[0] == 200
    assert serving.get("/v2/models/bad")[0] == 503


def external(location):
    """A model whose one weight lies in another file."""
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_external_data_stay_in_the_models_folder(own_repository, start, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(3, np.float32).tobytes())
    locations = {
        "absolute": str(secret),
        "above": "../../../secret",
        "link": "link",
        "roundabout": "sub/../../../../secret",
        "inside": "weights",
    }
    for name, location in locations.items():
        file = own_repository.file(name)
        file.parent.mkdir(parents=True)
        file.write_bytes(external(location))
    own_repository.file("link").with_name("link").symlink_to(secret)
    own_repository.file("inside").with_name("weights").write_bytes(secret.read_bytes())
    serving = start(own_repository, "--no-exit-on-error").ready()
    _, answer = serving.request("POST", "/v2/repository/index", b"")
    states = {model["name"]: model["state"] for model in json.loads(answer)}
    assert states == dict.fromkeys(locations, "UNAVAILABLE") | {"inside": "READY"}


def test_links_may_not_leave_the_repository(own_repository, start, tmp_path):
    outside = tmp_path / "outside"
    own_repository.add_identity("good", "FP32", ["n"])
    (own_repository.path / "good").rename(outside)
    (own_repository.path / "folder").symlink_to(outside)
    version = own_repository.path / "version"
    version.mkdir()
    (version / "1").symlink_to(outside / "1")
    own_repository.file("file").parent.mkdir(parents=True)
    own_repository.file("file").symlink_to(outside / "1" / "model.onnx")
    own_repository.add_identity("real", "FP32", ["n"])
    (own_repository.path / "alias").symlink_to("real")
    serving = start(own_repository, "--no-exit-on-error").ready()
    _, answer = serving.request("POST", "/v2/repository/index", b"")
    models = {model["name"]: model for model in json.loads(answer)}
    for name in ("folder", "version", "file"):
        assert "outside the model repository" in models[name]["reason"], models[name]
    assert models["real"]["state"] == models["alias"]["state"] == "READY"


def test_a_model_that_is_no_plain_tensors_is_refused_by_name(own_repository, start, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["s"])],
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = own_repository.file("sequence")
    file.parent.mkdir(parents=True)
    onnx.save(model, file)
    serving = start(own_repository)
    assert serving.end() == 1
    assert "'s' is a seq(tensor(float)), which the protocol cannot carry" in serving.log


def test_a_missing_repository_and_a_taken_port(own_repository, start, server, tmp_path):
    log = tmp_path / "termination-log"
    own_repository.path.rmdir()
    assert start(own_repository, "--termination-log", str(log)).end() == 1
    assert json.loads(log.read_text())["reason"] == "ModelRepositoryUnavailable"
    own_repository.path.mkdir()
    taken = start(own_repository, "--http-port", str(server.port), "--termination-log", str(log))
    assert taken.end() == 1
    report = json.loads(log.read_text())
    assert report["reason"] == "AddressUnavailable"
    assert str(server.port) in report["message"]


def test_flags_come_from_the_environment_and_the_table_shows_all(own_repository, start):
    own_repository.add_identity("m", "FP32", ["n", 2])
    environment = {"CAPSTAN_SERVING_WORKERS": "3", "CAPSTAN_SERVING_EXIT_ON_ERROR": "false"}
    serving = start(own_repository, environment=environment).ready()
    assert f"HTTP     {serving.http}" in serving.log
    assert f"gRPC     {serving.grpc}" in serving.log
    assert "x FP32[-1,2] -> y FP32[-1,2]" in serving.log
    assert "CPUExecutionProvider" in serving.log
    tasks = Path(f"/proc/{serving.process.pid}/task")

    def workers() -> int:
        return sum(task.read_text().startswith("infer-") for task in tasks.glob("*/comm"))

    until(lambda: workers() == 3, seconds=10)  # a thread has its name a moment after it has begun
    assert start(own_repository, environment={"CAPSTAN_SERVING_WORKERS": "none"}).end() == 2


def test_it_is_live_but_not_ready_while_it_loads(own_repository, start):
    file = own_repository.add_identity("m0", "FP32", ["n"])
    for index in range(1, 300):
        shutil.copytree(file.parent.parent, own_repository.path / f"m{index}")
    serving = start(own_repository)
    ports = serving.wait_for(r"listening: HTTP (\S+),")
    serving.http = ports[1]
    seen = set()
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            ready = serving.get("/v2/health/ready")[0]
            seen.add((serving.get("/v2/health/live")[0], ready))

    watcher = threading.Thread(target=watch)
    watcher.start()
    serving.ready()
    serving.until(lambda: (200, 200) in seen)
    stop.set()
    watcher.join()
    assert seen == {(200, 400), (200, 200)}
