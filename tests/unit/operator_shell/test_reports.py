"""The endpoint: who is believed, what is refused, how often is written; TLS and HTTP are real."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from capstan_operator.core.model import Manifest, Report
from capstan_operator.shell import reports_tls
from capstan_operator.shell.errors import Transient
from capstan_operator.shell.keys import Key
from capstan_operator.shell.reports import BODY, EVERY, PATH, RATE, Desk, Reports, serve
from capstan_operator.shell.reports_token import Reviewer, claims_of
from capstan_operator.shell.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DIGITS = Key("TrainingJob", "ns", "digits")


def token(
    pod: str = "pod-0", uid: str = "pod-0", audience: Any = "capstan.dev", expires: int = 1 << 40
) -> str:
    claims = {
        "aud": audience,
        "exp": expires,
        "kubernetes.io": {"namespace": "ns", "pod": {"name": pod, "uid": uid}},
    }
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{middle}.c2ln"


def owned(kind: str, name: str, owner_kind: str, owner: str, owner_uid: str, **more: Any) -> Manifest:
    reference = {"apiVersion": "v1", "kind": owner_kind, "name": owner, "uid": owner_uid, "controller": True}
    metadata = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "7"}
    metadata |= {"ownerReferences": [reference], **more.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}


class Rig:
    """The endpoint, the stores behind it, and an API server that reviews tokens."""

    def __init__(self) -> None:
        self.leads = True
        self.genuine = {token()}
        self.reviewed: list[str] = []
        self.api_is_away = False
        self.clock = 1000.0
        self.due: list[Key] = []
        self.resources, self.children = Store(), Store()
        self.reports = Reports(self.due.append, lambda: self.clock)
        self.put(attempt=1)
        self.children.put(owned("Job", "digits-worker-1", "TrainingJob", "digits", "job"))
        self.pod("pod-0", 0)

    def put(self, attempt: int, version: str = "7", uid: str = "job") -> None:
        metadata = {"name": "digits", "namespace": "ns", "uid": uid, "resourceVersion": version}
        self.resources.put(
            {"apiVersion": "x", "kind": "TrainingJob", "metadata": metadata, "status": {"attempt": attempt}}
        )

    def pod(self, name: str, index: int) -> None:
        labels = {"batch.kubernetes.io/job-completion-index": str(index)}
        self.children.put(
            owned(
                "Pod",
                name,
                "Job",
                "digits-worker-1",
                "digits-worker-1",
                metadata={"labels": labels},
                status={"phase": "Running"},
            )
        )

    async def create(self, _: Any, review: Manifest) -> Manifest:
        if self.api_is_away:
            raise Transient("away")
        asked = review["spec"]["token"]
        self.reviewed.append(asked)
        if asked not in self.genuine or review["spec"]["audiences"] != ["capstan.dev"]:
            return {"status": {"authenticated": False}}
        extra = {f"authentication.kubernetes.io/pod-{part}": ["pod-0"] for part in ("name", "uid")}
        user = {"username": "system:serviceaccount:ns:default", "extra": extra}
        return {"status": {"authenticated": True, "audiences": ["capstan.dev"], "user": user}}


Post = Callable[..., Any]


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
async def post(rig: Rig, metrics: Any, unused_tcp_port: int) -> AsyncIterator[Post]:
    reviewer = Reviewer(rig, time.time)  # type: ignore[arg-type]
    desk = Desk(rig.reports, reviewer, rig.resources, rig.children, metrics, lambda: rig.leads, lambda: NOW)
    certificate = reports_tls.made("localhost", datetime.now(UTC))
    server: web.AppRunner = await serve(desk.application(), unused_tcp_port, certificate.context())
    verified = ssl.create_default_context(cadata=certificate.certificate)
    async with aiohttp.ClientSession() as session:

        async def send(body: Any = None, bearer: str | None = None, path: str = PATH) -> int:
            headers = {"Authorization": f"Bearer {token() if bearer is None else bearer}"}
            data = body if isinstance(body, bytes) else json.dumps(body or {"step": 1, "total": 2}).encode()
            url = f"https://localhost:{unused_tcp_port}{path}"
            async with session.post(url, data=data, headers=headers, ssl=verified) as response:
                await response.read()
                return response.status

        yield send
    await server.cleanup()


def step(rig: Rig) -> int | None:
    found = rig.reports.of(rig.resources.get("TrainingJob", "ns", "digits") or {})
    return found.step if found else None


async def test_a_report_is_taken(rig: Rig, post: Post, metrics: Any) -> None:
    assert await post({"step": 5, "total": 10}) == 204
    assert rig.reports.of(rig.resources.get("TrainingJob", "ns", "digits") or {}) == Report(1, NOW, 5, 10)
    rig.reports.turn()
    assert rig.due == [DIGITS]
    assert b'capstan_operator_reports_total{code="204"} 1.0' in metrics.render()


async def test_only_the_leader_takes_reports(rig: Rig, post: Post) -> None:
    rig.leads = False
    assert await post() == 503
    assert rig.reviewed == []
    rig.leads = True
    assert await post() == 204


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        "junk",
        "a.b.c",
        "e30.W10.x",
        token(audience="https://kubernetes.default.svc"),
        token(audience=["a", "b"]),
        "x" * 9000,
    ],
)
async def test_what_is_no_token_for_us_costs_the_api_server_nothing(
    rig: Rig, post: Post, bearer: str
) -> None:
    if len(bearer) > 8190:
        assert claims_of(bearer) is None
    else:
        assert await post(bearer=bearer) == 401
    assert rig.reviewed == []


async def test_a_token_about_no_pod_that_may_report_is_not_reviewed(rig: Rig, post: Post) -> None:
    rig.pod("pod-1", 1)
    for bearer in (token("other"), token(uid="of another incarnation"), token("pod-1", "pod-1")):
        assert await post(bearer=bearer) == 403
    assert rig.reviewed == []


async def test_a_forged_token_is_refused_and_asked_about_once(rig: Rig, post: Post) -> None:
    rig.genuine.clear()
    assert [await post() for _ in range(3)] == [401, 401, 401]
    assert (len(rig.reviewed), step(rig)) == (1, None)


async def test_a_token_that_speaks_of_another_pod_than_the_api_server_is_refused(
    rig: Rig, post: Post
) -> None:
    rig.children.put(
        owned(
            "Pod",
            "twin",
            "Job",
            "digits-worker-1",
            "digits-worker-1",
            metadata={"labels": {"batch.kubernetes.io/job-completion-index": "0"}},
            status={"phase": "Running"},
        )
    )
    rig.genuine.add(token("twin", "twin"))
    assert await post(bearer=token("twin", "twin")) == 401


async def test_a_token_is_reviewed_once_in_its_life(rig: Rig, post: Post) -> None:
    for _ in range(3):
        assert await post() == 204
        rig.clock += 5
    assert len(rig.reviewed) == 1


async def test_a_token_that_has_ended_is_none(rig: Rig, post: Post) -> None:
    old = token(expires=int(time.time()) - 1)
    rig.genuine.add(old)
    assert await post(bearer=old) == 401


async def test_a_half_dead_pod_of_an_earlier_attempt_changes_nothing(rig: Rig, post: Post) -> None:
    assert await post({"step": 5}) == 204
    rig.put(attempt=2, version="8")
    rig.clock += 60
    assert await post({"step": 6}) == 403
    assert step(rig) == 5


async def test_a_job_made_anew_has_reported_nothing(rig: Rig, post: Post) -> None:
    assert await post({"step": 5}) == 204
    rig.put(attempt=1, version="8", uid="another")
    assert step(rig) is None


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[" * 4000, 400), (b"[]", 400), (b'{"step": -1}', 400), (b"x" * (BODY + 1), 413)],
)
async def test_other_bodies_are_refused(rig: Rig, post: Post, body: bytes, status: int) -> None:
    assert await post(body) == status
    assert step(rig) is None


async def test_a_pod_cannot_report_without_end(rig: Rig, post: Post) -> None:
    assert [await post({"step": n}) for n in (1, 2)] == [204, 429]
    rig.clock += 1
    assert await post({"step": 3}) == 204


async def test_the_api_server_is_away(rig: Rig, post: Post) -> None:
    rig.api_is_away = True
    assert await post() == 503
    rig.api_is_away = False
    assert await post() == 204, "what could not be reviewed is not taken for refused"


@pytest.mark.parametrize("said", [None, b"", b"POST /v1/progress HTTP/1.1\r\nHost:"])
async def test_who_connects_and_says_no_more_is_not_waited_for(
    rig: Rig, metrics: Any, unused_tcp_port: int, said: bytes | None
) -> None:
    """None: not even for TLS."""
    reviewer = Reviewer(rig, time.time)  # type: ignore[arg-type]
    desk = Desk(rig.reports, reviewer, rig.resources, rig.children, metrics, lambda: True, lambda: NOW)
    certificate = reports_tls.made("localhost", datetime.now(UTC))
    verified = ssl.create_default_context(cadata=certificate.certificate)
    server = await serve(desk.application(), unused_tcp_port, certificate.context(), patience=0.2)
    host, tls = "localhost", None if said is None else verified
    reader, writer = await asyncio.open_connection(host, unused_tcp_port, ssl=tls)
    writer.write(said or b"")
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    await server.cleanup()


async def test_there_is_nothing_else(post: Post) -> None:
    assert await post(path="/metrics") == 404


# --- how often a job is written


def reported(reports: Reports, number: int, step: int = 1) -> Key:
    key = Key("TrainingJob", "ns", f"job-{number}")
    assert reports.put(key, "uid", Report(1, NOW, step))
    return key


def test_a_job_is_due_at_once_and_then_every_ten_seconds(rig: Rig) -> None:
    for second in range(31):
        rig.clock = 1000.0 + second
        reported(rig.reports, 1, second)
        rig.reports.turn()
    assert len(rig.due) == 1 + 30 / EVERY


def test_a_fleet_takes_turns(rig: Rig) -> None:
    keys = [reported(rig.reports, number) for number in range(3 * RATE)]
    for turn in range(1, 4):
        rig.reports.turn()
        assert rig.due == keys[: turn * RATE]
    rig.reports.turn()
    assert len(rig.due) == len(keys), "who has nothing new is not due"


def test_a_large_fleet_is_asked_to_report_less_often(rig: Rig) -> None:
    """No more often than is written. Who has long ended does not count."""
    for number in range(1000):
        reported(rig.reports, number)
    rig.reports.turn()
    assert rig.reports.interval == 1000 / RATE
    rig.clock += 3600
    reported(rig.reports, 1)
    rig.reports.turn()
    assert rig.reports.interval == EVERY


def test_a_job_that_is_gone_is_forgotten(rig: Rig) -> None:
    key = reported(rig.reports, 1)
    rig.reports.forget(key)
    rig.reports.turn()
    assert rig.due == []


# --- the certificate


async def test_the_certificate_is_made_once_for_all_operators(cluster: Any, api: Any) -> None:
    cluster.kinds["secrets"] = ("v1", "Secret")
    now = datetime.now(UTC)
    first, second = await asyncio.gather(
        *(reports_tls.kept(api, "capstan-system", "reports", "host", now) for _ in range(2))
    )
    assert first == second
    assert await reports_tls.kept(api, "capstan-system", "reports", "host", now) == first
    (secret,) = cluster.listed("secrets")
    assert secret["type"] == "kubernetes.io/tls"


async def test_a_secret_that_holds_something_else_is_told(cluster: Any, api: Any) -> None:
    cluster.kinds["secrets"] = ("v1", "Secret")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reports"}, "data": {"tls.crt": "?"}}
    cluster.put("secrets", secret)
    with pytest.raises(Transient, match="holds no certificate"):
        await reports_tls.kept(api, "ns", "reports", "host", datetime.now(UTC))
