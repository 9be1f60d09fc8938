"""Tries what must not work: runs inside a sandbox, as root or as its user, and reports as JSON.

    python3 probe.py calls '{"bpf": 321, ...}'     system calls, and what became of them
    python3 probe.py reach '[["192.0.2.1", 80]]'   which TCP addresses answer
    python3 probe.py forge '[["192.0.2.1", "192.0.2.2", 9, "text"]]'   datagrams from the first
                                                   address to the second (as root)
    python3 probe.py find FILE                     files and processes that hold a line of FILE

Only the standard library. ``allowed`` is what the tests look for; everything else is the error.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED = "allowed"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWPID = 0x20000, 0x10000000, 0x40000000, 0x20000000
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
CONNECT_SECONDS = 3


def outcome(result: int) -> str:
    """Name what a C call did."""
    if result != -1:
        return ALLOWED
    return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


def in_child(work: Callable[[], str]) -> str:
    """Run something in a child: it may change the process for ever, or kill it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, work().encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 100).decode()
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return said or f"killed by {signal.Signals(os.WTERMSIG(status)).name}"


def raw(number: int, *arguments: object) -> str:
    return outcome(LIBC.syscall(number, *arguments))


def call_probes(numbers: dict[str, int]) -> dict[str, Callable[[], str]]:
    """Every attempt, by name. Arguments are such that the kernel would come as far as a check."""
    block = ctypes.create_string_buffer(256)
    directory = ctypes.c_char_p(b"/mnt")
    return {
        "mount tmpfs": lambda: outcome(LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
        "mount proc": lambda: outcome(LIBC.mount(b"proc", b"/mnt", b"proc", 0, None)),
        "bind mount": lambda: outcome(LIBC.mount(b"/etc", b"/mnt", None, 4096, None)),
        "remount": lambda: outcome(LIBC.mount(b"none", b"/proc/sys", None, 4096 | 32, None)),
        "umount": lambda: outcome(LIBC.umount2(b"/proc/sys", 2)),
        "pivot_root": lambda: outcome(LIBC.pivot_root(b"/mnt", b"/mnt")),
        "unshare user": lambda: outcome(LIBC.unshare(CLONE_NEWUSER)),
        "unshare user+mount": lambda: outcome(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS)),
        "unshare mount": lambda: outcome(LIBC.unshare(CLONE_NEWNS)),
        "unshare net": lambda: outcome(LIBC.unshare(CLONE_NEWNET)),
        "unshare pid": lambda: outcome(LIBC.unshare(CLONE_NEWPID)),
        "setns": lambda: outcome(LIBC.setns(os.open("/proc/self/ns/net", 0), 0)),
        "open_tree": lambda: raw(numbers["open_tree"], -100, directory, 1),
        "move_mount": lambda: raw(numbers["move_mount"], -100, directory, -100, directory, 0),
        "fsopen": lambda: raw(numbers["fsopen"], ctypes.c_char_p(b"tmpfs"), 0),
        "mount_setattr": lambda: raw(numbers["mount_setattr"], -100, directory, 0, block, 32),
        "io_uring_setup": lambda: raw(numbers["io_uring_setup"], 4, block),
        "bpf": lambda: raw(numbers["bpf"], 0, block, 72),
        "perf_event_open": lambda: raw(numbers["perf_event_open"], block, 0, -1, -1, 0),
        "keyctl": lambda: raw(numbers["keyctl"], 0, -3, 0),
        "add_key": lambda: raw(numbers["add_key"], b"user", b"a", b"b", 1, -3),
        "request_key": lambda: raw(numbers["request_key"], b"user", b"a", None, -3),
        "userfaultfd": lambda: raw(numbers["userfaultfd"], 1),
        "clone3 user": lambda: clone3_user(numbers["clone3"]),
        "device node": device_node,
        "raw memory": lambda: readable("/dev/mem"),
        "kernel log": lambda: outcome(LIBC.klogctl(3, block, 256)),
        "set the time": lambda: outcome(LIBC.settimeofday(block, None)),
        "set the host name": lambda: outcome(LIBC.sethostname(b"taken", 5)),
        "read the kernel's memory": lambda: readable("/proc/kcore"),
        "write a kernel setting": lambda: writable("/proc/sys/kernel/core_pattern"),
        "sysrq": lambda: writable("/proc/sysrq-trigger"),
        "trace the init": lambda: trace(1),
        "read the init's memory": lambda: readable("/proc/1/mem"),
        "read the init's environment": lambda: readable("/proc/1/environ"),
        "trace the agent": lambda: trace(agent()),
        "read the agent's memory": lambda: readable(f"/proc/{agent()}/mem"),
        "read the agent's environment": lambda: readable(f"/proc/{agent()}/environ"),
        "look at the agent's open files": lambda: link(f"/proc/{agent()}/fd/0"),
    }


