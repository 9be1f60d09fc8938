"""What an operator may set: the only reader of the environment.

Every address that the service hands out derives from here and never from a request.
"""

from __future__ import annotations

import ipaddress
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_SUBNET_BITS = 24
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", " ").split() if word)


class Settings(BaseSettings):
    """Settings of the server, each from the environment variable ``YURT_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="YURT_", frozen=True, extra="ignore")

    data: Path = Field(
        default=Path("/var/lib/yurt"), description="Directory of everything that is kept."
    )
    port: int = Field(default=9878, ge=1, le=65535, description="TCP port that clients connect to.")
    listen: str = Field(
        default="127.0.0.1",
        description="Addresses to listen on, separated by commas.",
    )
    domain: str = Field(
        default="localhost",
        description="Preview domains, separated by commas: a preview is <port>-<id>.<domain>. "
        "The first one is written into URLs.",
    )
    url: str = Field(
        default="",
        description="Base URL that clients use, where it is not <scheme>://<domain>:<port>; "
        "previews take its scheme and port.",
    )
    hosts: str = Field(
        default="",
        description="More host names that the API answers to, separated by commas.",
    )
    tls_cert: Path | None = Field(default=None, description="Certificate chain (PEM).")
    tls_key: Path | None = Field(default=None, description="Private key of the certificate (PEM).")
    allow_plain_http: bool = Field(
        default=False, description="Listen beyond loopback without a certificate."
    )

    extra_ca: str = Field(
        default="/usr/local/share/ca-certificates/*.crt",
        description="Further CA certificates for sandboxes and builds: paths or patterns, "
        "separated by commas.",
    )
    resolvers: str = Field(
        default="",
        description="IPv4 addresses of name servers for sandboxes, separated by commas; "
        "default: the host's.",
    )
    subnet: str = Field(
        default="10.201.0.0/16",
        description="Private IPv4 network for the links to sandboxes, two addresses each; "
        "nothing else that this machine reaches may be in it.",
    )
    http_proxy: str = Field(default="", description="Proxy URL for HTTP, given to sandboxes.")
    https_proxy: str = Field(default="", description="Proxy URL for HTTPS, given to sandboxes.")
    no_proxy: str = Field(default="", description="Hosts that sandboxes reach without a proxy.")
    apt_mirror: str = Field(default="", description="URL of a Debian mirror.")
    pip_mirror: str = Field(default="", description="URL of a Python package index.")
    npm_mirror: str = Field(default="", description="URL of an npm registry.")

    memory_reserve: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of its memory limit that a started sandbox reserves.",
    )
    memory_floor_mib: int = Field(
        default=256, ge=0, description="Memory, in MiB, that is left to the machine."
    )
    disk_overcommit: float = Field(
        default=1.0,
        gt=0,
        description="How many times the volume's space the limits of all disks may sum up to.",
    )
    pids: int = Field(default=4096, ge=64, description="Processes and threads of one sandbox.")
    max_cpu: int = Field(default=64, ge=1, description="Most cores of one sandbox.")
    max_memory_gib: int = Field(default=256, ge=1, description="Most memory of one sandbox, GiB.")
    max_disk_gib: int = Field(default=1024, ge=1, description="Largest disk of one sandbox, GiB.")
    max_sandboxes: int = Field(
        default=10_000, ge=1, description="Most sandboxes that may exist, stopped ones included."
    )

    hold_seconds: float = Field(
        default=50, gt=0, description="How long create, start and stop wait before they answer."
    )
    start_deadline_seconds: float = Field(
        default=60, gt=0, description="A start that takes longer has failed."
    )
    stop_grace_seconds: float = Field(
        default=15, gt=0, description="How long a sandbox may take to stop before it is killed."
    )
    resync_seconds: float = Field(
        default=60, gt=0, description="How often everything is compared with what is wanted."
    )
    destroyed_seconds: float = Field(
        default=600, gt=0, description="How long a deleted sandbox can still be looked at."
    )

    @field_validator("data")
    @classmethod
    def _is_absolute(cls, data: Path) -> Path:
        return data.absolute()  # runners are told paths below it, and work elsewhere

    @field_validator("url")
    @classmethod
    def _is_base_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query):
            raise ValueError("must be like https://yurt.example.org")
        return url.rstrip("/")

    @field_validator("resolvers")
    @classmethod
    def _are_addresses(cls, resolvers: str) -> str:
        for word in _words(resolvers):
            ipaddress.IPv4Address(word)
        return resolvers

    @field_validator("subnet")
    @classmethod
    def _is_private_network(cls, subnet: str) -> str:
        try:
            network = ipaddress.IPv4Network(subnet)
        except ValueError as exc:
            message = f"{subnet!r} is no IPv4 network; write one like 10.201.0.0/16"
            raise ValueError(message) from exc
        if network.prefixlen > _SUBNET_BITS:
            raise ValueError(f"{network} is too small: take a /{_SUBNET_BITS} or larger")
        if not any(network.subnet_of(private) for private in _PRIVATE):
            raise ValueError(f"{network} is not in {', '.join(map(str, _PRIVATE))}")
        return str(network)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("YURT_TLS_CERT and YURT_TLS_KEY go together")
        exposed = not all(ipaddress.ip_address(a).is_loopback for a in self.addresses)
        if exposed and self.tls_cert is None and not self.allow_plain_http:
            raise ValueError(
                "YURT_LISTEN reaches beyond this machine without a certificate: set YURT_TLS_CERT "
                "and YURT_TLS_KEY, or YURT_ALLOW_PLAIN_HTTP=1 if that is what you want"
            )
        return self

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """Where clients connect to."""
        return _words(self.listen)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Preview domains in lower case; the first one is ours to write."""
        return tuple(word.lower().strip(".") for word in _words(self.domain))

    @cached_property
    def base_url(self) -> str:
        """The URL that clients use, without a slash at its end."""
        if self.url:
            return self.url
        scheme = "https" if self.tls_cert else "http"
        port = "" if self.port == _DEFAULT_PORTS[scheme] else f":{self.port}"
        return f"{scheme}://{self.domains[0]}{port}"

    @property
    def api_url(self) -> str:
        """What an SDK is given as its API URL."""
        return f"{self.base_url}/api"

    @property
    def toolbox_url(self) -> str:
        """What a sandbox's id and a toolbox path are appended to."""
        return f"{self.base_url}/toolbox"

    def preview_url(self, host: str) -> str:
        """Turn a preview's host name into its URL."""
        parts = urlsplit(self.base_url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}"

    @cached_property
    def own_hosts(self) -> frozenset[str]:
        """Names, in lower case and without port, that the API answers to."""
        listened = (f"[{a}]" if ":" in a else a for a in self.addresses)
        named = urlsplit(self.base_url).hostname or ""
        named = f"[{named}]" if ":" in named else named
        further = (host.lower() for host in _words(self.hosts))
        return frozenset({*_LOOPBACK_NAMES, *self.domains, *listened, *further, named})

    @cached_property
    def name_servers(self) -> tuple[str, ...]:
        """The name servers that were set; none means the host's."""
        return _words(self.resolvers)

    @property
    def socket_path(self) -> Path:
        """The unix socket that runners report to."""
        return self.data / "run" / "control.sock"

    @property
    def port_path(self) -> Path:
        """The file with the port that control listens on, on loopback."""
        return self.data / "run" / "control.port"
