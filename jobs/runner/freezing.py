"""Let a sandbox stand still for a while. Never loaded into a runner that holds one."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from jobs.runner import cgroup

_FREEZE_SECONDS = 10.0


@contextmanager
def frozen(name: str) -> Iterator[None]:
    """Let nothing in the group run meanwhile.

    A process of its own sees to the end of that, however this one ends.

    Raises:
        OSError: the kernel cannot do that, or something in the group cannot be halted.
    """
    switches = [f"{path}/cgroup.freeze" for path in cgroup.directories(name)]
    switch = next((path for path in switches if os.path.exists(path)), None)
    if switch is None:
        raise OSError(f"group {name} cannot be frozen: there is no cgroup.freeze")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _thaw_after(switch, reading, writing)
    os.close(reading)
    try:
        _write(switch, "1")
        deadline = time.monotonic() + _FREEZE_SECONDS
        while "frozen 1" not in _read(f"{os.path.dirname(switch)}/cgroup.events"):
            if time.monotonic() > deadline:
                raise OSError(f"group {name} is not frozen after {_FREEZE_SECONDS:.0f} s")
            time.sleep(0.005)
        yield
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


def _thaw_after(switch: str, reading: int, writing: int) -> NoReturn:
    try:
        os.setsid()
        os.close(writing)
        os.read(reading, 1)  # nobody writes: it returns when the other end is closed
        _write(switch, "0")
    finally:
        os._exit(0)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn
