"""The gate's system call filter, run by a small interpreter of its BPF instructions."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from jobs.runner.arch import ARCHITECTURES
from jobs.runner.gate_confine import seccomp_filter

pytestmark = pytest.mark.unit

ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000


def _run(code: bytes, data: bytes) -> int:
    """Run the classic BPF program ``code`` over a ``struct seccomp_data``."""
    steps = list(struct.iter_unpack("<HBBI", code))
    accumulator = position = 0
    while True:
        operation, jump_true, jump_false, value = steps[position]
        position += 1
        if operation == 0x20:  # load a word
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x15:  # jump if equal
            position += jump_true if accumulator == value else jump_false
        elif operation == 0x45:  # jump if any bit is set
            position += jump_true if accumulator & value else jump_false
        elif operation == 0x06:
            assert isinstance(value, int)
            return value
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


def _verdict(row: dict[str, Any], number: int, *arguments: int, audit: int = 0) -> int:
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, audit or row["audit"], 0, *padded)
    return _run(seccomp_filter(row), data)


ROWS = [pytest.param(row, id=name) for name, row in ARCHITECTURES.items()]
CONDITIONAL = {"ioctl", "mmap", "mprotect"}


@pytest.mark.parametrize("row", ROWS)
def test_exactly_the_named_calls_are_allowed(row: dict[str, Any]) -> None:
    plain = {number for name, number in row["calls"].items() if name not in CONDITIONAL}
    conditional = {row["calls"][name] for name in CONDITIONAL}
    for number in set(range(600)) - conditional:
        assert _verdict(row, number) == (ALLOW if number in plain else EPERM), number


@pytest.mark.parametrize("row", ROWS)
def test_memory_is_never_made_executable(row: dict[str, Any]) -> None:
    for name in ("mmap", "mprotect"):
        for protection, verdict in ((0, ALLOW), (3, ALLOW), (4, EPERM), (5, EPERM), (7, EPERM)):
            assert _verdict(row, row["calls"][name], 0, 4096, protection) == verdict


@pytest.mark.parametrize("row", ROWS)
def test_the_only_ioctl_makes_sockets_non_blocking(row: dict[str, Any]) -> None:
    assert _verdict(row, row["calls"]["ioctl"], 3, 0x5421) == ALLOW
    assert _verdict(row, row["calls"]["ioctl"], 3, 0x5412) == EPERM  # TIOCSTI


@pytest.mark.parametrize("row", ROWS)
def test_a_call_of_another_architecture_kills(row: dict[str, Any]) -> None:
    assert _verdict(row, row["calls"]["close"], audit=0x40000003) == KILL


def test_the_numbers_of_x32_are_none_of_the_allowed() -> None:
    row = ARCHITECTURES["x86_64"]
    assert _verdict(dict(row), 0x40000000 | 3) == EPERM


@pytest.mark.parametrize("row", ROWS)
def test_nothing_dangerous_is_in_the_table(row: dict[str, Any]) -> None:
    dangerous = {"socket", "openat", "execve", "clone", "ptrace", "bpf", "bind", "listen", "kill"}
    assert not dangerous & set(row["calls"])
