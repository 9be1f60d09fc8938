"""Whoever takes too much hurts only itself, and its sandbox says why within ten seconds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from control.cli.prepare import data_directory
from tests.support.api import Api
from tests.support.instance import Instance
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Sandbox

pytestmark = pytest.mark.security

HOG = (Path(__file__).parent / "inside" / "hog.py").read_bytes()
# What the reason must speak of, for the thing that was taken.
REASONS = {
    "processes": "too many processes",
    "memory": "out of memory",
    "disk": "disk full",
    "inotify": "inotify",
}
REASON_SECONDS = 10
VOLUME_BYTES = 300 << 20


@pytest.fixture(scope="module")
def neighbour(api: Api) -> Iterator[Sandbox]:
    with api.sandbox() as made:
        made.upload(HOG, "/tmp/hog.py")
        yield made


def expect_well(sandbox: Sandbox) -> None:
    """A sandbox that is well forks, allocates, writes and watches files."""
    script = (
        "import ctypes, os; x = bytearray(50 << 20); assert ctypes.CDLL(None).inotify_init1(0) > 0;"
        "f = open('/tmp/written', 'wb'); f.write(x); f.flush(); os.fsync(f.fileno())"
    )
    sandbox.check(f'python3 -c "{script}" && rm /tmp/written', seconds=20)


@pytest.mark.parametrize("thing", REASONS)
def test_a_hog_hurts_only_itself_and_the_sandbox_says_why(
    api: Api, neighbour: Sandbox, thing: str
) -> None:
    with api.sandbox() as hog:
        hog.upload(HOG, "/tmp/hog.py")
        hog.background(f"python3 /tmp/hog.py {thing}")
        assert REASONS[thing] in hog.reason(REASON_SECONDS)
        assert hog.record()["state"] == "started"
        expect_well(neighbour)
        assert ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC) > 0, "the host's own limit is used up"
        # However bad it is inside, it can be stopped, and is well again afterwards.
        hog.stop()
        hog.start()
        hog.check("rm -f /tmp/hog")
        expect_well(hog)


def test_a_reason_is_gone_after_the_next_start(api: Api) -> None:
    with api.sandbox() as hog:
        hog.upload(HOG, "/tmp/hog.py")
        hog.background("python3 /tmp/hog.py disk")
        assert hog.reason(REASON_SECONDS)
        hog.check("rm /tmp/hog")
        hog.stop()
        hog.start()
        assert not hog.record().get("errorReason")


@contextlib.contextmanager
def small_volume(directory: Path, at: Path) -> Iterator[None]:
    """Mount an ext4 volume of 300 MB at ``at``."""
    data_directory(at.parent)  # as an administrator would: `up` wants to find it marked as its own
    image = directory / "volume.img"
    with image.open("wb") as file:
        file.truncate(VOLUME_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


# Appends numbered lines, each acknowledged on standard output only after fsync.
APPEND = """
import os
with open("/home/daytona/log", "ab", buffering=0) as log:
    for number in range(10**9):
        log.write(b"%9d %s\\n" % (number, b"x" * 100000))
        os.fsync(log.fileno())
        print(number, flush=True)
"""


def test_on_a_full_volume_no_acknowledged_write_is_lost(tmp_path: Path) -> None:
    """The disks may promise more than the volume has; what was acknowledged stays all the same."""
    with (
        Instance.temporary(YURT_DISK_OVERCOMMIT="1000") as instance,
        # Unmounted before the purge: the volume is the site's.
        small_volume(tmp_path, instance.data / "disks"),
    ):
        instance.up()
        api = Api(instance)
        with contextlib.closing(api), api.sandbox() as filler, api.sandbox() as writer:
            writer.upload(APPEND.encode(), "/tmp/append.py")
            written = writer.background("python3 -u /tmp/append.py")
            eventually(lambda: acknowledged(writer, written) > 20, "the first writes")
            filler.background("dd if=/dev/zero of=/tmp/fill bs=1M conv=fsync")
            last = settled(writer, written)
            filler.stop()
            filler.delete()
            disk = instance.data / "disks" / filler.id
            eventually(lambda: not disk.exists(), "the filler's disk to be removed")
            writer.stop()
            writer.start()
            lines = writer.check("cut -c1-9 /home/daytona/log").split()
            assert lines[: last + 1] == [str(number) for number in range(last + 1)]
            expect_well(writer)


def acknowledged(sandbox: Sandbox, written: tuple[str, str]) -> int:
    """The newest number that was acknowledged; -1 before the first."""
    numbers = [word for word in sandbox.logs(*written).split() if word.isdigit()]
    return int(numbers[-1]) if numbers else -1


def settled(sandbox: Sandbox, written: tuple[str, str]) -> int:
    """Wait until no further write is acknowledged, and return the last one that was."""
    seen = -1

    def still() -> bool:
        nonlocal seen
        before = seen
        # The volume is full: reading the log may fail as well, and then nothing new is known.
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            seen = acknowledged(sandbox, written)
        return seen == before

    eventually(still, "the writes to come to an end", seconds=60, pause_seconds=3)
    return seen
