"""Long answers that are made while they are sent, from work that blocks."""

from __future__ import annotations

import json
from itertools import islice

from yurt_agent.errors import from_os_error
from yurt_agent.http import Response, StreamResponse, in_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from typing import ParamSpec, TypeVar

    from yurt_agent.http import FileSlice

    P = ParamSpec("P")
    T = TypeVar("T")

BATCH = 500
"""Items made in one visit to the thread pool."""


async def at(path: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run file work in a thread; the kernel's errors come out as the client's, about ``path``."""
    try:
        return await in_thread(work, *args, **kwargs)
    except OSError as error:
        raise from_os_error(error, path) from error


async def array(path: str, items: Iterator[object], *, member: str = "") -> Response:
    """Answer with a JSON array of ``items``, held in memory only as far as the client has read.

    The first items are made before anything is sent, so that an error there is still an answer.

    Args:
        path: what an error is about.
        items: made in a thread.
        member: if given, the answer is an object and the array is this member of it.
    """
    before = json.dumps({member: []})[:-2] if member else "["
    after = "]}" if member else "]"
    first = await at(path, _take, items)
    if len(first) < BATCH:
        body = before + ", ".join(map(json.dumps, first)) + after
        return Response(body.encode(), content_type="application/json")
    return StreamResponse(_pieces(before, first, items, after), content_type="application/json")


async def _pieces(
    before: str, first: list[object], items: Iterator[object], after: str
) -> AsyncGenerator[bytes | FileSlice, None]:
    yield (before + ", ".join(map(json.dumps, first))).encode()
    while batch := await in_thread(_take, items):
        yield (", " + ", ".join(map(json.dumps, batch))).encode()
    yield after.encode()


def _take(items: Iterator[object]) -> list[object]:
    return list(islice(items, BATCH))
