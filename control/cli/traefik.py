"""``yurt traefik``: the Traefik of a cluster, whose routes are in Consul."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from control.cli.output import failures_told, read_settings

if TYPE_CHECKING:
    from control.settings import Settings


def traefik(
    control: Annotated[
        str, typer.Option(help="URLs of control, separated by commas, like http://10.0.0.2:9879.")
    ],
) -> None:
    """Become the Traefik that clients of a cluster connect to; never returns."""
    with failures_told():
        from control.errors import UnavailableError

        settings = read_settings()
        try:
            program = prepare(settings, control_urls(control))
        except FileNotFoundError as error:
            raise UnavailableError(str(error)) from error
    from traefik import process

    os.execvpe(program[0], program, process.environment())


def control_urls(text: str) -> tuple[str, ...]:
    """Read URLs.

    Raises:
        InvalidError: there is none, or one is something else.
    """
    from control.errors import InvalidError

    urls = tuple(url.rstrip("/") for url in text.replace(",", " ").split())
    wrong = [url for url in urls if urlsplit(url).scheme != "http" or not urlsplit(url).port]
    if wrong or not urls:
        raise InvalidError(f"--control: {', '.join(wrong) or 'none'} is not like http://host:port")
    return urls


def prepare(settings: Settings, control: tuple[str, ...]) -> list[str]:
    """Write Traefik's files below the data directory, and give its command line.

    Raises:
        InvalidError: there is no Consul to read routes from.
        FileNotFoundError: there is no Traefik; with what to install.
    """
    from control.endpoints import consul_settings
    from control.errors import InvalidError
    from traefik import process
    from traefik.static import Acme, Cluster, Front

    if not settings.consul_url:
        raise InvalidError("set YURT_CONSUL_URL: Traefik finds the routes of sandboxes there")
    certificate = None
    if settings.tls_cert and settings.tls_key:
        certificate = (settings.tls_cert.absolute(), settings.tls_key.absolute())
    layout = process.Layout(settings.data / "traefik")
    layout.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    front = Front(settings.addresses, settings.port, control, *layout.ports(), certificate)
    acme = None
    if settings.acme_dns:
        host = urlsplit(settings.base_url).hostname or ""
        acme = Acme(
            email=settings.acme_email,
            provider=settings.acme_dns,
            domains=tuple(dict.fromkeys((*settings.domains, host))),
            storage=settings.acme_storage or layout.directory / "acme.json",
            server=settings.acme_server,
        )
    process.lay_out(layout, front, Cluster(consul_settings(settings), acme))
    return process.command(layout, settings.port)
