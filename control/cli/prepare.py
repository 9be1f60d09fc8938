"""What has to be there before the server starts; each step does nothing when it was done before."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from control.cli import checks, forwarding
from control.cli.checks import Verdict
from control.errors import UnavailableError, YurtError
from jobs.site import Site

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from control.cli.output import Output
    from control.settings import Settings
    from jobs.images import Image

# Shows that a directory is ours, so that `down --purge` never removes anybody else's.
MARK = "yurt-data"


def data_directory(data: Path, expected: Collection[str] = ()) -> None:
    """Make the data directory, for root's eyes only; ``expected`` may be in it before.

    Raises:
        YurtError: the directory belongs to something else.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_ours(data):
        foreign = {path.name for path in data.iterdir()} - {"lost+found", *expected}
        if foreign:
            message = f"{data} is not empty, and not ours: choose another directory by YURT_DATA"
            raise YurtError(message)
        data.chmod(0o700)
        (data / MARK).write_text("Everything in this directory belongs to Yurt.\n")


def is_ours(data: Path) -> bool:
    """Tell whether a directory was made by ``data_directory``."""
    return (data / MARK).is_file()


def require_machine(settings: Settings) -> None:
    """Refuse a machine that Yurt cannot work on.

    Raises:
        UnavailableError: with all that is missing, and what to do about it.
    """
    wrong = []
    for check in [*checks.machine_checks(settings), *checks.port_checks(settings)]:
        if check.verdict is Verdict.FAIL:
            wrong.append(f"{check.name}: {check.found}; {check.advice}")
            if check.name == "root":
                break  # the rest cannot be looked at
    if wrong:
        raise UnavailableError("this machine is not ready:\n  " + "\n  ".join(wrong))


def let_forwarded_packets_pass(output: Output) -> None:
    """Let sandboxes through the rules of others, or say how to."""
    for obstacle in forwarding.obstacles():
        if forwarding.is_handled(obstacle):
            continue
        if forwarding.handle(obstacle):
            output.say(
                f"{obstacle.owner} drops forwarded packets: its chain {obstacle.chain} now accepts "
                "those of sandboxes (`down --purge` takes that back)"
            )
        else:
            advice = obstacle.advice or f"accept {forwarding.LINKS} in its chain {obstacle.chain}"
            output.warn(f"{obstacle.owner} drops what sandboxes send to the internet: {advice}")


def make_names_known(settings: Settings, output: Output) -> None:
    """See to it that programs here find preview hosts; browsers know ``*.localhost`` anyway."""
    domain = settings.domains[0]
    host = f"3000-abc.{domain}"
    if checks.resolves(host):
        return
    if domain == "localhost" and shutil.which("apt-get"):
        with output.step(f"installing libnss-myhostname: this system does not know {host}"):
            command = ["apt-get", "install", "--yes", "--no-install-recommends"]
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(
                [*command, "libnss-myhostname"], env=environment, capture_output=True, check=False
            )
        # Asked by a new process: this one may have read the old configuration.
        look = "import socket, sys; socket.getaddrinfo(sys.argv[1], 80)"
        again = [sys.executable, "-c", look, host]
        if subprocess.run(again, capture_output=True, check=False).returncode == 0:
            return
    output.warn(f"{host} is unknown to programs here: {checks.names(domain).advice}")


def bundle(settings: Settings, output: Output) -> None:
    """Make the agent's own Python, and point new sandboxes to it."""
    from image.bundle.build import bundle_digest
    from jobs.images import ensure_bundle
    from jobs.installed import point

    library = settings.data / "lib"
    library.mkdir(mode=0o700, exist_ok=True)
    if (library / f"agent-{bundle_digest()}").exists():
        made = ensure_bundle(settings.data, output.say)
    else:
        with output.step("making the agent's Python") as progress:
            made = ensure_bundle(settings.data, progress)
    point(library / "agent", made)


def default_snapshot(settings: Settings, output: Output) -> None:
    """Make what sandboxes are made from, and write it into the records."""
    from jobs.images import ensure_default_snapshot, layer_path
    from jobs.snapshot import recipe_digest

    site = _site(settings)
    if layer_path(settings.data, recipe_digest(site)).exists():
        image = ensure_default_snapshot(settings.data, site, output.say)
    else:
        with output.step("making the default snapshot (once, from Debian's packages)") as progress:
            image = ensure_default_snapshot(settings.data, site, progress)
    asyncio.run(_record(settings, image))


def _site(settings: Settings) -> Site:
    return Site(
        extra_ca=tuple(settings.extra_ca.replace(",", " ").split()),
        apt_mirror=settings.apt_mirror,
        pip_mirror=settings.pip_mirror,
        npm_mirror=settings.npm_mirror,
        http_proxy=settings.http_proxy,
        https_proxy=settings.https_proxy,
        no_proxy=settings.no_proxy,
    )


async def _record(settings: Settings, image: Image) -> None:
    from control.snapshots import ensure_default_snapshot
    from control.store.opening import open_store
    from control.vault import FileVault

    async with open_store(settings.store, FileVault(settings.data)) as store:
        await ensure_default_snapshot(store, image)
