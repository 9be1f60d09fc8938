"""What an operator may set: the only reader of the environment.

Every address that the service hands out derives from here and never from a request.
"""

from __future__ import annotations

import ipaddress
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_SUBNET_BITS = 24
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_POSTGRESQL = ("postgresql", "postgres")
_LAST_PORT = 65535
_TLS = ("ca", "cert", "key")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(",", " ").split() if word)


def _readable(path: Path, name: str) -> str:
    """Return a file's text.

    Raises:
        ValueError: it cannot be read; the text names the setting.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise ValueError(f"YURT_{name}: cannot read {path}: {reason}") from exc


def _is_server(url: str) -> bool:
    """Tell whether a URL is ``http(s)://host:port`` and nothing more."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no number, or none of a port
        return False
    further = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    return parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and not further and port != 0


class Settings(BaseSettings):
    """Settings of the server, each from the environment variable ``YURT_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix="YURT_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

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
    acme_dns: str = Field(
        default="",
        description="Instead of a certificate: Traefik's name of the DNS provider by whose records "
        "`yurt traefik` has certificates made (ACME).",
    )
    acme_email: str = Field(default="", description="Who the certificates' maker may write to.")
    acme_server: str = Field(
        default="https://acme-v02.api.letsencrypt.org/directory",
        description="Directory URL of who makes certificates.",
    )
    acme_storage: Path | None = Field(
        default=None,
        description="File that keeps them, on one machine; default: in the data directory.",
    )
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

    database_url: str = Field(
        default="",
        repr=False,
        description="postgresql:// URL of the database, for more than one control; default: a "
        "SQLite file in the data directory.",
    )
    nomad_url: str = Field(
        default="",
        description="URL of Nomad, whose nodes sandboxes run on; default: on this machine.",
    )
    nomad_token: str = Field(default="", repr=False, description="Nomad's ACL token.")
    nomad_token_file: Path | None = Field(default=None, description="File with that token.")
    nomad_ca: Path | None = Field(default=None, description="CA certificate of Nomad (PEM).")
    nomad_cert: Path | None = Field(default=None, description="Certificate to show Nomad (PEM).")
    nomad_key: Path | None = Field(default=None, description="Private key of that certificate.")
    nomad_namespace: str = Field(default="default", description="Nomad's namespace for jobs.")
    nomad_region: str = Field(default="", description="Nomad's region; default: the agent's.")
    node_pool: str = Field(default="default", description="Node pool that jobs are placed in.")
    node_class: str = Field(default="", description="Class of the nodes that jobs are placed on.")
    consul_url: str = Field(
        default="",
        description="URL of Consul, where routes are kept; default: files in the data directory.",
    )
    consul_token: str = Field(default="", repr=False, description="Consul's ACL token.")
    consul_token_file: Path | None = Field(default=None, description="File with that token.")
    consul_ca: Path | None = Field(default=None, description="CA certificate of Consul (PEM).")
    consul_cert: Path | None = Field(default=None, description="Certificate to show Consul (PEM).")
    consul_key: Path | None = Field(default=None, description="Private key of that certificate.")
    control_listen: str = Field(
        default="",
        description="IPv4 address:port where nodes and Traefik on other machines reach control; "
        "default: on this machine only.",
    )
    control_url: str = Field(
        default="",
        description="URL at which nodes reach control, where it is not http://<control_listen>.",
    )
    registry: str = Field(
        default="",
        description="URL of the OCI registry and path in it where nodes find images, like "
        "http://10.9.0.1:5000/yurt.",
    )

    archive_url: str = Field(
        default="",
        description="Object store for archives: file:///directory, or s3://bucket/prefix; default: "
        "in the data directory, on one machine.",
    )
    archive_endpoint: str = Field(
        default="", description="URL of an S3-compatible store; default: that of AWS."
    )
    archive_region: str = Field(default="us-east-1", description="Region of the bucket.")
    archive_access_key: str = Field(default="", description="Access key id of the store.")
    archive_secret_key: str = Field(default="", repr=False, description="Its secret access key.")
    registries: str = Field(
        default="",
        description="Registries that images may come from, separated by commas, like ghcr.io or "
        "http://127.0.0.1:5000; default: every one with a public name.",
    )
    registry_auth: Path | None = Field(
        default=None,
        description="File of credentials for registries, as `skopeo login --authfile` writes it.",
    )
    docker_mirror: str = Field(
        default="",
        description="URL of a registry that is asked for images of Docker Hub in its place.",
    )
    max_image_gib: int = Field(default=20, ge=1, description="Largest image, unpacked, GiB.")

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
    volume_gib: int = Field(default=10, ge=1, description="How much a new volume can hold, GiB.")
    max_volumes: int = Field(default=100, ge=1, description="Most volumes of one organization.")
    max_sandboxes: int = Field(
        default=10_000, ge=1, description="Most sandboxes that may exist, stopped ones included."
    )

    audit_days: int = Field(
        default=365, ge=1, le=36_500, description="How long lines of the audit log are kept."
    )

    hold_seconds: float = Field(
        default=50,
        gt=0,
        description="How long create, start, stop and requests that wake a sandbox wait before "
        "they are answered.",
    )
    start_deadline_seconds: float = Field(
        default=60, gt=0, description="A start that takes longer has failed."
    )
    stop_grace_seconds: float = Field(
        default=15, gt=0, description="How long a sandbox may take to stop before it is killed."
    )
    stop_warning_seconds: float = Field(
        default=60,
        ge=0,
        description="How long before an automatic stop a sandbox is warned, but at most half of "
        "its interval.",
    )
    busy_cpu: float = Field(
        default=0.05,
        gt=0,
        description="Share of a core that a sandbox has to use over a minute to count as used.",
    )
    busy_max_seconds: float = Field(
        default=4 * 3600,
        ge=0,
        description="How long after its last use processor time alone keeps a sandbox started.",
    )
    collect_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of all sandboxes that timers may delete or archive in one minute; ten "
        "are always allowed.",
    )
    resync_seconds: float = Field(
        default=60, gt=0, description="How often everything is compared with what is wanted."
    )
    offline_grace_seconds: float = Field(
        default=86_400,
        ge=60,
        description="How long sandboxes can be used whose runners hear nothing from control.",
    )
    destroyed_seconds: float = Field(
        default=600, gt=0, description="How long a deleted sandbox can still be looked at."
    )

    @field_validator(
        *("tls_cert", "tls_key", "acme_storage"),
        *("nomad_token_file", "nomad_ca", "nomad_cert", "nomad_key"),
        *("consul_token_file", "consul_ca", "consul_cert", "consul_key"),
        mode="before",
    )
    @classmethod
    def _is_set(cls, path: object) -> object:
        return path or None  # an empty variable is none

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

    @field_validator("nomad_url", "consul_url", "control_url")
    @classmethod
    def _is_server_url(cls, url: str) -> str:
        if url and not _is_server(url):
            raise ValueError(f"{url!r} is not like https://host:port")
        return url.rstrip("/")

    @field_validator("registry")
    @classmethod
    def _is_registry(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query):
            raise ValueError(f"{url!r} is not like http://10.9.0.1:5000/yurt")
        return url.rstrip("/")

    @field_validator("archive_url")
    @classmethod
    def _is_object_store(cls, url: str) -> str:
        parts = urlsplit(url)
        is_directory = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
        if url and not is_directory and not (parts.scheme == "s3" and parts.netloc):
            raise ValueError(f"{url!r} is not like file:///directory or s3://bucket/prefix")
        return url.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in _POSTGRESQL or not parts.path.strip("/")):
            raise ValueError("must be like postgresql://user:password@host:5432/database")
        return url

    @field_validator("control_listen")
    @classmethod
    def _is_listen(cls, listen: str) -> str:
        if not listen:
            return listen
        address, _, port = listen.rpartition(":")
        try:
            ipaddress.IPv4Address(address)
        except ValueError as exc:
            message = f"{listen!r} is not IPv4 address:port; write one like 10.9.0.1:9877"
            raise ValueError(message) from exc
        if not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
            raise ValueError(f"{port!r} is no port; write one like {address}:9877")
        return listen

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
        if exposed and not self.has_tls and not self.allow_plain_http:
            raise ValueError(
                "YURT_LISTEN reaches beyond this machine without a certificate: set YURT_TLS_CERT "
                "and YURT_TLS_KEY, or YURT_ALLOW_PLAIN_HTTP=1 if that is what you want"
            )
        if bool(self.acme_dns) != bool(self.acme_email):
            raise ValueError("YURT_ACME_DNS and YURT_ACME_EMAIL go together")
        if self.acme_dns and self.tls_cert:
            raise ValueError("set YURT_TLS_CERT or YURT_ACME_DNS, not both")
        if self.acme_dns and not self.consul_url:
            raise ValueError("YURT_ACME_DNS is for `yurt traefik`, which needs YURT_CONSUL_URL")
        return self

    @model_validator(mode="after")
    def _reach_the_cluster(self) -> Self:
        for name in ("NOMAD", "CONSUL"):
            self._check_server(name)
        if self.nomad_url and self.archive_url.startswith("file:"):
            raise ValueError(
                "YURT_ARCHIVE_URL is a directory: nodes of a cluster need a store that all of them "
                "reach, like s3://bucket/prefix"
            )
        if self.nomad_url and not self.control_listen:
            raise ValueError(
                "YURT_NOMAD_URL needs YURT_CONTROL_LISTEN: sandboxes on other machines report "
                "there; write an address of this machine that they reach, like 10.9.0.1:9877"
            )
        is_any = self.control_listen.startswith("0.0.0.0:")
        if self.control_url and not self.control_listen:
            raise ValueError("YURT_CONTROL_URL needs YURT_CONTROL_LISTEN")
        if is_any and not self.control_url:
            raise ValueError(
                "YURT_CONTROL_LISTEN is every address: set YURT_CONTROL_URL to the one that "
                "nodes reach, like http://10.9.0.1:9877"
            )
        if urlsplit(self.control_url).scheme == "https":
            raise ValueError("YURT_CONTROL_URL: runners speak http to control, sealed by node keys")
        return self

    def _check_server(self, name: str) -> None:
        """Check how Nomad or Consul is spoken to; files are read, so that none is missing later."""
        of = {f: getattr(self, f"{name.lower()}_{f}") for f in (*_TLS, "url", "token_file")}
        for part in _TLS:
            if of[part]:
                _readable(of[part], f"{name}_{part.upper()}")
        if any(of[part] for part in _TLS) and not of["url"].startswith("https:"):
            raise ValueError(f"YURT_{name}_CA, _CERT and _KEY need a YURT_{name}_URL of https")
        if (of["cert"] is None) != (of["key"] is None):
            raise ValueError(f"YURT_{name}_CERT and YURT_{name}_KEY go together")
        if of["token_file"] and getattr(self, f"{name.lower()}_token"):
            raise ValueError(f"set YURT_{name}_TOKEN or YURT_{name}_TOKEN_FILE, not both")
        self.token(name)

    def token(self, name: str) -> str:
        """Return the token for ``NOMAD`` or ``CONSUL``, from its file if that is set.

        Raises:
            ValueError: the file cannot be read, or is empty.
        """
        file: Path | None = getattr(self, f"{name.lower()}_token_file")
        if file is None:
            return str(getattr(self, f"{name.lower()}_token"))
        token = _readable(file, f"{name}_TOKEN_FILE").strip()
        if not token:
            raise ValueError(f"YURT_{name}_TOKEN_FILE: {file} is empty")
        return token

    @property
    def archives(self) -> dict[str, Any] | None:
        """Where archives are, as ``jobs.runner.objects`` takes it; None if nowhere."""
        url = self.archive_url or ("" if self.nomad_url else f"file://{self.data}/archive")
        if not url:
            return None
        options = {
            "region": self.archive_region,
            "endpoint": self.archive_endpoint,
            "access_key_id": self.archive_access_key,
            "secret_access_key": self.archive_secret_key,
        }
        return {"url": url, "options": {name: text for name, text in options.items() if text}}

    @property
    def allowed_registries(self) -> tuple[str, ...]:
        """Registries that images may come from; empty for every public one."""
        return tuple(word.rstrip("/") for word in _words(self.registries))

    @property
    def has_tls(self) -> bool:
        """Tell whether clients speak https to Traefik."""
        return self.tls_cert is not None or bool(self.acme_dns)

    @property
    def is_shared(self) -> bool:
        """Tell whether other controls may work with the same records."""
        return bool(self.database_url)

    @cached_property
    def control_door(self) -> tuple[str, int] | None:
        """Address and port where control listens for other machines; None if it does not."""
        address, _, port = self.control_listen.rpartition(":")
        return (address, int(port)) if address else None

    @cached_property
    def report_url(self) -> str:
        """Where runners report."""
        if self.control_url or self.control_listen:
            return self.control_url or f"http://{self.control_listen}"
        return f"unix:{self.socket_path}"

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
        scheme = "https" if self.has_tls else "http"
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
        reported = urlsplit(self.report_url).hostname or "localhost"
        return frozenset({*_LOOPBACK_NAMES, *self.domains, *listened, *further, named, reported})

    @cached_property
    def name_servers(self) -> tuple[str, ...]:
        """The name servers that were set; none means the host's."""
        return _words(self.resolvers)

    @property
    def store(self) -> str | Path:
        """The database: its URL, or the file of one that is ours alone."""
        return self.database_url or self.data / "yurt.db"

    @property
    def socket_path(self) -> Path:
        """The unix socket that runners report to."""
        return self.data / "run" / "control.sock"

    @property
    def routes_path(self) -> Path:
        """Directory of the files by which an embedded Traefik knows its routes."""
        return self.data / "traefik" / "dynamic"

    @property
    def port_path(self) -> Path:
        """The file with the port that control listens on, on loopback."""
        return self.data / "run" / "control.port"
