"""The store of children stays true to a hostile API server."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from capstan_operator.core.model import Manifest
from capstan_operator.shell import client
from capstan_operator.shell.client import KubernetesApi
from capstan_operator.shell.keys import Key, Resource, owner_of
from capstan_operator.shell.metrics import Metrics
from capstan_operator.shell.store import Store
from capstan_operator.shell.watch import LONGEST_PAUSE, Reflector

CONFIGMAPS = Resource("v1", "ConfigMap", "configmaps")
SELECTOR = "app.kubernetes.io/managed-by=capstan"


def configmap(name: str, value: str = "x", managed: str = "capstan") -> Manifest:
    labels = {"app.kubernetes.io/managed-by": managed, "capstan.dev/kind": "Widget", "capstan.dev/name": "w"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "data": {"value": value},
    }


class Watched:
    """A reflector at work, without its pauses."""

    def __init__(self, api: KubernetesApi, metrics: Metrics) -> None:
        self.told: list[Key] = []
        self.pauses: list[float] = []
        self.metrics = metrics
        self.store = Store(owner_of, self.told.append)
        self.reflector = Reflector(api, self.store, metrics, CONFIGMAPS, None, SELECTOR, self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0.001)

    def values(self) -> dict[str, str]:
        owned = self.store.owned(Key("Widget", "ns", "w"))
        return {obj["metadata"]["name"]: obj["data"]["value"] for obj in owned}

    def restarts(self, reason: str) -> float:
        return self.metrics.watch_restarts.labels(kind="ConfigMap", reason=reason)._value.get()  # type: ignore[no-any-return]


@pytest.fixture
async def watched(api: KubernetesApi, metrics: Metrics) -> AsyncIterator[Watched]:
    it = Watched(api, metrics)
    task = asyncio.create_task(it.reflector.run())
    yield it
    assert not task.done(), "a reflector never ends"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_lists_in_pages_then_watches(cluster: Any, watched: Watched, until: Any) -> None:
    for name in "abcde":
        cluster.put("configmaps", configmap(name))
    cluster.put("configmaps", configmap("foreign", managed="helm"))
    await until(watched.reflector.synced.is_set)
    await until(lambda: set(watched.values()) == set("abcde"))
    cluster.put("configmaps", configmap("a", "y"))
    cluster.put("configmaps", configmap("f"))
    cluster.delete("configmaps", "ns", "b")
    await until(lambda: watched.values() == {"a": "y", "c": "x", "d": "x", "e": "x", "f": "x"})
    assert watched.told[-1] == Key("Widget", "ns", "w")


async def test_a_stream_that_ends_is_taken_up_where_it_stopped(
    cluster: Any, watched: Watched, until: Any
) -> None:
    await until(lambda: cluster.watches == 1)
    lists = sum("watch=" not in line for line in cluster.requests)
    cluster.put("configmaps", configmap("a"))
    await until(lambda: "a" in watched.values())
    cluster.hang_up()
    cluster.put("configmaps", configmap("b"))
    await until(lambda: set(watched.values()) == {"a", "b"})
    assert sum("watch=" not in line for line in cluster.requests) == lists
    assert watched.restarts("ended") >= 1


async def test_410_leads_to_a_list_whose_difference_is_what_was_missed(
    cluster: Any, watched: Watched, until: Any
) -> None:
    for name in "abc":
        cluster.put("configmaps", configmap(name))
    await until(lambda: set(watched.values()) == set("abc"))
    cluster.vanish("configmaps", "ns", "b")
    cluster.put("configmaps", configmap("d"))
    cluster.compact()
    await until(lambda: set(watched.values()) == set("acd"))
    assert watched.restarts("expired") >= 1


async def test_410_as_the_answer_itself(cluster: Any, watched: Watched, until: Any) -> None:
    await until(lambda: cluster.watches == 1)
    cluster.fail("watch=true", 410, body={"reason": "Expired", "message": "too old"})
    cluster.hang_up()
    await until(lambda: watched.restarts("expired") >= 1)
    cluster.put("configmaps", configmap("a"))
    await until(lambda: "a" in watched.values())


@pytest.mark.parametrize("body", [b"", b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}\n'])
async def test_watches_that_lead_nowhere_are_not_begun_again_and_again(
    body: bytes, cluster: Any, watched: Watched, until: Any
) -> None:
    await until(lambda: cluster.watches == 1)
    cluster.fail("watch=true", 200, body=body, times=12)
    cluster.hang_up()
    await until(lambda: not cluster.faults)
    assert sum(watched.pauses) > 4 * LONGEST_PAUSE / 2
    cluster.put("configmaps", configmap("a"))
    await until(lambda: "a" in watched.values())


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json\n",
        b"[1, 2]\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "7"}}}\n',
        b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "abc", "name": "x", "uid": "y"}}}\n',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is ill"}}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"resour',
    ],
)
async def test_garbage_breaks_the_stream_and_loses_nothing(
    garbage: bytes, cluster: Any, watched: Watched, until: Any
) -> None:
    await until(lambda: cluster.watches == 1)
    spoilt = iter([True, True])
    cluster.mangle = lambda lines: [garbage, *lines] if next(spoilt, False) else lines
    cluster.put("configmaps", configmap("a"))
    await until(lambda: cluster.watches > 1 or watched.values())
    cluster.hang_up()
    await until(lambda: watched.values() == {"a": "x"})


async def test_an_event_that_never_arrives_whole_is_had_by_listing(
    cluster: Any, watched: Watched, until: Any
) -> None:
    await until(lambda: cluster.watches == 1)
    cluster.mangle = lambda lines: [b"garbage\n"]
    cluster.put("configmaps", configmap("a"))
    await until(lambda: watched.values() == {"a": "x"})
    assert watched.restarts("expired") >= 1


async def test_repeated_and_reordered_events(cluster: Any, watched: Watched, until: Any) -> None:
    dice = random.Random(7)

    def shuffle(lines: list[bytes]) -> list[bytes]:
        lines = lines * 2
        dice.shuffle(lines)
        return lines

    await until(lambda: cluster.watches == 1)
    cluster.mangle = shuffle
    for value in "123456":
        for name in "ab":
            cluster.put("configmaps", configmap(name, value))
    cluster.delete("configmaps", "ns", "b")
    cluster.put("configmaps", configmap("c"))
    await until(lambda: "c" in watched.values())
    await until(lambda: watched.values() == {"a": "6", "c": "x"})


async def test_events_of_any_size_and_split_anywhere(cluster: Any, watched: Watched, until: Any) -> None:
    await until(lambda: cluster.watches == 1)
    cluster.mangle = lambda lines: [
        b"".join(lines)[i : i + 70_001] for i in range(0, sum(map(len, lines)), 70_001)
    ]
    big = "é" * 1_000_000
    cluster.put("configmaps", configmap("big", big))
    cluster.put("configmaps", configmap("small"))
    await until(lambda: set(watched.values()) == {"big", "small"})
    assert watched.values()["big"] == big


async def test_bookmarks_move_on_and_store_nothing(cluster: Any, watched: Watched, until: Any) -> None:
    await until(lambda: cluster.watches == 1)
    bookmark = {
        "type": "BOOKMARK",
        "object": {"kind": "ConfigMap", "metadata": {"resourceVersion": "900000"}},
    }
    cluster.mangle = lambda lines: [*lines, json.dumps(bookmark).encode() + b"\n"]
    cluster.put("configmaps", configmap("a"))
    await until(lambda: "a" in watched.values())
    cluster.hang_up()
    await until(lambda: any("resourceVersion=900000" in line for line in cluster.requests))
    assert watched.values() == {"a": "x"}


@pytest.mark.parametrize("status", [0, 401, 403, 429, 500, 503])
async def test_no_answer_of_the_api_ends_it(status: int, cluster: Any, watched: Watched, until: Any) -> None:
    await until(lambda: cluster.watches == 1)
    cluster.fail("configmaps", status, times=12, headers={"Retry-After": "3"} if status == 429 else {})
    cluster.hang_up()
    cluster.put("configmaps", configmap("a"))
    await until(lambda: watched.values() == {"a": "x"})
    assert not cluster.faults
    delays = [pause for pause in watched.pauses if pause > 0.25]  # beside that after the stream that ended
    assert max(delays) > min(delays)
    if status == 429:
        assert min(delays) >= 3


async def test_what_disappears_while_nobody_listens(cluster: Any, watched: Watched, until: Any) -> None:
    cluster.put("configmaps", configmap("a"))
    cluster.put("configmaps", configmap("b"))
    await until(lambda: set(watched.values()) == {"a", "b"})
    cluster.fail("watch=true", 500, times=5)
    cluster.hang_up()
    cluster.vanish("configmaps", "ns", "a")
    await until(lambda: set(watched.values()) == {"b"})


async def test_losing_the_label_is_a_deletion_and_regaining_it_is_not_missed(
    cluster: Any, watched: Watched, until: Callable[..., Any]
) -> None:
    first = cluster.put("configmaps", configmap("a"))
    await until(lambda: "a" in watched.values())
    gone = first | {"metadata": first["metadata"] | {"resourceVersion": str(next(cluster.version))}}
    cluster._publish("configmaps", int(gone["metadata"]["resourceVersion"]), "DELETED", gone)
    await until(lambda: not watched.values())
    cluster.put("configmaps", configmap("a", "back"))
    await until(lambda: watched.values() == {"a": "back"})


async def test_a_stream_gone_silent_is_given_up(
    cluster: Any, watched: Watched, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "WATCH_TIMEOUT", aiohttp.ClientTimeout(total=None, sock_read=0.1))
    cluster.mangle = lambda lines: []
    await until(lambda: cluster.watches >= 3)
    cluster.put("configmaps", configmap("a"))
    cluster.mangle = lambda lines: lines
    await until(lambda: watched.values() == {"a": "x"})


async def test_a_list_now_and_then_finds_what_no_watch_told(
    cluster: Any, watched: Watched, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capstan_operator.shell.watch.RELIST_EVERY", 0.1)
    cluster.put("configmaps", configmap("a"))
    cluster.compact()
    await until(lambda: "a" in watched.values())
    cluster.vanish("configmaps", "ns", "a")
    await until(lambda: not watched.values())
    assert watched.restarts("resync") >= 1
