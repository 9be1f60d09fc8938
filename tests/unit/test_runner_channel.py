"""Sockets between the runner's own processes, one of which may end at any moment."""

from __future__ import annotations

import os

import pytest

from jobs.runner import channel

pytestmark = pytest.mark.unit


def test_packets_and_descriptors_arrive_in_order() -> None:
    ours, theirs = channel.pair(packets=True)
    channel.tell(ours, b"one")
    channel.tell(ours, b"two", theirs.fileno())
    assert channel.hear(theirs) == b"one"
    message, fd = channel.receive_fd(theirs)
    assert (message, fd >= 0) == (b"two", True)
    os.close(fd)
    ours.close()
    theirs.close()


def test_who_ended_with_something_unread_does_no_harm() -> None:
    ours, theirs = channel.pair(packets=True)
    channel.tell(ours, b"unread")
    theirs.close()
    assert channel.hear(ours) == b""
    channel.tell(ours, b"more")
    channel.tell(ours, b"more", ours.fileno())
    assert channel.hear(ours) == b""
    ours.close()


def test_what_is_too_large_is_no_end_of_the_other_side() -> None:
    ours, theirs = channel.pair(packets=True)
    with pytest.raises(OSError, match="too long"):
        channel.tell(ours, bytes(8 * channel.PACKET_LIMIT))
    ours.close()
    theirs.close()
