"""What someone who runs code in the gate can still do: nothing but talk on open sockets."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs.installed import install_runner, interpreter
from tests.support.gate_rig import GATE_UID, SANDBOX, GateRig, status

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.security

# Each tries one thing by itself and says what came of it.
ATTEMPTS = {
    "open a file": "os.open('/', os.O_RDONLY)",
    "list a directory": "os.listdir('/')",
    "read its own memory": "open('/proc/self/mem', 'rb')",
    "make a socket": "_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)",
    "make a unix socket": "_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)",
    "listen anew": "listener.listen(1)",
    "bind": "listener.bind(('127.0.0.1', 0))",
    "fork": "os.fork()",
    "run a program": "os.execv('/bin/sh', ['sh'])",
    "kill its parent": "os.kill(parent, 0)",
    "trace its parent": "check(libc.ptrace(16, parent, 0, 0))",
    "read its parent's memory": "check(libc.process_vm_readv(parent, 0, 0, 0, 0, 0))",
    "leave its root": "os.chroot('.')",
    "change its user": "os.setresuid(0, 0, 0)",
    "make a namespace": "check(libc.unshare(0x10000000))",
    "enter a namespace": "check(libc.setns(0, 0))",
    "mount": "check(libc.mount(None, None, None, 0, None))",
    "load bpf": "check(libc.syscall(321, 0, 0, 0))",
    "use io_uring": "check(libc.syscall(425, 1, 0))",
    "use keys": "check(libc.syscall(250, 0, 0, 0))",
    "watch files": "check(libc.inotify_init1(0))",
    "make a pipe": "os.pipe()",
    "duplicate a descriptor": "os.dup(0)",
    "control a terminal": "check(libc.ioctl(0, 0x5412, b'x'))",
    "make memory executable": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "allow itself more": "check(libc.prctl(22, 0, 0, 0, 0))",
    "raise its limits": "check(libc.setrlimit(7, bytes(16)))",
}
CODE = """
import sys
sys.path[:0] = [{root!r}]
import _socket, ctypes, mmap, os
from jobs.runner import gate_confine
listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
calls = {attempts!r}
made = {{name: compile(code, name, 'eval') for name, code in calls.items()}}
gate_confine.confine({uid}, os.open({empty!r}, os.O_RDONLY))
for name, code in made.items():
    try:
        eval(code)
        print(name, 'done', sep=': ')
    except OSError as error:
        print(name, error.errno, sep=': ')
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each attempt: an errno, or "done"."""
    path = tmp_path_factory.mktemp("confined")
    (path / "lib").mkdir()
    (path / "empty").mkdir()
    root = install_runner(path).parents[2]
    code = CODE.format(root=str(root), attempts=ATTEMPTS, uid=GATE_UID, empty=str(path / "empty"))
    done = subprocess.run(
        [*interpreter(), "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return dict(line.split(": ") for line in done.stdout.splitlines())


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_taken_over_gate_cannot(attempt: str, outcomes: dict[str, str]) -> None:
    assert outcomes[attempt] == "1"  # EPERM


@pytest.fixture(scope="module")
def rig() -> Iterator[GateRig]:
    with GateRig() as rig:
        rig.assign(public=True)
        yield rig


def _status(rig: GateRig) -> dict[str, str]:
    lines = Path(f"/proc/{rig.process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_a_running_gate_is_nobody_without_capabilities(rig: GateRig) -> None:
    fields = _status(rig)
    assert fields["Uid"].split() == [str(GATE_UID)] * 4
    assert fields["Gid"].split() == [str(GATE_UID)] * 4
    assert fields["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert fields["Threads"] == "1"


def test_a_running_gate_has_an_empty_root(rig: GateRig) -> None:
    for place in ("root", "cwd"):
        assert list(Path(f"/proc/{rig.process.pid}/{place}").iterdir()) == []


def test_a_running_gate_has_nothing_open_but_sockets(rig: GateRig) -> None:
    directory = Path(f"/proc/{rig.process.pid}/fd")
    links = [str(descriptor.readlink()) for descriptor in directory.iterdir()]
    kinds = {link.partition(":")[0] for link in links if link.partition(":")[1]}
    assert kinds <= {"socket", "anon_inode", "pipe"}
    assert {link for link in links if link.startswith("/")} <= {"/dev/null", str(rig.errors)}
    assert status(rig.get(f"/toolbox/{SANDBOX}", "localhost")) == 401
