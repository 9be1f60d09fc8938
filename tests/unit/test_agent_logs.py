"""Logs, marks and process families: what must hold however output is cut and whoever ends."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from hypothesis import given, settings, strategies as st

from yurt_agent import processes, spool
from yurt_agent.marks import STDERR, STDOUT, Marker, Unmarker
from yurt_agent.processes import Family, Name, Process, family
from yurt_agent.spool import Log

pytestmark = pytest.mark.unit

OUTPUT = st.lists(
    st.tuples(
        st.sampled_from([STDOUT, STDERR]),
        st.binary(min_size=1, max_size=20).filter(lambda b: not set(b) & {1, 2}),
    )
)


@given(OUTPUT, st.lists(st.integers(1, 7)))
def test_each_stream_comes_out_as_it_went_in(
    output: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    marker = Marker()
    log = b"".join(marker.mark(stream, data) for stream, data in output)
    for wanted in (STDOUT, STDERR, b""):
        unmarker, text, rest = Unmarker(wanted), b"", log
        for cut in cuts:
            text, rest = text + unmarker.feed(rest[:cut]), rest[cut:]
        text += unmarker.feed(rest) + unmarker.finish()
        assert text == b"".join(data for stream, data in output if wanted in {b"", stream})


@given(OUTPUT)
def test_each_line_says_its_stream(output: list[tuple[bytes, bytes]]) -> None:
    marker = Marker()
    log = b"".join(marker.mark(stream, data) for stream, data in output)
    lines = log.split(b"\n")
    assert all(line.startswith((STDOUT, STDERR)) for line in lines[:-1])
    assert lines[-1] == b"" or lines[-1].startswith((STDOUT, STDERR))


@given(st.binary(max_size=60), st.integers(0, 60))
def test_taking_marks_out_does_not_depend_on_cuts(log: bytes, cut: int) -> None:
    whole, cut_up = Unmarker(), Unmarker()
    expected = whole.feed(log) + whole.finish()
    assert cut_up.feed(log[:cut]) + cut_up.feed(log[cut:]) + cut_up.finish() == expected


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LIMIT", 1000)
    monkeypatch.setattr(spool, "MEMORY", 64)


def kept(log: Log, whole: bytes) -> bytes:
    """Check that a log gives the end of what it took, and return that."""
    shown = b"".join(log.pieces())
    if shown == whole:
        return shown
    notice, _, rest = shown.partition(b"\n")
    assert notice == b"[%d bytes of output left out here]" % (len(whole) - len(rest))
    assert whole.endswith(rest)
    return rest


@pytest.mark.usefixtures("small")
@given(st.lists(st.binary(max_size=300), max_size=30))
@settings(deadline=None)
def test_a_log_keeps_the_end_and_says_what_is_missing(pieces: list[bytes]) -> None:
    log, whole = Log(), b""
    for piece in pieces:
        log.append(piece)
        whole += piece
    assert log.size == len(whole)
    if len(whole) <= 1000:
        assert kept(log, whole) == whole
    elif b"\n" not in whole:
        assert len(kept(log, whole)) == 1000


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("room", [0, 30, 64, 100, 500])
def test_a_full_disk_shortens_a_log_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    real = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, "no space")
        return real(fd, data[: room - offset], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    log, whole = Log(), b""
    for number in range(200):
        piece = b"line %d\n" % number
        log.append(piece)
        whole += piece
    assert len(kept(log, whole)) >= min(room, 64) - 20


@pytest.mark.usefixtures("small")
def test_without_any_place_for_files_a_log_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_PLACES", ("/does/not/exist",))
    log = Log()
    log.append(b"a" * 500)
    log.append(b"b" * 10)
    assert kept(log, b"a" * 500 + b"b" * 10) == b"a" * 54 + b"b" * 10


@pytest.mark.usefixtures("small")
def test_of_too_many_logs_with_files_the_oldest_that_ended_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "FILES", 2)
    running, ended, last = Log(), Log(), Log()
    for log in (running, ended):
        log.append(b"x" * 100)
    ended.finish()
    last.append(b"x" * 100)
    assert b"".join(running.pieces()) == b"x" * 100
    assert b"".join(ended.pieces()) == b"[100 bytes of output left out here]\n"
    assert b"".join(last.pieces()) == b"x" * 100


@pytest.mark.usefixtures("small")
async def test_a_follower_that_falls_behind_is_told_and_goes_on() -> None:
    log = Log(STDERR)
    follower = log.follow()
    log.append(b"first\n")
    assert await anext(follower) == b"first\n"
    for number in range(500):
        log.append(b"%03d\n" % number)
    log.finish()
    rest = b"".join([piece async for piece in follower])
    notice, _, lines = rest.partition(b"\n")
    assert notice.startswith(STDERR + b"[")
    assert lines == b"".join(b"%03d\n" % number for number in range(251, 500))


async def test_followers_wait_for_what_comes_and_end_with_the_log() -> None:
    log = Log()
    seen: list[bytes] = []

    async def follow() -> None:
        async for piece in log.follow():
            seen.append(piece)

    tasks = [asyncio.create_task(follow()) for _ in range(2)]
    await asyncio.sleep(0)
    log.append(b"one")
    await asyncio.sleep(0.01)
    assert seen == [b"one", b"one"]
    log.finish()
    log.append(b"late")
    await asyncio.wait_for(asyncio.gather(*tasks), 1)
    assert seen == [b"one", b"one"]
    assert b"".join(log.pieces()) == b"onelate"


def table(monkeypatch: pytest.MonkeyPatch, *rows: tuple[int, int, int, int]) -> None:
    """Pretend that these are the processes: pid, parent, group, session."""
    found = {pid: Process(Name(pid, pid * 10), *rest) for pid, *rest in rows}
    monkeypatch.setattr(processes, "living", lambda: found)


def pids(found: Family) -> set[int]:
    return {name.pid for name in found.names}


def test_a_family_is_the_session_and_all_descendants(monkeypatch: pytest.MonkeyPatch) -> None:
    table(
        monkeypatch,
        (1, 0, 1, 1),
        (10, 5, 10, 10),  # the leader
        (11, 10, 10, 10),  # its child
        (12, 1, 12, 10),  # an orphan in its session, in a group of its own
        (13, 11, 13, 13),  # a grandchild that has made itself a session
        (14, 1, 13, 13),  # an orphan in that one
        (15, 14, 13, 13),
        (20, 1, 20, 20),  # a daemon
        (21, 5, 21, 21),  # another program
    )
    found = family([Name(10, 100)], whole_session=True)
    assert pids(found) == {10, 11, 12, 13, 14, 15}
    assert found.groups == {10, 12, 13}
    assert pids(family([Name(10, 100)], whole_session=False)) == {10, 11, 13}
    assert not family([Name(10, 100)], whole_session=False).groups


def test_a_number_that_was_given_away_again_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, (10, 5, 10, 10), (11, 10, 10, 10))
    assert not pids(family([Name(10, 99)], [Name(11, 7)], whole_session=True))


def test_a_session_is_found_after_its_leader_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    table(monkeypatch, (11, 1, 10, 10), (12, 1, 12, 12))
    assert pids(family([Name(10, 100)], [Name(12, 120)], whole_session=True)) == {11, 12}
