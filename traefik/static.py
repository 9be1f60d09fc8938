"""Traefik's static configuration as a plain dictionary: entry points, time-outs. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traefik.rules import STRIP

if TYPE_CHECKING:
    from pathlib import Path

    from traefik.consul import ConsulSettings

# Traefik waits this long between two changes; its own default of 2 s would be felt at each create.
THROTTLE = "5ms"

# Ours must be the side that gives up an idle connection: gates and control keep theirs for
# 120 s, and a request written into a connection that the other side just closed is a 502.
IDLE_TO_BACKENDS = "60s"
DIAL = "2s"

MAX_HEADER_BYTES = 32768

ACME_RESOLVER = "dns"


@dataclass(frozen=True, slots=True)
class Front:
    """What one Traefik listens on and who is behind it: the URLs of ``control``.

    ``internal_port`` answers health checks on loopback. ``web_port`` is used only when one of
    the addresses in ``listen`` is reachable from other machines: connections are then counted
    per source on ``port`` and passed on to it, on loopback.
    """

    listen: tuple[str, ...]
    port: int
    control: tuple[str, ...]
    internal_port: int
    web_port: int
    certificate: tuple[Path, Path] | None = None
    connections_per_source: int = 1024

    @property
    def exposed(self) -> bool:
        """Tell whether other machines can reach it."""
        return not all(ipaddress.ip_address(address).is_loopback for address in self.listen)

    @property
    def outer(self) -> dict[str, str]:
        """Name the entry points that clients connect to, with their addresses."""
        name = "front" if self.exposed else "web"
        return {
            f"{name}{number or ''}": _address(address, self.port)
            for number, address in enumerate(self.listen)
        }


@dataclass(frozen=True, slots=True)
class Acme:
    """Certificates made on demand, proven by records in the DNS.

    ``provider`` is Traefik's name for who serves the DNS; what that one wants to know is in
    Traefik's environment. Each of ``domains`` is certified with all names one level below it.
    Only one Traefik can use a ``storage``: several of them need a given certificate.
    """

    email: str
    provider: str
    domains: tuple[str, ...]
    storage: Path
    server: str

    @property
    def tls(self) -> dict[str, Any]:
        """What an entry point says of it."""
        names = [{"main": domain, "sans": [f"*.{domain}"]} for domain in self.domains]
        return {"certResolver": ACME_RESOLVER, "domains": names}

    @property
    def resolver(self) -> dict[str, Any]:
        """What the static configuration says of it."""
        return {
            "acme": {
                "email": self.email,
                "storage": str(self.storage),
                "caServer": self.server,
                "dnsChallenge": {"provider": self.provider},
            }
        }


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a Traefik of a cluster knows beyond ``Front``: where routes are, who certifies it."""

    consul: ConsulSettings
    acme: Acme | None = None


def cluster_configuration(
    front: Front, dynamic_directory: Path, cluster: Cluster
) -> dict[str, Any]:
    """Describe the same as ``static_configuration``, with the routes in Consul's catalog.

    The directory keeps what belongs to no sandbox. Traefik learns at once of a change, but
    after a time without Consul it asks again after 5 s, and ever later, up to 3 minutes.
    """
    acme = cluster.acme
    configuration = _static(front, dynamic_directory, acme.tls if acme else _given_tls(front))
    configuration["providers"]["consulCatalog"] = {
        "watch": True,
        "exposedByDefault": False,
        "constraints": f"Tag(`{cluster.consul.tag}`)",
        "endpoint": _endpoint(cluster.consul),
    }
    if acme:
        configuration["certificatesResolvers"] = {ACME_RESOLVER: acme.resolver}
    return configuration


def _endpoint(consul: ConsulSettings) -> dict[str, Any]:
    scheme, host, port = consul.endpoint
    endpoint: dict[str, Any] = {"address": f"{host}:{port}", "scheme": scheme}
    if consul.token:
        endpoint["token"] = consul.token
    files = {"ca": consul.ca, "cert": consul.cert, "key": consul.key}
    if given := {name: str(path) for name, path in files.items() if path}:
        endpoint["tls"] = given
    return endpoint


def static_configuration(front: Front, dynamic_directory: Path) -> dict[str, Any]:
    """Describe entry points, health check, providers and time-outs.

    No dashboard, no access log (preview URLs carry tokens), no calls home.
    """
    return _static(front, dynamic_directory, _given_tls(front))


def _given_tls(front: Front) -> dict[str, Any] | None:
    """Give what an entry point says when its certificate is the default one."""
    return {} if front.certificate else None


def _static(front: Front, dynamic_directory: Path, tls: dict[str, Any] | None) -> dict[str, Any]:
    internal = {
        "address": f"127.0.0.1:{front.internal_port}",
        "http": {"aliasHeadersStrategy": "reject"},
    }
    entry_points: dict[str, Any] = {"internal": internal}
    if front.exposed:
        entry_points |= {name: _front(address) for name, address in front.outer.items()}
        web = _web(f"127.0.0.1:{front.web_port}", tls)
        web["proxyProtocol"] = {"trustedIPs": ["127.0.0.1/32"]}
        entry_points["web"] = web
    else:
        for name, address in front.outer.items():
            entry_points[name] = _web(address, tls)
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "WARN", "format": "json"},
        "entryPoints": entry_points,
        "ping": {"entryPoint": "internal"},
        "providers": {
            "providersThrottleDuration": THROTTLE,
            "file": {"directory": str(dynamic_directory), "watch": True},
        },
        "serversTransport": {
            "maxIdleConnsPerHost": 256,
            "forwardingTimeouts": {"dialTimeout": DIAL, "idleConnTimeout": IDLE_TO_BACKENDS},
        },
    }


def _front(address: str) -> dict[str, Any]:
    """Describe an entry point that passes connections on, and itself answers nothing.

    Until its route is loaded, some milliseconds after it listens, Traefik would serve HTTP here: it
    would say that nothing is found, and keep the connection for more of that. A deadline in the
    past ends the connection instead; the route takes it off before anything is read.
    """
    transport = {"respondingTimeouts": {"readTimeout": "1ns"}}
    return {"address": address, "transport": transport}


def _web(address: str, tls: dict[str, Any] | None) -> dict[str, Any]:
    http: dict[str, Any] = {
        "middlewares": [f"{STRIP}@file"],
        # An application in a sandbox gets the path that was asked for. The switch is for all of
        # an entry point; control takes paths literally, so it loses nothing.
        "sanitizePath": False,
        # X_Auth_User is X-Auth-User to many frameworks: such names are refused.
        "aliasHeadersStrategy": "reject",
        # Else a ";" in a query arrives as "&".
        "encodeQuerySemicolons": True,
        "maxHeaderBytes": MAX_HEADER_BYTES,
        "encodedCharacters": {
            "allowEncodedSlash": True,
            "allowEncodedBackSlash": True,
            "allowEncodedNullCharacter": True,
            "allowEncodedSemicolon": True,
            "allowEncodedPercent": True,
            "allowEncodedQuestionMark": True,
            "allowEncodedHash": True,
        },
    }
    if tls is not None:
        http["tls"] = tls
    return {
        "address": address,
        "asDefault": True,
        "http": http,
        "transport": {
            "lifeCycle": {"graceTimeOut": "2s"},
            # readTimeout covers the whole body: any value cuts a long upload.
            "respondingTimeouts": {
                "readTimeout": "0s",
                "idleTimeout": "180s",
            },
        },
    }


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
