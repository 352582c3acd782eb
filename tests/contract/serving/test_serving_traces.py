"""Traces, as a collector gets them: whose they are, what they say, and that they are in nobody's way."""

import json
import socket
import time
import urllib.request
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.contract.serving.collector import Collector, plain

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = ({"traceparent": f"00-{TRACE}-{PARENT}-{flag}"} for flag in ("01", "00"))
PHASES = ["queue", "compute_input", "compute_infer", "compute_output"]
BUSY = 'nv_inference_queue_duration_us{model="spin",version="1"}'
GONE = 'nv_inference_request_failure{model="spin",version="1",reason="CANCELED"}'
#: Nothing is to be waited for.
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def serve(own_repository, start, collector):
    def serve(*arguments, endpoint=collector.url, **environment):
        own_repository.add_tables()
        named = ("--trace-otlp-endpoint", endpoint) if endpoint else ()
        return start(own_repository, *named, *arguments, environment=SOON | environment).ready()

    return serve


def body(rows=1, **more):
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [1.0] * (4 * rows)}
    return json.dumps({"inputs": [tensor]} | more).encode()


def infer(serving, headers=None, path="/v2/models/mlp/infer", content=None):
    return serving.request("POST", path, content or body(), headers)


def roots(collector):
    return [span for span in collector.spans() if span.kind == span.SPAN_KIND_SERVER]


def test_a_request_over_http_is_a_span_of_its_callers_trace(serve, collector):
    before = time.time_ns()
    serving = serve()
    headers = SAMPLED | {"tracestate": "vendor=1"}
    assert infer(serving, headers, "/v2/models/mlp/versions/1/infer", body(3, id="seven"))[0] == 200
    root, *phases = collector.wait(5)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert (root.kind, root.status.code, root.trace_state) == (root.SPAN_KIND_SERVER, 0, "vendor=1")
    assert plain(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/versions/{version}/infer",
        "http.response.status_code": 200,
        "url.path": "/v2/models/mlp/versions/1/infer",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "triton.model_name": "mlp",
        "triton.model_version": "1",
        "triton.request_id": "seven",
        "capstan.batch_size": 3,
    }
    assert [span.name for span in phases] == PHASES
    moments = [root.start_time_unix_nano]
    for span in phases:
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert span.kind == span.SPAN_KIND_INTERNAL
        moments += [span.start_time_unix_nano, span.end_time_unix_nano]
    assert moments == sorted(moments)
    assert before < moments[0]
    assert moments[-1] <= root.end_time_unix_nano < time.time_ns()
    assert len({span.span_id for span in collector.spans()}) == 5


def test_a_call_over_grpc_is_one_too(serve, collector):
    serving = serve()
    tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    with triton_grpc.InferenceServerClient(serving.grpc) as client:
        client.infer("mlp", [tensor], headers=SAMPLED, request_id="7")
        with pytest.raises(InferenceServerException):
            client.infer("nothing", [tensor], headers=SAMPLED)
    good, bad = (collector.wait(6), roots(collector))[1]
    assert good.name == "inference.GRPCInferenceService/ModelInfer"
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert plain(good.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "triton.model_name": "mlp",
        "triton.model_version": "1",
        "triton.request_id": "7",
        "capstan.batch_size": 1,
    }
    # What the caller did wrong is no error of the server's.
    assert (plain(bad.attributes)["rpc.grpc.status_code"], bad.status.code) == (5, 0)


def test_every_request_of_a_stream_is_one(serve, collector):
    serving = serve()
    answers = []
    tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    with triton_grpc.InferenceServerClient(serving.grpc) as client:
        client.start_stream(lambda result, error: answers.append(error), headers=SAMPLED)
        for _ in range(3):
            client.async_stream_infer("mlp", [tensor])
        client.stop_stream()
    collector.wait(15)
    assert answers == [None] * 3
    methods = {(plain(span.attributes)["rpc.method"], span.parent_span_id.hex()) for span in roots(collector)}
    assert methods == {("ModelStreamInfer", PARENT)}


