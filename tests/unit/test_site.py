"""What a site's network asks of images: certificates, proxies, mirrors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from control.errors import InvalidError
from jobs.site import Site, apt_sources

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit


def pem(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


def host(root: Path, *, release: str = "ID=debian\nVERSION_CODENAME=trixie\n") -> Path:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/os-release").write_text(release)
    return root


def test_a_site_without_wishes_adds_no_variable() -> None:
    assert Site().environment() == {}
    assert Site(extra_ca=("/nowhere/*.crt",)).environment() == {}
    assert list(Site().files()) == ["etc/pip.conf"]


def test_each_certificate_of_a_file_becomes_a_file_and_the_variables_name_the_bundle(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.crt").write_text(f"one\n{pem('A')}two\n{pem('B')}")
    (tmp_path / "b.crt").write_text(pem("A"))
    site = Site(extra_ca=(f"{tmp_path}/*.crt",))
    assert site.certificates() == [pem("A"), pem("B")]
    placed = [name for name in site.files() if name.startswith("usr/local/share/ca-certificates/")]
    assert len(placed) == 2
    assert all(name.endswith(".crt") for name in placed)
    assert site.environment()["PIP_CERT"] == "/etc/ssl/certs/ca-certificates.crt"
    assert set(site.environment()) == {
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
    }


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.crt"
    wrong.write_bytes(b"\x30\x82binary")
    with pytest.raises(InvalidError, match=r"wrong\.crt"):
        Site(extra_ca=(str(wrong),)).certificates()
    with pytest.raises(InvalidError, match=r"missing\.pem"):
        Site(extra_ca=(f"{tmp_path}/missing.pem",)).certificates()


def test_proxies_come_in_both_cases_and_to_apt() -> None:
    site = Site(http_proxy="http://p:1", https_proxy="http://p:2", no_proxy="localhost")
    variables = site.environment()
    for name, value in (("HTTP_PROXY", "http://p:1"), ("https_proxy", "http://p:2")):
        assert variables[name] == value
    assert variables["no_proxy"] == variables["NO_PROXY"] == "localhost"
    assert site.files()["etc/apt/apt.conf.d/80yurt-site"] == (
        'Acquire::http::Proxy "http://p:1";\nAcquire::https::Proxy "http://p:2";\n'
    )


def test_mirrors_of_pip_and_npm_are_written_where_they_look() -> None:
    files = Site(pip_mirror="https://m/simple", npm_mirror="https://m/npm").files()
    assert "index-url = https://m/simple\n" in files["etc/pip.conf"]
    assert files["usr/local/etc/npmrc"] == "registry=https://m/npm\n"


def test_a_mirror_that_was_set_wins(tmp_path: Path) -> None:
    root = host(tmp_path)
    (root / "etc/apt/sources.list").write_text("deb http://host/debian trixie main\n")
    assert apt_sources(Site(apt_mirror="http://m/debian/"), "bookworm", root) == [
        "deb http://m/debian bookworm main",
        "deb http://m/debian bookworm-updates main",
        "deb http://m/debian-security bookworm-security main",
    ]


def test_the_hosts_mirror_is_read_from_one_line_sources(tmp_path: Path) -> None:
    root = host(tmp_path)
    (root / "etc/apt/sources.list").write_text(
        "# deb http://old/debian trixie main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://near/debian/ trixie main contrib\n"
        "deb-src http://src/debian trixie main\n"
        "deb http://near/debian-security trixie-security main\n"
    )
    (root / "etc/apt/sources.list.d/vendor.list").write_text("deb http://vendor trixie main\n")
    assert apt_sources(Site(), "bookworm", root) == [
        "deb http://near/debian/ bookworm main",
        "deb http://near/debian/ bookworm-updates main",
        "deb http://near/debian-security bookworm-security main",
    ]


def test_the_hosts_mirror_is_read_from_deb822_sources_and_mirror_lists(tmp_path: Path) -> None:
    root = host(tmp_path)
    (root / "etc/apt/mirrors").mkdir()
    (root / "etc/apt/mirrors/debian.list").write_text("http://cloud/debian\nhttp://other/debian\n")
    (root / "etc/apt/sources.list.d/debian.sources").write_text(
        "# a comment\nTypes: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n"
        "Suites: trixie trixie-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://off/debian\nSuites: trixie\nComponents: main\nEnabled: no\n"
    )
    assert apt_sources(Site(), "bookworm", root) == [
        "deb http://cloud/debian bookworm main",
        "deb http://cloud/debian bookworm-updates main",
    ]


def test_another_system_has_no_mirror_of_debian_to_offer(tmp_path: Path) -> None:
    root = host(tmp_path, release="ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n")
    (root / "etc/apt/sources.list").write_text("deb http://u/debian noble main\n")
    assert apt_sources(Site(), "bookworm", root) == []
