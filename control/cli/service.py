"""``yurt service``: have systemd start the server, now and whenever this machine starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import Output, failures_told, read_settings

if TYPE_CHECKING:
    from control.settings import Settings

app = typer.Typer(help="The server as a service of systemd.", add_completion=False)

UNITS = Path("/etc/systemd/system")
SETTINGS = Path("/etc/yurt")
_RUNS = Path("/run/systemd/system")  # sd_booted(3)

Name = Annotated[str, typer.Option(help="Name of the unit; one for each data directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def service() -> None:
    """Run the server as a service of systemd."""


@app.command("install")
def install(name: Name = "yurt", as_json: Json = False) -> None:
    """Start the server, and start it with the machine, with the settings of now.

    A restart of the service costs no sandbox. If the server is up already, it is handed over.
    """
    output = Output(as_json=as_json)
    with failures_told():
        settings = read_settings()
        unit, variables = _paths(name)
        _require_systemd()
        _write(settings, unit, variables)
        _systemctl("daemon-reload")
        _hand_over(settings, name, output)
        with output.step(f"starting {unit.name}; the first time it makes what it needs"):
            _systemctl("enable", unit.name)
            _systemctl("restart", unit.name)
    text = (
        f"{unit.name} runs, and starts with this machine: {settings.api_url}\n"
        f"Its settings are in {variables}: change them there, then `systemctl restart {name}`.\n"
        f"Sandboxes go on when it stops; `./yurt down` stops them, too."
    )
    fields = {"unit": str(unit), "settings": str(variables), "apiUrl": settings.api_url}
    output.result(fields, text)


@app.command("uninstall")
def uninstall(name: Name = "yurt", as_json: Json = False) -> None:
    """Stop the server and forget the service; sandboxes go on, and all files stay."""
    output = Output(as_json=as_json)
    with failures_told():
        from control.errors import NotFoundError

        unit, variables = _paths(name)
        _require_systemd()
        if not unit.exists():
            raise NotFoundError(f"there is no {unit}: nothing is changed")
        with output.step(f"stopping {unit.name}"):
            _systemctl("disable", "--now", unit.name)
        unit.unlink()
        variables.unlink(missing_ok=True)
        _systemctl("daemon-reload")
    text = f"{unit.name} is gone. Sandboxes go on; `./yurt down` stops them, `./yurt up` serves."
    output.result({"unit": str(unit)}, text)


def tell_ready() -> None:
    """Tell systemd, if it started us and wants to know, that the server is ready."""
    # The notification protocol is one datagram (sd_notify(3)).
    path = os.environ.pop("NOTIFY_SOCKET", "")
    if not path:
        return
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.connect("\0" + path[1:] if path.startswith("@") else path)
        told.send(b"READY=1")


def program() -> Path:
    """Return what runs the command line: the checkout's wrapper, else the installed program."""
    wrapper = Path(sys.prefix).parent / "yurt"
    return wrapper if os.access(wrapper, os.X_OK) else Path(sys.prefix) / "bin" / "yurt"


def _paths(name: str) -> tuple[Path, Path]:
    from control.cli.unit import is_unit_name
    from control.errors import InvalidError

    if not is_unit_name(name):
        raise InvalidError(f"{name!r} cannot name a unit: use letters, digits, - and _")
    return UNITS / f"{name}.service", SETTINGS / f"{name}.env"


def _require_systemd() -> None:
    """Require what this is about.

    Raises:
        UnavailableError: systemd does not run here, or we may not tell it anything.
    """
    from control.cli import checks
    from control.errors import UnavailableError

    if not _RUNS.is_dir() or shutil.which("systemctl") is None:
        raise UnavailableError(
            "systemd does not run this machine, so there is nothing to install into; have "
            "whatever starts its programs run `./yurt up`, or start it yourself with `./yurt up -d`"
        )
    if os.geteuid() != 0:
        raise UnavailableError(checks.root(os.geteuid()).advice)


def _write(settings: Settings, unit: Path, variables: Path) -> None:
    """Write the unit, and the settings, which may be secret, for root alone."""
    from control.cli.unit import environment_file, service_unit
    from control.errors import InvalidError

    names = [f"YURT_{name.upper()}" for name in type(settings).model_fields]
    given = {name: os.environ[name] for name in names if name in os.environ}
    try:
        text = environment_file({**given, "YURT_DATA": str(settings.data)})
        unit_text = service_unit(program(), variables, settings.data)
    except ValueError as error:
        raise InvalidError(f"systemd cannot be told: {error}") from error
    variables.parent.mkdir(mode=0o755, exist_ok=True)
    variables.touch(mode=0o600)
    variables.chmod(0o600)
    variables.write_text(text)
    unit.write_text(unit_text)


def _hand_over(settings: Settings, name: str, output: Output) -> None:
    """End a server that is not the service's: there is one for a data directory."""
    from control.cli import supervisor
    from control.cli.down import end

    asked = ("systemctl", "show", "--property=MainPID", "--value", f"{name}.service")
    ours = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    pid = supervisor.running(settings.data)
    if pid is not None and str(pid) != ours:
        with output.step("stopping the server that runs by itself; its sandboxes go on"):
            end(pid)


def _systemctl(*arguments: str) -> None:
    """Tell systemd something.

    Raises:
        UnavailableError: it could not do it; with what it said.
    """
    from control.errors import UnavailableError

    ran = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip() or f"status {ran.returncode}"
        raise UnavailableError(f"systemctl {' '.join(arguments)}: {said}")
