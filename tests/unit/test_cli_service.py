"""What systemd is told of a server, and what happens where there is no systemd."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from control.cli import service
from control.cli.unit import environment_file, is_unit_name, service_unit

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["yurt", "a b", "100%", "$HOME"])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, name: str) -> None:
    program = tmp_path / name / "yurt"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    unit = tmp_path / "yurt-test.service"
    unit.write_text(service_unit(program, Path("/etc/yurt/yurt.env"), tmp_path / name))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("path", ['/qu"ote', "/quo'te", "/back\\slash", "/two\nlines"])
def test_a_path_that_systemd_could_not_read_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        service_unit(Path("/bin/true"), Path("/e"), Path(path))


def test_a_stop_reaches_the_server_and_no_sandbox() -> None:
    lines = service_unit(Path("/p/yurt"), Path("/e"), Path("/d")).splitlines()
    assert 'ExecStart="/p/yurt" up --no-demo' in lines
    for line in ("KillMode=process", "OOMPolicy=continue", "Delegate=cpu memory pids"):
        assert line in lines


@pytest.mark.parametrize(
    "variables",
    [{}, {"YURT_DATA": "/a b"}, {"B": 'q"$`\\ %', "A": "'#;"}, {"E": "", "U": "\N{SNOWMAN}"}],
)
def test_a_shell_reads_the_settings_as_systemd_does(
    tmp_path: Path, variables: Mapping[str, str]
) -> None:
    path = tmp_path / "env"
    path.write_text(environment_file(variables))
    script = 'set -a; . "$0"; exec env -0'
    command = ["env", "-i", "sh", "-c", script, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in said.split("\0") if line)
    assert {name: found[name] for name in variables} == variables


def test_a_setting_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="YURT_URL"):
        environment_file({"YURT_URL": "a\nb"})


def test_names_of_units_are_plain_words() -> None:
    assert is_unit_name("yurt-2")
    for name in ("", "a/b", "../a", "a b", "a.service", "-a", "a" * 65):
        assert not is_unit_name(name)


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_without_systemd_it_says_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(service, "_RUNS", tmp_path / "none")
    monkeypatch.setattr(service, "UNITS", tmp_path)
    monkeypatch.setattr(service, "SETTINGS", tmp_path / "yurt")
    ran = CliRunner().invoke(service.app, [verb])
    assert ran.exit_code == 1
    assert "./yurt up" in ran.stderr
    assert list(tmp_path.iterdir()) == []
    wrong = CliRunner().invoke(service.app, [verb, "--name", "../x"])
    assert wrong.exit_code == 1
    assert "name a unit" in wrong.stderr


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_once_that_the_server_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + path if is_abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + path if is_abstract else path)
        service.tell_ready()
        service.tell_ready()
        assert systemd.recv(100) == b"READY=1"
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)