def test_what_was_not_sampled_is_not_exported(serve, collector):
    serving = serve()
    for _ in range(5):
        assert infer(serving, NOT_SAMPLED)[0] == 200
    assert infer(serving, SAMPLED)[0] == 200
    assert infer(serving)[0] == 200  # a trace of its own
    collector.wait(10)
    traces = Counter(span.trace_id.hex() for span in roots(collector))
    assert traces.pop(TRACE) == 1
    assert list(traces.values()) == [1]
    own = next(span for span in roots(collector) if span.trace_id.hex() != TRACE)
    assert own.parent_span_id == b""


def test_a_sampler_by_the_environment(serve, collector):
    serving = serve(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0")
    for _ in range(5):
        assert infer(serving)[0] == 200
    assert infer(serving, SAMPLED)[0] == 200
    collector.wait(5)
    assert [span.trace_id.hex() for span in roots(collector)] == [TRACE]


def test_what_failed_says_so(serve, collector):
    serving = serve()
    assert infer(serving, SAMPLED, content=b"{}")[0] == 400
    tensor = {"name": "index", "datatype": "INT64", "shape": [1], "data": [9]}
    infer(serving, SAMPLED, "/v2/models/lookup/infer", json.dumps({"inputs": [tensor]}).encode())
    infer(serving, SAMPLED, "/v2/models/lookup/generate_stream", b'{"index": 9}')
    collector.wait(3)
    told = [
        (plain(span.attributes)["http.response.status_code"], span.status.code) for span in roots(collector)
    ]
    assert told[0] == (400, 0)
    for status, code in told[1:]:
        assert (code == 2) == (status >= 500)


def test_a_client_that_goes_away_is_an_error(own_repository, start, collector):
    own_repository.add_spin()
    serving = start(
        own_repository, "--trace-otlp-endpoint", collector.url, "--workers", "1", environment=SOON
    ).ready()
    tensor = {"name": "n", "datatype": "INT64", "shape": [1], "data": [8_000]}
    content = json.dumps({"inputs": [tensor]}).encode()
    for _ in range(2):  # the second one waits
        with socket.create_connection(("127.0.0.1", serving.port), 60) as connection:
            head = f"POST /v2/models/spin/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)
            serving.until(lambda: serving.scrape()[BUSY] > 0)
    serving.until(lambda: serving.scrape()[GONE] == 2)
    collector.wait(2)
    for span in roots(collector):
        assert (span.status.code, plain(span.attributes)["error.type"]) == (2, "cancelled")


def test_an_answer_from_the_cache(serve, collector, own_repository):
    own_repository.add_identity("kept", "FP32", ["n", 2])
    (own_repository.path / "kept" / "config.pbtxt").write_text("response_cache { enable: true }")
    serving = serve()
    for _ in range(2):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
        infer(serving, None, "/v2/models/kept/infer", json.dumps({"inputs": [tensor]}).encode())
    collector.wait(6)
    hits = [plain(span.attributes).get("capstan.cache_hit") for span in roots(collector)]
    assert hits == [None, True]


def test_what_is_sent_and_to_whom(serve, collector):
    serving = serve(
        endpoint=None,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/",
        OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b,x=y",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_SERVICE_NAME="digits",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test,service.name=other",
    )
    assert infer(serving)[0] == 200
    collector.wait(5)
    path, headers, request = collector.requests[0]
    assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    assert (headers["api-key"], headers["x"]) == ("a b", "y")
    resource = plain(request.resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["deployment.environment"]) == ("digits", "test")


def test_a_collector_that_is_away_harms_nobody_and_what_is_lost_is_counted(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
    serving = serve(endpoint=nowhere, OTEL_BSP_MAX_QUEUE_SIZE="20", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10")
    for _ in range(50):
        assert infer(serving, SAMPLED)[0] == 200
    dropped = 'capstan_serving_trace_spans_total{outcome="dropped"}'
    # Two batches may wait, and one be on its way.
    assert serving.scrape()[dropped] >= 250 - 20 - 20
    assert serving.terminate() == 0


def test_a_batch_is_sent_again_where_that_helps(serve, collector):
    collector.answers += [
        (503, {"Retry-After": "0"}),
        (429, {}),
        (200, {}),
        (400, {}),
        (301, {"Location": "/x"}),
    ]
    serving = serve()
    assert infer(serving, SAMPLED)[0] == 200
    collector.until(lambda: len(collector.requests) == 3)
    assert len({request.SerializeToString() for _, _, request in collector.requests}) == 1
    for count in (4, 5):
        assert infer(serving, SAMPLED)[0] == 200
        collector.until(lambda count=count: len(collector.requests) == count)
    serving.wait_for("traces cannot be exported to .*HTTP Error 400")
    assert infer(serving, SAMPLED)[0] == 200
    serving.wait_for("traces are exported again")
    shown = serving.scrape()
    assert shown['capstan_serving_trace_spans_total{outcome="exported"}'] == 10
    assert shown['capstan_serving_trace_spans_total{outcome="dropped"}'] == 10


def test_what_is_left_at_the_end_is_exported(serve, collector):
    serving = serve(OTEL_BSP_SCHEDULE_DELAY="600000")
    assert infer(serving, SAMPLED)[0] == 200
    assert serving.terminate() == 0
    assert len(collector.spans()) == 5


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_extension_switches_it(serve, collector, protocol):
    serving = serve()
    module = SimpleNamespace(http=triton_http, grpc=triton_grpc)
    client = getattr(module, protocol).InferenceServerClient(getattr(serving, protocol))

    def update(model, **settings):
        client.update_trace_settings(model_name=model, settings=settings)

    assert "trace" in json.loads(serving.get("/v2")[1])["extensions"]
    update(None, trace_level=["OFF"])
    assert infer(serving, SAMPLED)[0] == 200
    update("mlp", trace_level=["TIMESTAMPS"], trace_rate="2", trace_count="2", log_frequency="1")
    for _ in range(10):
        assert infer(serving)[0] == 200
    collector.wait(10)
    shown = json.loads(serving.get("/v2/models/mlp/trace/setting")[1])
    assert shown == {
        "trace_level": ["TIMESTAMPS"],
        "trace_rate": "2",
        "trace_count": "0",
        "log_frequency": "1",
        "trace_file": "",
        "trace_mode": "opentelemetry",
    }
    update("mlp", trace_level=None, trace_rate=None, trace_count=None)  # as all, which is off
    assert infer(serving, SAMPLED)[0] == 200
    for refused in ({"trace_level": ["TENSORS"]}, {"trace_mode": "triton"}, {"trace_file": "x"}):
        with pytest.raises(InferenceServerException, match=r"not traced|cannot be changed"):
            update(None, **refused)
    client.close()
    assert serving.terminate() == 0
    assert len(roots(collector)) == 2


def test_a_server_that_traces_nothing_says_so(server):
    assert "trace" not in json.loads(server.get("/v2")[1])["extensions"]
    status, answer = server.request("POST", "/v2/trace/setting", b'{"trace_level": ["TIMESTAMPS"]}')
    assert (status, "--trace-otlp-endpoint" in json.loads(answer)["error"]) == (501, True)
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=60) as response:
        assert b"trace_spans" not in response.read()


def test_a_wrong_flag_ends_the_server_and_a_wrong_environment_does_not(own_repository, start):
    own_repository.add_tables()
    ended = start(own_repository, "--trace-otlp-endpoint", "collector:4318")
    ended.wait_for("TracingMisconfigured: 'collector:4318/v1/traces' is no address")
    assert ended.end() == 1
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    serving = start(own_repository, environment=environment).ready()
    assert "nothing is traced: OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'" in serving.log
    assert infer(serving)[0] == 200
