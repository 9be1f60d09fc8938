"""A name server that answers for everything below one domain, as an operator's own would."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.netns import Namespace


@contextlib.contextmanager
def wildcard_names(made: Namespace, domain: str, address: str) -> Iterator[None]:
    """Have programs in a namespace find ``domain`` and all below it at ``address``, asked there."""
    settings = Path("/etc/netns") / made.name
    settings.mkdir(parents=True)
    (settings / "resolv.conf").write_text(f"nameserver {address}\n")
    (settings / "nsswitch.conf").write_text("hosts: files dns myhostname\n")
    command = ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]
    command += ["--bind-interfaces", f"--interface={made.interface}", "--except-interface=lo"]
    command += [f"--address=/{domain}/{address}", "--pid-file="]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        look = made.command("getent", "ahostsv4", f"any.{domain}")
        eventually(
            lambda: subprocess.run(look, capture_output=True, check=False).returncode == 0, "names"
        )
        yield
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(settings)
