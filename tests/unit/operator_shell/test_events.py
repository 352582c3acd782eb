"""Events are posted in the background, counted up when they repeat, and never in anybody's way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from capstan_operator.core.model import Event
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.events import BACKLOG, Recorder
from capstan_operator.shell.metrics import Metrics

STARTED = Event("Normal", "Started", "it started")


@pytest.fixture
async def recorder(api: KubernetesApi, metrics: Metrics, clock: Any) -> AsyncIterator[Recorder]:
    it = Recorder(api, metrics, clock)
    task = asyncio.create_task(it.run())
    yield it
    assert not task.done()
    task.cancel()


async def test_an_event_is_about_its_resource(cluster: Any, recorder: Recorder, widget: Any) -> None:
    about = widget()
    recorder.record(about, STARTED)
    await recorder.flush()
    (event,) = cluster.listed("events")
    assert event["involvedObject"]["uid"] == about["metadata"]["uid"]
    assert (event["type"], event["reason"], event["message"], event["count"]) == (
        "Normal",
        "Started",
        "it started",
        1,
    )
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-02T03:04:05Z"


async def test_the_same_again_counts_up(cluster: Any, recorder: Recorder, widget: Any) -> None:
    about = widget()
    for _ in range(3):
        recorder.record(about, STARTED)
    recorder.record(about, Event("Warning", "Started", "it started"))
    recorder.record(widget("other"), STARTED)
    await recorder.flush()
    assert sorted(event["count"] for event in cluster.listed("events")) == [1, 1, 3]


async def test_an_event_that_expired_begins_anew(cluster: Any, recorder: Recorder, widget: Any) -> None:
    about = widget()
    recorder.record(about, STARTED)
    await recorder.flush()
    cluster.delete("events", "ns", cluster.listed("events")[0]["metadata"]["name"])
    recorder.record(about, STARTED)
    await recorder.flush()
    (event,) = cluster.listed("events")
    assert event["count"] == 1


async def test_an_event_refused_is_only_logged(
    cluster: Any, recorder: Recorder, widget: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.fail("POST.*events", 403, body={"reason": "Forbidden", "message": "the namespace is terminating"})
    recorder.record(widget(), STARTED)
    recorder.record(widget("other"), STARTED)
    await recorder.flush()
    assert len(cluster.listed("events")) == 1
    assert "the namespace is terminating" in caplog.text


async def test_long_messages_and_long_names_fit(cluster: Any, recorder: Recorder, widget: Any) -> None:
    recorder.record(widget("n" * 253), Event("Normal", "Long", "é" * 4000))
    await recorder.flush()
    (event,) = cluster.listed("events")
    assert len(event["message"].encode()) <= 1024
    assert event["message"].endswith("é...")
    assert len(event["metadata"]["name"]) <= 253


def test_a_flood_is_dropped_not_waited_for(api: Any, metrics: Metrics, clock: Any) -> None:
    recorder = Recorder(api, metrics, clock)
    about = {"kind": "Widget", "metadata": {"name": "w", "namespace": "ns", "uid": "u"}}
    for _ in range(BACKLOG + 5):
        recorder.record(about, STARTED)
    assert 'capstan_operator_events_total{result="dropped"} 5.0' in metrics.render().decode()
