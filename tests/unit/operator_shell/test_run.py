"""The whole operator, kopf included, against the hostile API server."""

import asyncio
import base64
import socket
import ssl
from typing import Any

import aiohttp
import pytest
from capstan_operator.core.model import ObjectRef, Plan
from capstan_operator.shell import handlers, run


def status_of(cluster: Any, name: str = "w") -> Any:
    return cluster.objects["widgets", "ns", name].get("status")


async def test_from_a_resource_to_its_children_and_back_to_rest(
    cluster: Any, start: Any, widget: Any, until: Any
) -> None:
    widget(children=["a"])
    it = start()
    await it.becomes("/readyz", 200)
    await until(lambda: status_of(cluster) == {"children": ["a"], "references": []})
    widget("later", children=["b", "c"])
    await until(lambda: (status_of(cluster, "later") or {}).get("children") == ["b", "c"])
    cluster.delete("configmaps", "ns", "b")
    await until(lambda: ("configmaps", "ns", "b") in cluster.objects)
    assert set(cluster.tokens) == {"Bearer secret", "bearer secret"} or set(cluster.tokens) == {
        "Bearer secret"
    }
    text = (await it.get("/metrics"))[1]
    assert 'capstan_operator_reconciles_total{kind="Widget",outcome="changed"}' in text
    assert 'capstan_operator_store_objects{kind="ConfigMap"} 3.0' in text
    assert "capstan_operator_info" in text
    assert await it.end() is True


async def test_a_change_of_what_is_referenced_is_heard(
    cluster: Any, start: Any, widget: Any, until: Any, make_kind: Any
) -> None:
    kind = make_kind(
        references=lambda r: tuple(
            ObjectRef("test.dev/v1", "Widget", "ns", n) for n in r["spec"].get("refs", [])
        )
    )
    widget(refs=["base"])
    it = start(kinds=[kind])
    await it.becomes("/readyz", 200)
    await until(lambda: status_of(cluster) == {"children": [], "references": []})
    widget("base")
    await until(lambda: status_of(cluster)["references"] == ["base"])
    cluster.delete("widgets", "ns", "base")
    await until(lambda: status_of(cluster)["references"] == [])


async def test_waits_for_the_crds_and_recovers_when_they_are_replaced(
    cluster: Any, start: Any, widget: Any, until: Any
) -> None:
    served = cluster.kinds.pop("widgets")
    it = start()
    text = await it.becomes("/readyz", 503)
    assert "[-] custom resources listed" in text
    assert (await it.becomes("/healthz", 200)).endswith("ok\n")
    cluster.kinds["widgets"] = served
    widget(children=["a"])
    await until(lambda: status_of(cluster) is not None, 20)
    await it.becomes("/readyz", 200)
    del cluster.kinds["widgets"]
    cluster.hang_up()
    await until(lambda: sum("GET /apis/test.dev/v1/widgets" in line for line in cluster.requests) > 3, 20)
    it.begun = len(cluster.requests)
    cluster.kinds["widgets"] = served
    widget("again", children=["b"])
    await until(lambda: (status_of(cluster, "again") or {}).get("children") == ["b"], 30)
    assert not it.task.done()


async def test_a_kind_that_kopf_did_not_find_is_looked_for_again(
    cluster: Any, start: Any, widget: Any, until: Any
) -> None:
    cluster.fail(r"GET /apis/test.dev/v1$", 404, times=1)  # as when a CRD is replaced in that moment
    it = start()
    await it.heard_of()
    assert not cluster.faults
    widget(children=["a"])
    await until(lambda: (status_of(cluster) or {}).get("children") == ["a"], 20)


