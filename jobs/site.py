"""What a site's network asks of every image: mirrors, proxies, certificates. Knows no image."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from control.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# The bundle that Debian's ca-certificates keeps, and everything that must be told to use it:
# OpenSSL programs, requests, Node, pip, curl, git.
_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
)


@dataclass(frozen=True, slots=True)
class Site:
    """What this site's network asks of every image; an empty field asks for nothing.

    ``extra_ca`` are paths or patterns of PEM files; a pattern may match none.
    ``apt_mirror`` is like ``http://mirror.example.com/debian``; security updates are looked for
    beside it, at ``…/debian-security``.
    """

    extra_ca: tuple[str, ...] = ()
    apt_mirror: str = ""
    pip_mirror: str = ""
    npm_mirror: str = ""
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    def certificates(self) -> list[str]:
        """Read the further CA certificates, one PEM block each, in a stable order.

        Raises:
            InvalidError: a file is missing or holds no certificate.
        """
        found: list[str] = []
        for pattern in self.extra_ca:
            names = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
            for name in names:
                found.extend(_certificates(Path(name)))
        return list(dict.fromkeys(found))

    def environment(self) -> dict[str, str]:
        """Return the variables that everything in a sandbox needs to reach the network here."""
        variables = {name: _CA_BUNDLE for name in _CA_VARIABLES if self.certificates()}
        proxies = {
            "http_proxy": self.http_proxy,
            "https_proxy": self.https_proxy,
            "no_proxy": self.no_proxy,
        }
        for name, value in proxies.items():
            if value:
                variables[name] = variables[name.upper()] = value
        return variables

    def apt_options(self) -> list[str]:
        """Return the options that apt needs to reach its mirrors."""
        proxies = {"http": self.http_proxy, "https": self.https_proxy}
        return [f'Acquire::{scheme}::Proxy "{url}"' for scheme, url in proxies.items() if url]

    def files(self) -> dict[str, str]:
        """Return the configuration files, path below the root to content, that an image gets.

        They are Debian's places; an image of another kind ignores them.
        """
        files = {
            f"usr/local/share/ca-certificates/yurt-site-{number}.crt": block
            for number, block in enumerate(self.certificates(), start=1)
        }
        if self.apt_options():
            lines = "".join(f"{option};\n" for option in self.apt_options())
            files["etc/apt/apt.conf.d/80yurt-site"] = lines
        if self.npm_mirror:
            files["usr/local/etc/npmrc"] = f"registry={self.npm_mirror}\n"
        index = f"index-url = {self.pip_mirror}\n" if self.pip_mirror else ""
        # A sandbox is nobody's Debian system to protect: `pip install` just works.
        files["etc/pip.conf"] = f"[global]\nbreak-system-packages = true\n{index}"
        return files


def apt_sources(site: Site, release: str, root: Path = Path("/")) -> list[str]:
    """List the lines of ``sources.list`` for a Debian release at this site.

    The mirror is the site's, else the one that the Debian system at ``root`` uses itself. An
    empty list means: neither is known, take the tool's own default.
    """
    if site.apt_mirror:
        main = site.apt_mirror.rstrip("/")
        security = f"{main}-security"
    else:
        found = {suite: url for suite, url in _host_sources(root) if _is_debian(url)}
        codename = _codename(root)
        main = found.get(codename, "")
        security = found.get(f"{codename}-security", "")
    if not main:
        return []
    lines = [f"deb {main} {release} main", f"deb {main} {release}-updates main"]
    return [*lines, f"deb {security} {release}-security main"] if security else lines


def _certificates(path: Path) -> list[str]:
    try:
        blocks: list[str] = _CERTIFICATE.findall(path.read_text(errors="replace"))
    except OSError as exc:
        raise InvalidError(f"the CA certificate {path} cannot be read: {exc.strerror}") from exc
    if not blocks:
        raise InvalidError(f"{path}, named as a CA certificate, holds none in PEM form")
    return [block + "\n" for block in blocks]


def _is_debian(url: str) -> bool:
    """Tell Debian's archive from other vendors', who use its release names for theirs."""
    return "debian" in urlsplit(url).path.rstrip("/").rpartition("/")[2]


def _codename(root: Path) -> str:
    release = root / "etc/os-release"
    text = release.read_text() if release.exists() else ""
    match = re.search(r"^VERSION_CODENAME=[\"']?([a-z]+)", text, re.MULTILINE)
    debian = re.search(r"^ID=[\"']?debian\b", text, re.MULTILINE)
    return match[1] if match and debian else ""


def _host_sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield suite and URL of each source with the component ``main`` (``sources.list(5)``)."""
    directory = root / "etc/apt/sources.list.d"
    for path in [root / "etc/apt/sources.list", *sorted(directory.glob("*.list"))]:
        text = path.read_text() if path.exists() else ""
        for match in re.finditer(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)$", text, re.M):
            if "main" in match[3].split():
                yield match[2], _resolved(match[1], root)
    for path in sorted(directory.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = {
                name.lower(): value.split()
                for name, value in re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.M)
            }
            usable = "deb" in fields.get("types", ()) and "main" in fields.get("components", ())
            if usable and fields.get("enabled") != ["no"]:
                for suite in fields.get("suites", ()):
                    yield suite, _resolved(fields["uris"][0], root)


def _resolved(url: str, root: Path) -> str:
    """Follow a mirror list (``apt-transport-mirror(1)``), as in cloud images, to its first URL."""
    if not url.startswith("mirror+file:"):
        return url
    listed = root / urlsplit(url).path.lstrip("/")
    return listed.read_text().split()[0] if listed.exists() else ""
