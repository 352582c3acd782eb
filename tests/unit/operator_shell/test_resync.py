"""The resync has looked at what a list shows to be new, and at everything once in a while."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from capstan_operator.shell import resync
from capstan_operator.shell.keys import Key, Resource
from capstan_operator.shell.queue import WorkQueue
from capstan_operator.shell.store import Store

WIDGETS = Resource("test.dev/v1", "Widget", "widgets")


def widget(name: str, version: str) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version}
    return {"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": metadata}


class Lists:
    """An API that only lists."""

    def __init__(self) -> None:
        self.objects = [widget("a", "1"), widget("b", "2")]

    async def pages(self, *_: object) -> AsyncGenerator[tuple[list[dict[str, Any]], str], None]:
        for obj in self.objects:
            yield [obj], "9"


async def test_at_rest_only_every_twelfth_list_has_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    api, looked = Lists(), []
    queue = WorkQueue()
    monkeypatch.setattr(queue, "add", lambda key: looked.append(key.name))

    def changed(key: Key) -> None:
        looked.append(f"new {key.name}")

    lists: list[list[str]] = []

    async def pause(_: float) -> None:
        lists.append(looked.copy())
        looked.clear()
        if len(lists) == 2:
            api.objects = [widget("a", "3")]
        if len(lists) == 14:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await resync.Resync(api, Store(changed=changed), queue, [WIDGETS], (), pause).run()
    assert sorted(lists[0]) == ["new a", "new b"]
    assert lists[1] == []
    assert sorted(lists[2]) == ["new a", "new b"]  # changed, and gone
    assert lists[3:12] == [[]] * 9
    assert lists[12] == ["a"]
    assert lists[13] == []