def clone3_user(number: int) -> str:
    arguments = (ctypes.c_uint64 * 8)(CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = LIBC.syscall(number, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    return outcome(pid)


def agent() -> int:
    """Find the process that listens on the agent's port: the first one below the init."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            command = (entry / "cmdline").read_bytes()
            if b"/opt/yurt/" in command:
                return int(entry.name)
    raise LookupError("no agent is to be seen")


def trace(pid: int) -> str:
    said = [outcome(LIBC.ptrace(how, pid, None, None)) for how in (PTRACE_SEIZE, PTRACE_ATTACH)]
    return ALLOWED if ALLOWED in said else said[0]


def device_node() -> str:
    try:
        os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ALLOWED


def readable(path: str) -> str:
    try:
        with Path(path).open("rb", buffering=0) as file:
            file.read(1)
    except OSError as error:
        # Memory at address 0 is not mapped: to be told so means that it could be opened.
        named = errno.errorcode[error.errno or 0]
        return ALLOWED if named == "EIO" else named
    return ALLOWED


def writable(path: str) -> str:
    try:
        Path(path).open("wb", buffering=0).close()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ALLOWED


def link(path: str) -> str:
    try:
        Path(path).readlink()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ALLOWED


def reach(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=CONNECT_SECONDS):
            return ALLOWED
    except OSError as error:
        return type(error).__name__


def forge(source: str, target: str, port: int, text: str) -> str:
    """Send a datagram with a source address of our choice."""
    payload = text.encode()
    datagram = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP, 0),
        socket.inet_aton(source),
        socket.inet_aton(target),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        try:
            sender.sendto(head + datagram, (target, 0))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return ALLOWED


def find(patterns: list[bytes], own: Path) -> list[str]:
    """Look for the patterns in every file that can be read and in what processes show."""
    shown = ("environ", "cmdline", "maps", "mountinfo")
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    others = [entry for entry in processes if int(entry.name) != os.getpid()]
    paths = [entry / name for entry in others for name in shown]
    for directory, names, files in os.walk("/"):
        if directory == "/":
            names[:] = set(names) - {"proc", "sys", "dev"}
        paths += [Path(directory) / name for name in files]
    return [str(path) for path in paths if path != own and holds(path, patterns)]


def holds(path: Path, patterns: list[bytes]) -> bool:
    try:
        if path.is_symlink() or not path.is_file():
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return any(pattern in content for pattern in patterns)


def main() -> None:
    verb, argument = sys.argv[1:]
    if verb == "calls":
        probes = call_probes(json.loads(argument))
        said: object = {name: in_child(probe) for name, probe in probes.items()}
    elif verb == "reach":
        targets = json.loads(argument)
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            answers = pool.map(lambda target: reach(*target), targets)
            said = {
                f"{address}:{port}": a for (address, port), a in zip(targets, answers, strict=True)
            }
    elif verb == "forge":
        said = [forge(*datagram) for datagram in json.loads(argument)]
    else:
        said = find(Path(argument).read_bytes().split(), Path(argument))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
