"""The laws of the queue: no wake-up is lost, and no id has two workers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from control.naming import SandboxId
from control.reconcile.queue import KeyedQueue

pytestmark = pytest.mark.unit

A, B = SandboxId("a"), SandboxId("b")


async def taken(queue: KeyedQueue, seconds: float = 0.05) -> SandboxId | None:
    try:
        return await asyncio.wait_for(queue.get(), seconds)
    except TimeoutError:
        return None


async def test_an_id_that_waits_is_merged() -> None:
    queue = KeyedQueue()
    for sandbox_id in (A, A, B, A):
        queue.put(sandbox_id)
    assert [await taken(queue), await taken(queue), await taken(queue, 0.01)] == [A, B, None]


async def test_an_id_put_while_a_worker_has_it_comes_again_afterwards() -> None:
    queue = KeyedQueue()
    queue.put(A)
    assert await taken(queue) == A
    queue.put(A)
    queue.put(A)
    assert await taken(queue, 0.01) is None
    queue.done(A)
    assert await taken(queue) == A
    queue.done(A)
    assert queue.is_idle


async def test_a_timer_hands_out_later_and_a_put_overtakes_it() -> None:
    queue = KeyedQueue()
    queue.put_after(A, timedelta(seconds=0.03))
    assert await taken(queue, 0.01) is None
    assert await taken(queue) == A
    queue.done(A)
    queue.put_after(A, timedelta(hours=1))
    queue.put(A)
    assert await taken(queue) == A
    queue.done(A)
    assert not queue._timers


async def test_of_two_timers_the_earlier_holds() -> None:
    queue = KeyedQueue()
    queue.put_after(A, timedelta(seconds=0.02))
    queue.put_after(A, timedelta(hours=1))
    assert await taken(queue) == A
    queue.done(A)
    queue.put_after(A, timedelta(hours=1))
    queue.put_after(A, timedelta(seconds=0.02))
    assert await taken(queue) == A


async def test_failures_in_a_row_wait_longer_and_are_forgotten() -> None:
    queue = KeyedQueue()
    loop = asyncio.get_running_loop()
    waits = []
    for _ in range(3):
        queue.put_backoff(A)
        waits.append(queue._timers[A].when() - loop.time())
        queue.close()
    assert waits == sorted(waits)
    assert await taken(queue, 0.01) is None
    assert waits[2] > 3 * waits[0]
    queue.forget(A)
    queue.put_backoff(A)
    assert queue._timers[A].when() - loop.time() < 0.11
    queue.close()