async def test_kopf_losing_its_rights_is_begun_anew(
    cluster: Any, start: Any, widget: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = handlers.settings_of()
    settings.networking.error_backoffs = (0.05, 0.05)
    monkeypatch.setattr(handlers, "settings_of", lambda: settings)
    it = start()
    await it.becomes("/readyz", 200)
    await until(lambda: any("widgets?watch=true" in line for line in cluster.requests))
    cluster.fail(r"widgets\?", 403, times=4)
    cluster.hang_up()
    await until(lambda: not cluster.faults, 60)
    it.begun = len(cluster.requests)
    widget(children=["a"])
    await until(lambda: (status_of(cluster) or {}).get("children") == ["a"], 60)


async def test_only_the_namespaces_asked_for(cluster: Any, start: Any, widget: Any, until: Any) -> None:
    widget(children=["a"])
    cluster.put(
        "widgets",
        {
            "apiVersion": "test.dev/v1",
            "kind": "Widget",
            "metadata": {"name": "x", "namespace": "other"},
            "spec": {},
        },
    )
    it = start("--namespaces", "ns,ns2")
    await it.becomes("/readyz", 200)
    await until(lambda: status_of(cluster) == {"children": ["a"], "references": []})
    paths = [
        line.split()[1].split("?")[0]
        for line in cluster.requests
        if "widgets" in line or "configmaps" in line
    ]
    assert all("/namespaces/ns/" in path or "/namespaces/ns2/" in path for path in paths)
    assert "status" not in cluster.objects["widgets", "other", "x"]
    assert not any(
        "customresourcedefinitions" in line or "GET /api/v1/namespaces?" in line for line in cluster.requests
    )


async def test_the_api_away_at_the_start(cluster: Any, start: Any, widget: Any, until: Any) -> None:
    cluster.fail("", 503, times=12)
    widget(children=["a"])
    it = start()
    await until(lambda: status_of(cluster) is not None, 30)
    await it.becomes("/readyz", 200)


async def test_sigterm_lets_the_pass_in_flight_end(
    cluster: Any, start: Any, widget: Any, until: Any, make_kind: Any
) -> None:
    it = start()
    await it.heard_of()
    widget(children=["a", "b", "c"])
    await until(lambda: ("configmaps", "ns", "a") in cluster.objects)
    assert await it.end() is True
    assert {c["metadata"]["name"] for c in cluster.listed("configmaps")} == {"a", "b", "c"}
    assert (await it.get("/healthz"))[0] == 0


async def test_a_part_that_ends_takes_the_operator_down(
    cluster: Any, start: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = asyncio.Event()

    async def broken(self: Any) -> None:
        await now.wait()
        raise ZeroDivisionError

    monkeypatch.setattr("capstan_operator.shell.events.Recorder.run", broken)
    it = start()
    await it.heard_of()
    now.set()
    assert await asyncio.wait_for(it.task, 20) is False
    assert "events has ended" in caplog.text


async def test_a_thousand_reasons_make_few_passes(
    cluster: Any, start: Any, widget: Any, until: Any, make_kind: Any
) -> None:
    passes = []

    def plan(resource: Any, *_: Any) -> Plan:
        passes.append(resource["metadata"]["resourceVersion"])
        return Plan(status={})

    widget()
    it = start(kinds=[make_kind(plan=plan)])
    await it.becomes("/readyz", 200)
    await until(lambda: len(passes) > 0)
    for n in range(500):
        last = widget(n=n)
    await until(lambda: passes[-1] == last["metadata"]["resourceVersion"])
    assert len(passes) < 400


async def test_a_child_that_claims_a_kind_nobody_knows(
    cluster: Any, start: Any, widget: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {
        "app.kubernetes.io/managed-by": "capstan",
        "capstan.dev/kind": "Gadget",
        "capstan.dev/name": "g",
    }
    cluster.put(
        "configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "g", "labels": labels}}
    )
    widget(children=["a"])
    start()
    await until(lambda: (status_of(cluster) or {}).get("children") == ["a"])
    assert "a bug" not in caplog.text


async def test_reports_are_taken_from_the_start(
    cluster: Any, start: Any, unused_tcp_port_factory: Any, until: Any
) -> None:
    """The certificate is there before the first pod is made, and is the one that pods are told."""
    cluster.kinds["secrets"] = ("v1", "Secret")
    port = unused_tcp_port_factory()
    it = start(f"--reports-url=https://localhost:{port}")
    await it.becomes("/readyz", 200)
    await until(lambda: cluster.listed("secrets"))
    (secret,) = cluster.listed("secrets")
    certificate = base64.b64decode(secret["data"]["tls.crt"]).decode()
    verified = ssl.create_default_context(cadata=certificate)
    url = f"https://localhost:{port}/v1/progress"
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.post(url, ssl=verified) as response:
                    assert response.status == 401
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.05)
    assert await it.end()


async def test_reports_are_taken_once_what_stood_in_the_way_is_gone(
    cluster: Any, start: Any, unused_tcp_port_factory: Any, until: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(run, "REPORTS_AGAIN", 0.05)
    cluster.kinds["secrets"] = ("v1", "Secret")
    cluster.fail("/secrets", 403, times=3)
    port = unused_tcp_port_factory()
    it = start(f"--reports-url=https://localhost:{port}")

    def listens() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    await until(listens, 20)
    assert await it.end()


async def test_without_a_right_to_its_certificate_the_operator_does_all_else(
    cluster: Any, start: Any, widget: Any, until: Any, unused_tcp_port_factory: Any
) -> None:
    cluster.fail("/secrets", 403, times=10)
    it = start(f"--reports-url=https://localhost:{unused_tcp_port_factory()}")
    widget(children=["a"])
    await until(lambda: cluster.listed("configmaps"))
    assert await it.end()
