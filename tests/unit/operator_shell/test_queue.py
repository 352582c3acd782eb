"""The work queue: de-duplication, one worker a key, delays and back-off."""

import asyncio

import pytest
from capstan_operator.shell.keys import Key
from capstan_operator.shell.queue import BACKOFF_FIRST, BACKOFF_LIMIT, BATCH, Schedule, WorkQueue, backoff
from hypothesis import given
from hypothesis import strategies as st

A, B, C = (Key("Widget", "ns", name) for name in "abc")


def test_a_key_added_often_is_handed_out_once() -> None:
    schedule = Schedule()
    for _ in range(5):
        schedule.add(A)
    schedule.add(B)
    assert [schedule.take(0), schedule.take(0), schedule.take(0)] == [A, B, None]


def test_a_key_in_work_is_handed_out_again_only_when_done_and_then_once() -> None:
    schedule = Schedule()
    schedule.add(A)
    assert schedule.take(0) == A
    schedule.add(A)
    schedule.add(A)
    assert schedule.take(0) is None
    assert len(schedule) == 1
    schedule.done(A)
    assert schedule.take(0) == A
    schedule.done(A)
    assert schedule.take(0) is None


def test_what_changes_soon_after_a_pass_is_looked_at_together() -> None:
    schedule = Schedule()
    schedule.add_batched(A, 0)
    assert schedule.take(0) == A, "the first change is looked at at once"
    schedule.add_batched(A, 0.1)
    schedule.done(A)
    schedule.add_batched(A, 0.5)
    assert schedule.take(0.9) is None
    assert schedule.take(BATCH) == A
    schedule.done(A)
    assert schedule.take(9) is None
    schedule.add_batched(A, 10)
    assert schedule.take(10) == A


def test_passes_of_long_ago_are_not_remembered() -> None:
    schedule = Schedule()
    for number in range(50):
        schedule.add(Key("Widget", "ns", str(number)))
        assert schedule.take(number)
    assert len(schedule._taken) < 3


def test_the_earliest_of_several_delays_holds() -> None:
    schedule = Schedule()
    schedule.add_at(A, 9)
    schedule.add_at(A, 5)
    schedule.add_at(A, 7)
    assert schedule.next_due() == 5
    assert schedule.take(4.9) is None
    assert schedule.take(5) == A
    schedule.done(A)
    assert schedule.take(100) is None
    assert schedule.next_due() is None


def test_a_pass_that_begins_cancels_the_delayed_one() -> None:
    schedule = Schedule()
    schedule.add_at(A, 5)
    schedule.add(A)
    assert schedule.take(0) == A
    schedule.done(A)
    assert schedule.take(10) is None


def test_a_delay_asked_for_during_a_pass_survives_it() -> None:
    schedule = Schedule()
    schedule.add(A)
    assert schedule.take(0) == A
    schedule.add_at(A, 5)
    schedule.done(A)
    assert schedule.take(4) is None
    assert schedule.take(5) == A


def test_a_key_due_while_in_work_waits_for_the_worker() -> None:
    schedule = Schedule()
    schedule.add(A)
    assert schedule.take(0) == A
    schedule.add_at(A, 1)
    assert schedule.take(2) is None
    schedule.done(A)
    assert schedule.take(2) == A


@given(
    st.lists(st.tuples(st.sampled_from("+@td"), st.sampled_from([A, B, C]), st.integers(0, 9)), max_size=60)
)
def test_no_key_is_ever_lost_or_worked_on_twice_at_a_time(steps: list[tuple[str, Key, int]]) -> None:
    schedule, working, wanted, now = Schedule(), set[Key](), set[Key](), 0
    for step, key, number in steps:
        if step == "+":
            schedule.add(key)
            wanted.add(key)
        elif step == "@":
            schedule.add_at(key, now + number)
            wanted.add(key)
        elif step == "t":
            now += number
            taken = schedule.take(now)
            if taken is not None:
                assert taken in wanted
                assert taken not in working
                working.add(taken)
                wanted.discard(taken)
        elif key in working:
            working.discard(key)
            schedule.done(key)
    for key in list(working):
        schedule.done(key)
    rest = set()
    while (taken := schedule.take(now + 100)) is not None:
        rest.add(taken)
    assert rest == wanted


@given(st.integers(1, 10_000), st.floats(0, 0.999))
def test_back_off_grows_and_is_bounded(failures: int, spread: float) -> None:
    delay = backoff(failures, spread)
    assert BACKOFF_FIRST / 2 <= delay <= BACKOFF_LIMIT
    assert backoff(failures + 1, spread) >= delay


async def test_failures_double_the_delay_and_success_forgets_them() -> None:
    now = [0.0]
    queue = WorkQueue(clock=lambda: now[0], dice=lambda: 1.0)
    assert [queue.retry(A) for _ in range(3)] == [0.25, 0.5, 1.0]
    assert queue.failures(A) == 3
    assert queue.failures(B) == 0
    queue.succeeded(A)
    assert queue.retry(A) == 0.25
    assert queue.retry(A, at_least=30) == 30


async def test_get_waits_for_what_is_due_and_wakes_for_what_comes_first() -> None:
    queue = WorkQueue()
    queue.add_after(A, 0.02)
    assert await asyncio.wait_for(queue.get(), 5) == A
    queue.done(A)
    waiting = asyncio.create_task(queue.get())
    queue.add_after(A, 1000)
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add(B)
    assert await asyncio.wait_for(waiting, 5) == B


async def test_closing_wakes_every_worker() -> None:
    queue = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert await asyncio.wait_for(asyncio.gather(*workers), 5) == [None, None, None]
    queue.add(A)
    assert await queue.get() is None


@pytest.mark.parametrize("count", [1, 4])
async def test_workers_share_the_keys_and_never_one_key(count: int) -> None:
    queue, working, passes = WorkQueue(), set[Key](), list[Key]()

    async def work() -> None:
        while (key := await queue.get()) is not None:
            assert key not in working
            working.add(key)
            await asyncio.sleep(0)
            passes.append(key)
            if len(passes) < 30:
                queue.add(key)
            working.discard(key)
            queue.done(key)
            if len(queue) == 0 and not working:
                queue.close()

    for key in (A, B, C):
        queue.add(key)
    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(count))), 5)
    assert len(passes) >= 30
    assert set(passes) == {A, B, C}
