"""Traefik's dynamic configuration as plain dictionaries: which request goes where. Pure.

The same router dictionaries serve the file provider and, as tags, Consul's catalog.

Three kinds of routers, by priority:

* a preview host: whatever the path is, it belongs to the application behind the port;
* a toolbox path of either dialect, on any other host;
* everything else: control, except its internal paths.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from traefik.registry import Route

PREVIEW_PRIORITY = 300
TOOLBOX_PRIORITY = 200
CATCH_ALL_PRIORITY = 1

STRIP = "strip"

# A negative interval flushes after each write: what a program prints is seen as it is printed.
FLUSH_AT_ONCE = "-1ns"

# Headers that no application of ours reads but that frameworks behind a preview may believe;
# Traefik itself rebuilds the X-Forwarded ones and passes these on.
STRIPPED_HEADERS = ("Forwarded", "X-Original-URL", "X-Rewrite-URL")

# Control answers to its own names only, and this is always one.
HEALTH_CHECK = {
    "path": "/api/health",
    "hostname": "localhost",
    "interval": "2s",
    "timeout": "1s",
}

_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)
_SANDBOX_ID = re.compile(r"[a-z2-7]{26}")


def is_sandbox_id(text: str) -> bool:
    """Tell whether ``text`` can be written into a rule and a file name as a sandbox id."""
    return _SANDBOX_ID.fullmatch(text) is not None


def toolbox_rule(sandbox_id: str) -> str:
    """Match the toolbox paths of one sandbox, in the newer and in the older dialect.

    A ``PathPrefix`` would also match the longer ids that begin with this one.
    """
    _require_id(sandbox_id)
    return (
        f"PathRegexp(`^/toolbox/{sandbox_id}(/|$)`)"
        f" || PathRegexp(`^/api/toolbox/{sandbox_id}/toolbox(/|$)`)"
    )


def preview_rule(sandbox_id: str, domain: str) -> str:
    """Match ``{port}-{id}.{domain}`` and its signed form; ``domain`` may be a comma list."""
    _require_id(sandbox_id)
    names = [name.strip() for name in domain.split(",")]
    for name in names:
        if _DOMAIN.fullmatch(name) is None:
            message = f"{name!r} is not a domain"
            raise ValueError(message)
    domains = "|".join(re.escape(name.lower()).replace(r"\-", "-") for name in names)
    if len(names) > 1:
        domains = f"({domains})"
    return rf"HostRegexp(`^[1-9][0-9]{{0,4}}-{sandbox_id}(-[a-z2-7]{{23}})?\.{domains}$`)"


def sandbox_configuration(route: Route) -> dict[str, Any]:
    """Route a sandbox's toolbox paths and preview hosts to its gate."""
    name = route.sandbox_id
    return {
        "http": {
            "routers": {
                f"toolbox-{name}": _router(toolbox_rule(name), f"sandbox-{name}", TOOLBOX_PRIORITY),
                f"preview-{name}": _router(
                    preview_rule(name, route.domain), f"sandbox-{name}", PREVIEW_PRIORITY
                ),
            },
            "services": {f"sandbox-{name}": _service([_url(route)])},
        }
    }


def tags(configuration: Mapping[str, Any]) -> list[str]:
    """Write a dynamic configuration as tags of a Consul service, one for each value.

    A list can have one element there, under the name in singular: ``servers`` is ``server``.
    """
    return [f"traefik.{path}={value}" for path, value in _leaves("", configuration)]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for key, below in value.items():
                yield from _leaves(f"{path}.{key}" if path else key, below)
        case [below]:
            yield from _leaves(path.removesuffix("s"), below)
        case bool():
            yield path, str(value).lower()
        case str() | int():
            yield path, str(value)
        case _:
            message = f"{path} has no form as a tag: {value!r}"
            raise ValueError(message)


def base_configuration(control: Sequence[str], certificate: tuple[Path, Path]) -> dict[str, Any]:
    """Route what no sandbox claims to control, and name the default certificate.

    ``control`` is the URLs of its replicas; of several, those get requests that answer.

    The catch-all means that a link works from the moment it exists: control answers for a
    sandbox that is not started. What control serves to runners is not for the outside; the
    rule has no boundary after the word, because control decodes an encoded slash.

    A default certificate is needed even where nothing speaks TLS: without one, Traefik makes
    an RSA key at each change of its configuration, and a route takes 50 to 300 ms of CPU
    instead of 6 (measured with 3.7.15).
    """
    rule = "PathPrefix(`/`) && !PathRegexp(`(?i)^/+internal`)"
    pair = {"certFile": str(certificate[0]), "keyFile": str(certificate[1])}
    return {
        "http": {
            "middlewares": {
                STRIP: {"headers": {"customRequestHeaders": dict.fromkeys(STRIPPED_HEADERS, "")}}
            },
            "routers": {"control": _router(rule, "control", CATCH_ALL_PRIORITY)},
            "services": {"control": _control(control)},
        },
        "tls": {"stores": {"default": {"defaultCertificate": pair}}},
    }


def front_configuration(
    entry_points: list[str], web_port: int, connections_per_source: int
) -> dict[str, Any]:
    """Pass connections from the outside on to the web entry point, so many for each source.

    Only a TCP middleware counts connections, and a half-sent request is not yet a request:
    this is the limit behind which the web entry point may read without a time-out.
    """
    return {
        "tcp": {
            "middlewares": {"per-source": {"inFlightConn": {"amount": connections_per_source}}},
            "routers": {
                "front": {
                    "rule": "HostSNI(`*`)",
                    "entryPoints": entry_points,
                    "middlewares": ["per-source"],
                    "service": "web",
                }
            },
            "services": {
                "web": {
                    "loadBalancer": {
                        "servers": [{"address": f"127.0.0.1:{web_port}"}],
                        "serversTransport": "web",
                    }
                }
            },
            "serversTransports": {"web": {"proxyProtocol": {"version": 2}}},
        }
    }


def _require_id(sandbox_id: str) -> None:
    if not is_sandbox_id(sandbox_id):
        message = f"{sandbox_id!r} is not a sandbox id"
        raise ValueError(message)


def _router(rule: str, service: str, priority: int) -> dict[str, Any]:
    return {
        "rule": rule,
        "service": service,
        "priority": priority,
    }


def _url(route: Route) -> str:
    host = f"[{route.address}]" if ":" in route.address else route.address
    return f"http://{host}:{route.port}"


def _control(urls: Sequence[str]) -> dict[str, Any]:
    service = _service(urls)
    if len(urls) > 1:
        service["loadBalancer"]["healthCheck"] = HEALTH_CHECK
    return service


def _service(urls: Sequence[str]) -> dict[str, Any]:
    return {
        "loadBalancer": {
            "servers": [{"url": url} for url in urls],
            "passHostHeader": True,
            "responseForwarding": {"flushInterval": FLUSH_AT_ONCE},
        }
    }
