"""``yurt down``: stop everything of a data directory; with ``--purge`` remove it, too."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.output import Output, failures_told, read_settings

if TYPE_CHECKING:
    from control.settings import Settings

_STOP_SECONDS = 30.0


def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove all data: sandboxes, images, keys.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Stop the server and its sandboxes; their disks stay for the next `up`."""
    output = Output(as_json=as_json)
    with failures_told():
        from control.cli import checks
        from control.errors import UnavailableError

        settings = read_settings()
        if os.geteuid() != 0:
            raise UnavailableError(checks.root(os.geteuid()).advice)
        _stop(settings, output)
        if purge:
            _purge(settings, output)
    data = settings.data
    text = f"Removed {data}." if purge else f"Yurt is down. Everything is kept in {data}."
    output.result({"data": str(data), "purged": purge}, text)


def _stop(settings: Settings, output: Output) -> None:
    """End the server first, so that it starts nothing again; then the sandboxes."""
    from control.cli import prepare, supervisor
    from control.errors import UnavailableError
    from jobs.local import teardown

    data = settings.data
    if not prepare.is_ours(data):
        return
    pid = supervisor.running(data)
    if pid is not None:
        with output.step("stopping the server"):
            end(pid)
    with output.step("stopping sandboxes"):
        try:
            asyncio.run(teardown(data))
        except TimeoutError as exc:
            message = "a sandbox does not end; look into its runner.log below run/sandboxes"
            raise UnavailableError(message) from exc


def end(pid: int) -> None:
    """Ask a process to end, and kill it if it does not; return when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], _STOP_SECONDS)[0]:
                return
    finally:
        os.close(handle)


def _purge(settings: Settings, output: Output) -> None:
    """Remove the data directory.

    Raises:
        UnavailableError: something below it is still in use; nothing is removed.
        YurtError: the directory is not ours.
    """
    from control.cli import forwarding, prepare
    from control.errors import UnavailableError, YurtError

    data = settings.data
    if not data.exists():
        return
    if not prepare.is_ours(data):
        message = f"{data} was not made by `./yurt up`: nothing is removed"
        raise YurtError(message)
    in_use = still_in_use(data.resolve())
    if in_use:
        message = f"still in use below {data}, so nothing is removed:\n  " + "\n  ".join(in_use)
        raise UnavailableError(message)
    with output.step(f"removing {data}"):
        # The mark goes last: what was interrupted can be purged again.
        entries = sorted(data.iterdir(), key=lambda path: path.name == prepare.MARK)
        for entry in entries:
            subprocess.run(["rm", "-rf", "--one-file-system", "--", entry], check=True)
        if not data.is_mount():
            data.rmdir()
        forwarding.remove_ours()


def still_in_use(data: Path, root: Path = Path("/")) -> list[str]:
    """List mounts below a directory and loop devices on files in it."""
    found = []
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].replace("\\040", " "))
        if point != data and point.is_relative_to(data):
            found.append(f"mount {point}")
    for backing in (root / "sys/block").glob("loop*/loop/backing_file"):
        if Path(backing.read_text().strip()).is_relative_to(data):
            found.append(f"loop device {backing.parts[-3]} on {backing.read_text().strip()}")
    return found
