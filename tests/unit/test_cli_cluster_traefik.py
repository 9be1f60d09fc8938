"""The Traefik of a cluster as the command prepares it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
import yaml

from control.cli import traefik
from control.errors import InvalidError
from control.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit


def test_routes_come_from_consul_and_control_is_where_it_was_said_to_be(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, consul_url="http://10.0.0.2:8500", consul_token="t0ken")
    command = traefik.prepare(settings, ("http://10.0.0.2:9879",))
    static = tmp_path / "traefik" / "static.yml"
    assert command[-1] == f"--configFile={static}"
    assert stat.S_IMODE(static.stat().st_mode) == 0o600
    endpoint = yaml.safe_load(static.read_text())["providers"]["consulCatalog"]["endpoint"]
    assert endpoint == {"address": "10.0.0.2:8500", "scheme": "http", "token": "t0ken"}
    assert "http://10.0.0.2:9879" in (tmp_path / "traefik" / "dynamic" / "control.yml").read_text()
    assert not any("t0ken" in word for word in command)


def test_certificates_are_made_for_the_api_and_for_previews(tmp_path: Path) -> None:
    settings = Settings(
        data=tmp_path,
        consul_url="http://10.0.0.2:8500",
        listen="0.0.0.0",
        url="https://api.example.org",
        domain="previews.example.org",
        acme_dns="rfc2136",
        acme_email="root@example.org",
        acme_storage=tmp_path / "kept.json",
    )
    traefik.prepare(settings, ("http://10.0.0.2:9879",))
    static = yaml.safe_load((tmp_path / "traefik" / "static.yml").read_text())
    (made,) = static["certificatesResolvers"].values()
    assert made["acme"]["email"] == "root@example.org"
    assert made["acme"]["storage"] == str(tmp_path / "kept.json")
    certified = static["entryPoints"]["web"]["http"]["tls"]["domains"]
    assert [one["main"] for one in certified] == ["previews.example.org", "api.example.org"]


def test_without_consul_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="YURT_CONSUL_URL"):
        traefik.prepare(Settings(data=tmp_path), ("http://10.0.0.2:9879",))


@pytest.mark.parametrize(
    "text", ["", " , ", "10.0.0.2:9879", "https://a:1", "http://a", "http://a:1,b"]
)
def test_only_urls_of_control_are_taken(text: str) -> None:
    with pytest.raises(InvalidError, match="--control"):
        traefik.control_urls(text)


def test_several_urls_are_taken() -> None:
    assert traefik.control_urls("http://a:1/, http://b:2") == ("http://a:1", "http://b:2")
