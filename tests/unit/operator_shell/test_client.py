"""What the API answers, as our error tree; and the requests as they go over the wire."""

import json
from typing import Any

import aiohttp
import pytest
from capstan_operator.core.model import ObjectRef
from capstan_operator.shell import client
from capstan_operator.shell.client import KubernetesApi, error_of
from capstan_operator.shell.errors import Gone, Rejected, ShellError, Stale, Transient
from capstan_operator.shell.keys import Resource
from capstan_operator.shell.metrics import Metrics
from kubernetes.aio.client import Configuration

CONFIGMAPS = Resource("v1", "ConfigMap", "configmaps")
WIDGETS = Resource("test.dev/v1", "Widget", "widgets")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", Rejected),
        (401, "Unauthorized", Transient),
        (403, "Forbidden", Rejected),
        (404, "NotFound", Gone),
        (409, "Conflict", Stale),
        (409, "AlreadyExists", Rejected),
        (410, "Expired", Transient),
        (413, "RequestEntityTooLarge", Rejected),
        (422, "Invalid", Rejected),
        (429, "TooManyRequests", Transient),
        (500, "InternalError", Transient),
        (503, "ServiceUnavailable", Transient),
        (504, "Timeout", Transient),
    ],
)
def test_every_status_has_its_place(code: int, reason: str, kind: type[ShellError]) -> None:
    error = error_of(code, json.dumps({"reason": reason, "message": "because"}).encode())
    assert type(error) is kind
    assert "because" in str(error)
    if isinstance(error, (Rejected, Transient)):
        assert error.reason == reason


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"null", b"[]", b"\xff\xfe"])
def test_an_answer_that_is_no_status(body: bytes) -> None:
    assert isinstance(error_of(502, body), Transient)
    assert isinstance(error_of(403, body), Rejected)


@pytest.mark.parametrize(
    ("header", "details", "seconds"), [("7", None, 7), (None, 3, 3), ("soon", None, None)]
)
def test_how_long_to_wait_is_the_servers_to_say(
    header: str | None, details: int | None, seconds: int | None
) -> None:
    body = json.dumps({"details": {"retryAfterSeconds": details}}).encode()
    error = error_of(429, body, header)
    assert isinstance(error, Transient)
    assert error.retry_after == seconds


async def test_get_returns_none_for_what_is_not_there(cluster: Any, api: KubernetesApi) -> None:
    assert await api.get(CONFIGMAPS, "ns", "a") is None
    cluster.put("configmaps", {"kind": "ConfigMap", "metadata": {"name": "a"}})
    found = await api.get(CONFIGMAPS, "ns", "a")
    assert found is not None
    assert found["metadata"]["name"] == "a"


async def test_apply_is_server_side_forced_and_ours(cluster: Any, api: KubernetesApi) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "ns"}, "data": {}}
    await api.apply(CONFIGMAPS, body)
    assert cluster.requests == [
        "PATCH /api/v1/namespaces/ns/configmaps/a?fieldManager=capstan-operator&force=true"
    ]
    assert cluster.bodies == [body]


async def test_delete_is_of_one_incarnation(cluster: Any, api: KubernetesApi) -> None:
    made = cluster.put("configmaps", {"kind": "ConfigMap", "metadata": {"name": "a"}})
    other = ObjectRef("v1", "ConfigMap", "ns", "a", "another-uid")
    assert await api.delete(CONFIGMAPS, other) is None
    assert cluster.listed("configmaps")
    assert (
        await api.delete(CONFIGMAPS, ObjectRef("v1", "ConfigMap", "ns", "a", made["metadata"]["uid"])) is None
    )
    assert not cluster.listed("configmaps")
    assert cluster.bodies[-1]["propagationPolicy"] == "Foreground"
    assert await api.delete(CONFIGMAPS, ObjectRef("v1", "ConfigMap", "ns", "a", "u")) is None


async def test_delete_by_force_waits_for_no_node(cluster: Any, api: KubernetesApi) -> None:
    made = cluster.put("configmaps", {"kind": "ConfigMap", "metadata": {"name": "a"}})
    uid = made["metadata"]["uid"]
    assert await api.delete(CONFIGMAPS, ObjectRef("v1", "ConfigMap", "ns", "a", uid, force=True)) is None
    options = {key: cluster.bodies[-1][key] for key in ("propagationPolicy", "gracePeriodSeconds")}
    assert options == {"propagationPolicy": "Background", "gracePeriodSeconds": 0}
    assert cluster.bodies[-1]["preconditions"] == {"uid": uid}


async def test_a_status_is_put_on_one_version_only(cluster: Any, api: KubernetesApi) -> None:
    old = cluster.put("widgets", {"kind": "Widget", "metadata": {"name": "w"}, "spec": {"a": 1}})
    new = await api.put_status(WIDGETS, old, {"phase": "Running"})
    assert (new["status"], new["spec"]) == ({"phase": "Running"}, {"a": 1})
    with pytest.raises(Stale):
        await api.put_status(WIDGETS, old, {"phase": "Other"})


@pytest.mark.parametrize("body", [b"not json", b"[]"])
async def test_a_success_that_makes_no_sense_is_transient(
    body: bytes, cluster: Any, api: KubernetesApi
) -> None:
    cluster.fail("GET", 200, body=body)
    with pytest.raises(Transient):
        await api.get(CONFIGMAPS, "ns", "a")


async def test_no_connection_is_transient_and_counted(metrics: Metrics) -> None:
    api = KubernetesApi(Configuration(host="http://127.0.0.1:1"), metrics)
    with pytest.raises(Transient):
        await api.get(CONFIGMAPS, "ns", "a")
    await api.close()
    assert 'api_requests_total{code="error",verb="get"} 1.0' in metrics.render().decode()


async def test_a_connection_cut_in_the_middle_is_transient(cluster: Any, api: KubernetesApi) -> None:
    cluster.fail("GET", 0, times=5)  # aiohttp itself tries an idempotent request again
    with pytest.raises(Transient):
        await api.get(CONFIGMAPS, "ns", "a")


async def test_the_token_is_asked_for_at_every_request(cluster: Any, metrics: Metrics) -> None:
    configuration, tokens = Configuration(host=cluster.url), iter(["bearer one", "bearer two"])

    def refresh(config: Configuration) -> None:
        config.api_key["BearerToken"] = next(tokens)

    configuration.api_key["BearerToken"] = "bearer zero"
    configuration.refresh_api_key_hook = refresh
    api = KubernetesApi(configuration, metrics)
    await api.get(CONFIGMAPS, "ns", "a")
    await api.get(CONFIGMAPS, "ns", "a")
    await api.close()
    assert cluster.tokens == ["bearer one", "bearer two"]


async def test_a_server_that_does_not_answer_in_time_is_transient(
    cluster: Any, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "REQUEST_TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    cluster.fail("GET", 500, delay=1)
    with pytest.raises(Transient, match="Timeout"):
        await api.get(CONFIGMAPS, "ns", "a")
