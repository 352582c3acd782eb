"""Routes and calls that are not inference: every one of the protocol's is there, and says what it does."""

import json
import urllib.request

import grpc
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf.unknown_fields import UnknownFieldSet
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

METHODS = sorted(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name)


def test_the_service_has_the_calls_we_know():
    assert len(METHODS) == 20


@pytest.mark.parametrize("method", METHODS)
def test_every_call_of_the_published_service_is_answered(server, method):
    """An empty request gets an answer, or an error about its content; never that there is no such call."""
    published = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method]
    request = getattr(service_pb2, published.input_type.name)()
    said = ""
    with grpc.insecure_channel(server.grpc) as channel:
        call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method)
        try:
            if method == "ModelStreamInfer":
                (answer,) = call(iter([request]), timeout=60)
            else:
                answer = call(request, timeout=60)
        except grpc.RpcError as error:
            said = error.details()
        else:
            assert type(answer).DESCRIPTOR.full_name == published.output_type.full_name
            assert len(UnknownFieldSet(answer)) == 0
    assert "does not offer '/inference" not in said


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    module = {"http": triton_http, "grpc": triton_grpc}[request.param]
    with module.InferenceServerClient(getattr(server, request.param)) as client:
        yield client


@pytest.fixture
def json_form(client):
    return {} if isinstance(client, triton_http.InferenceServerClient) else {"as_json": True}


def logged(answer):
    """Settings of either protocol as one dictionary."""
    if "settings" not in answer:
        return answer
    values = {}
    for name, value in answer["settings"].items():
        (values[name],) = value.values() if value else ("",)
    return values


def test_log_settings_are_shown_and_changed(client, json_form):
    shown = logged(client.get_log_settings(**json_form))
    assert (shown["log_info"], shown["log_format"]) == (True, "default")
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 1}, **json_form)
    assert (logged(changed)["log_info"], logged(changed)["log_verbose_level"]) == (False, 1)
    back = client.update_log_settings(
        {"log_info": True, "log_verbose_level": 0, "log_format": "default"}, **json_form
    )
    assert logged(back) == shown


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log_file": "/tmp/x"}, "cannot be changed over the network"),
        ({"log_file": ""}, "cannot be changed over the network"),
        ({"log_format": "xml"}, "'log_format' must be"),
        ({"log_nothing": True}, "no log setting"),
    ],
)
def test_log_settings_that_are_refused(client, settings, said):
    with pytest.raises(InferenceServerException, match=said):
        client.update_log_settings(settings)


@pytest.mark.parametrize(
    ("name", "value"), [("log_info", "yes"), ("log_error", 1), ("log_verbose_level", True)]
)
def test_log_settings_of_a_wrong_type(server, name, value):
    status, answer = server.request("POST", "/v2/logging", json.dumps({name: value}).encode())
    assert (status, f"{name!r} must be" in json.loads(answer)["error"]) == (400, True)


@pytest.mark.parametrize("model", [None, "mlp"])
def test_trace_settings_are_shown_and_changed(client, json_form, model):
    def flat(answer):
        settings = answer.get("settings", answer)
        values = {
            name: value.get("value") if isinstance(value, dict) else value for name, value in settings.items()
        }
        return {name: value if isinstance(value, list) else [value] for name, value in values.items()}

    options = {"model_name": model} if model else {}
    shown = flat(client.get_trace_settings(**options, **json_form))
    assert (shown["trace_level"], shown["trace_rate"]) == (["OFF"], ["1000"])
    changed = client.update_trace_settings(
        settings={"trace_rate": "5", "trace_count": "-1"}, **options, **json_form
    )
    assert flat(changed)["trace_rate"] == ["5"]
    back = client.update_trace_settings(
        settings={"trace_rate": None, "trace_count": None}, **options, **json_form
    )
    assert flat(back) == shown


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trace_file": "/tmp/x"}, "cannot be changed over the network"),
        ({"trace_rate": "often"}, "'trace_rate' must be"),
        ({"trace_count": "-2"}, "'trace_count' must be"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "OFF alone"),
        ({"trace_level": ["LOUD"]}, "'trace_level' must be"),
        ({"trace_nothing": "1"}, "no trace setting"),
    ],
)
def test_trace_settings_that_are_refused(client, settings, said):
    with pytest.raises(InferenceServerException, match=said):
        client.update_trace_settings(settings=settings)


def test_trace_settings_of_an_unknown_model(client):
    with pytest.raises(InferenceServerException, match="'nothing'"):
        client.get_trace_settings(model_name="nothing")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2/logging", "GET, POST"),
        ("/v2/trace/setting", "GET, POST"),
        ("/v2/models/mlp/trace/setting", "GET, POST"),
        ("/v2/systemsharedmemory/status", "GET"),
        ("/v2/systemsharedmemory/region/r/register", "POST"),
        ("/v2/cudasharedmemory/unregister", "POST"),
        ("/v2/models/mlp/generate", "POST"),
        ("/v2/models/mlp/generate_stream", "POST"),
    ],
)
def test_other_methods_are_405(server, path, allowed):
    status, answer = server.request("DELETE", path)
    assert (status, json.loads(answer)["error"]) == (405, f"method not allowed, use {allowed}")


def generate(server, model, content, kind="generate"):
    return server.request("POST", f"/v2/models/{model}/{kind}", json.dumps(content).encode())


def test_generate(server):
    status, answer = generate(server, "mlp", {"x": [1, 2, 3, 4], "id": "7", "parameters": {"temperature": 0}})
    answer = json.loads(answer)
    assert (status, answer["id"], answer["model_name"], len(answer["y"])) == (200, "7", "mlp", 3)
    status, answer = generate(server, "identity_bytes", {"x": "Grüße"})
    assert json.loads(answer)["y"] == "Grüße"


def test_generate_stream_is_an_event(server):
    url = f"http://{server.http}/v2/models/identity_bytes/versions/1/generate_stream"
    with urllib.request.urlopen(url, b'{"x": "hi"}', timeout=60) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        event = response.read()
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert json.loads(event[6:])["y"] == "hi"


def test_generate_stream_tells_errors_of_the_model_as_events(server):
    status, event = generate(server, "lookup", {"index": 99}, "generate_stream")
    assert (status, event.startswith(b'data: {"error":')) == (400, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "'x' is missing"),
        ({"x": []}, "'x'"),
        ({"x": [1, 2, 3]}, "'x'"),
        ({"x": {"a": 1}}, "'x'"),
        ({"x": ["a"] * 4}, "'x'"),
        ({"x": [1] * 4, "mine": []}, "'mine'"),
        ({"x": [1] * 4, "triton_x": 1}, "triton_x"),
        ([1], "parse"),
    ],
)
@pytest.mark.parametrize("kind", ["generate", "generate_stream"])
def test_bad_generate_requests(server, content, said, kind):
    status, answer = generate(server, "mlp", content, kind)
    assert (status, said in json.loads(answer)["error"]) == (400, True), answer


def test_shared_memory_is_off_unless_asked_for(client, json_form):
    for status in (client.get_system_shared_memory_status, client.get_cuda_shared_memory_status):
        assert status(**json_form) in ([], {})
    for call in (
        lambda: client.register_system_shared_memory("r", "/r", 16),
        lambda: client.unregister_system_shared_memory("r"),
        lambda: client.register_cuda_shared_memory("r", b"AAAA", 0, 16),
        client.unregister_cuda_shared_memory,
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
