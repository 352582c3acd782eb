"""Liveness and readiness: of the server, of models, and by grpc.health.v1."""

import grpc
import pytest

from tests.conformance.target import not_offered

SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x03"


def test_server_is_live_and_ready(client):
    assert client.call("is_server_live") is True
    assert client.call("is_server_ready") is True


@pytest.mark.parametrize("version", ["", "1"])
def test_model_is_ready(client, target, version):
    target.needs("identity_fp32")
    assert client.call("is_model_ready", "identity_fp32", version) is True


@pytest.mark.parametrize(("model", "version"), [("no_such_model", ""), ("identity_fp32", "99")])
def test_what_is_not_there_is_not_ready(client, target, model, version):
    target.needs("identity_fp32")
    assert client.call("is_model_ready", model, version) is False


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/identity_fp32/ready"])
def test_readiness_over_http_has_no_body(target, path):
    target.needs("identity_fp32")
    status, _, body = target.request("GET", path)
    assert (status, body) == (200, b"")


def test_health_is_asked_by_get(target):
    assert target.request("POST", "/v2/health/live", b"")[0] == 405


def _health(target, service):
    if not target.grpc:
        not_offered("no gRPC address was given")
    request = b"" if not service else b"\x0a" + bytes([len(service)]) + service
    with grpc.insecure_channel(target.grpc) as channel:
        try:
            return channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=30)
        except grpc.RpcError as error:
            return error.code()


def test_grpc_health_of_the_server(target):
    answer = _health(target, b"")
    if answer is grpc.StatusCode.UNIMPLEMENTED:
        not_offered("grpc.health.v1")
    assert answer == SERVING


def test_grpc_health_of_the_inference_service(target):
    answer = _health(target, b"inference.GRPCInferenceService")
    if answer is grpc.StatusCode.UNIMPLEMENTED:
        not_offered("grpc.health.v1")
    assert answer == SERVING


def test_an_unknown_call_is_unimplemented(target):
    if not target.grpc:
        not_offered("no gRPC address was given")
    with grpc.insecure_channel(target.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/NoSuchCall")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
