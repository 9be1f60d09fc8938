"""The command line as a person uses it: up, down, doctor, and the client's commands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.instance import REPOSITORY, Instance, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.remote import Server

pytestmark = pytest.mark.e2e


def client(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / "yurt", *arguments],
        env={**os.environ, **server.variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def here(server: Server) -> Iterator[Instance]:
    """An embedded server: the run's, or one of its own beside a server that is elsewhere."""
    if isinstance(server, Instance):
        yield server
        return
    with Instance.temporary() as own:
        own.up()
        yield own


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    """A sandbox made on the command line."""
    name = f"cli-{uuid.uuid4().hex[:8]}"
    created = client(server, "create", "--name", name, "--env", "GREETING=good day", "--json")
    assert created.returncode == 0, created.stderr
    assert json.loads(created.stdout)["name"] == name
    yield name
    removed = client(server, "rm", name, "--json")
    assert json.loads(removed.stdout) == {"deleted": [name]}


def test_up_again_returns_at_once(here: Instance) -> None:
    begin = time.monotonic()
    again = here.run("up", "-d", "--json")
    assert time.monotonic() - begin < 3
    assert json.loads(again.stdout)["alreadyUp"] is True


def test_up_in_the_foreground_does_not_start_a_second_server(here: Instance) -> None:
    again = here.run("up", check=False)
    assert again.returncode == 1
    assert "it is up already (pid " in again.stdout


def test_a_taken_port_is_told_with_who_holds_it(here: Instance, tmp_path: Path) -> None:
    other = Instance(tmp_path / "data", here.port)
    refused = other.run("up", "-d", check=False)
    assert refused.returncode == 1
    assert f"port 127.0.0.1:{here.port}: taken by traefik (pid " in refused.stdout
    assert not other.data.exists()


def test_doctor_finds_nothing_to_complain_of_where_it_works(here: Instance) -> None:
    examined = here.run("doctor", "--json")
    checks: list[dict[str, Any]] = json.loads(examined.stdout)
    assert all(check["verdict"] != "fail" for check in checks)
    assert checks[-1]["found"].startswith("up (pid ")


def test_doctor_says_what_to_do_and_fails_where_it_cannot_work() -> None:
    examined = Instance(Path("/dev/shm/yurt-test"), free_port()).run("doctor", check=False)
    assert examined.returncode == 1
    assert "YURT_DATA" in examined.stdout


def test_a_wrong_setting_is_named() -> None:
    refused = Instance(Path("relative"), 70000).run("doctor", check=False)
    assert refused.returncode == 1
    assert "YURT_PORT" in refused.stdout


def test_env_before_the_first_up_says_what_to_do(tmp_path: Path) -> None:
    refused = Instance(tmp_path / "data", free_port()).run("env", check=False)
    assert refused.returncode == 1
    assert "./yurt up" in refused.stdout


def test_down_where_nothing_is_succeeds(tmp_path: Path) -> None:
    instance = Instance(tmp_path / "data", free_port())
    instance.down()
    instance.down("--purge")
    assert not instance.data.exists()


def test_purge_leaves_a_directory_alone_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    refused = Instance(tmp_path, free_port()).run("down", "--purge", check=False)
    assert refused.returncode == 1
    assert (tmp_path / "precious").exists()


def test_purge_refuses_while_something_is_mounted_below(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "inside").mkdir(parents=True)
    (data / "yurt-data").touch()
    subprocess.run(["mount", "-t", "tmpfs", "none", data / "inside"], check=True)
    try:
        (data / "inside" / "precious").touch()
        refused = Instance(data, free_port()).run("down", "--purge", check=False)
        assert refused.returncode == 1
        assert f"mount {data}/inside" in refused.stdout
        assert (data / "inside" / "precious").exists()
    finally:
        subprocess.run(["umount", data / "inside"], check=True)


def test_a_command_runs_in_a_sandbox_and_its_exit_code_is_ours(server: Server, name: str) -> None:
    done = client(server, "exec", name, "echo $GREETING; exit 3")
    assert (done.returncode, done.stdout) == (3, "good day\n")
    done = client(server, "exec", "--json", name, "printf", "%s", "a  b")
    assert json.loads(done.stdout) == {"exitCode": 0, "result": "a  b"}


def test_a_sandbox_is_listed(server: Server, name: str) -> None:
    assert name in client(server, "ls").stdout
    listed = json.loads(client(server, "ls", "--json").stdout)
    assert "started" in {item["state"] for item in listed if item["name"] == name}


def test_an_unknown_sandbox_is_one_line_on_standard_error(server: Server) -> None:
    done = client(server, "exec", "nosuch", "true")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "yurt: Sandbox with ID or name nosuch not found\n"


def test_a_shell_is_a_terminal_that_follows_ours(server: Server, name: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(REPOSITORY / "yurt", ["yurt", "shell", name], {**os.environ, **server.variables})
    resize(terminal, rows=31, columns=99)
    until(terminal, "$ ")
    os.write(terminal, b"stty size; tty\r")
    assert "31 99" in until(terminal, "/dev/pts/")
    resize(terminal, rows=40, columns=77)
    time.sleep(0.5)
    os.write(terminal, b"stty size; exit 7\r")
    assert "40 77" in until(terminal, "logout")
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    os.close(terminal)


def resize(terminal: int, *, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def until(terminal: int, text: str) -> str:
    seen = ""
    deadline = time.monotonic() + 15
    while text not in seen:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], seen
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen
