"""Routes as tags of Consul, whose instances are ours, and Traefik's configuration on a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from traefik.consul import MARKER, ConsulSettings, is_ours
from traefik.registry import Route
from traefik.rules import base_configuration, sandbox_configuration, tags
from traefik.static import Acme, Cluster, Front, cluster_configuration, static_configuration

pytestmark = pytest.mark.unit

ID = "abcdefghijklmnopqrstuvwxyz"
CONSUL = ConsulSettings("http://10.9.0.1:8500")
FRONT = Front(
    listen=("0.0.0.0",),
    port=443,
    control=("http://10.9.0.1:8080",),
    internal_port=2,
    web_port=3,
    certificate=(Path("/c.pem"), Path("/k.pem")),
)


def test_each_value_of_a_sandboxs_routers_is_a_tag_and_its_service_has_one_server() -> None:
    route = Route(ID, generation=3, address="10.9.0.7", port=23001, domain="previews.example")
    toolbox, preview = f"traefik.http.routers.toolbox-{ID}", f"traefik.http.routers.preview-{ID}"
    service = f"traefik.http.services.sandbox-{ID}.loadBalancer"
    assert tags(sandbox_configuration(route)) == [
        f"{toolbox}.rule=PathRegexp(`^/toolbox/{ID}(/|$)`)"
        f" || PathRegexp(`^/api/toolbox/{ID}/toolbox(/|$)`)",
        f"{toolbox}.service=sandbox-{ID}",
        f"{toolbox}.priority=200",
        rf"{preview}.rule=HostRegexp(`^[1-9][0-9]{{0,4}}-{ID}(-[a-z2-7]{{23}})?"
        r"\.previews\.example$`)",
        f"{preview}.service=sandbox-{ID}",
        f"{preview}.priority=300",
        f"{service}.server.url=http://10.9.0.7:23001",
        f"{service}.passHostHeader=true",
        f"{service}.responseForwarding.flushInterval=-1ns",
    ]


@pytest.mark.parametrize("value", [["a", "b"], None, 1.5])
def test_what_has_no_form_as_a_tag_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"http\.x has no form as a tag"):
        tags({"http": {"x": value}})


def instance(**changed: Any) -> dict[str, Any]:
    return {"Node": "yurt-routes", "ServiceID": ID, "ServiceTags": ["x", "yurt"], **changed}


@pytest.mark.parametrize(
    ("changed", "ours"),
    [
        ({}, True),
        ({"ServiceID": MARKER}, True),
        ({"Node": "another"}, False),
        ({"ServiceTags": ["yurt-not"]}, False),
        ({"ServiceTags": None}, False),
        ({"ServiceID": "by-hand"}, False),
    ],
)
def test_ours_is_what_has_our_node_our_tag_and_a_sandbox_id(
    changed: dict[str, Any], ours: bool
) -> None:
    assert is_ours(instance(**changed), CONSUL) is ours


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://10.9.0.1:18500", ("http", "10.9.0.1", 18500)),
        ("http://consul.internal/", ("http", "consul.internal", 8500)),
        ("https://[fd00::1]", ("https", "[fd00::1]", 8501)),
    ],
)
def test_an_address_of_consul_has_its_usual_port(url: str, endpoint: tuple[str, str, int]) -> None:
    assert ConsulSettings(url).endpoint == endpoint


@pytest.mark.parametrize("url", ["", "10.9.0.1:8500", "ftp://h", "http://h/path", "http://"])
def test_an_address_that_is_not_one_of_an_agent_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="of a Consul agent"):
        _ = ConsulSettings(url).endpoint


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(ConsulSettings("http://h", token="secret"))


def test_a_cluster_adds_the_catalog_to_what_is_embedded_and_changes_nothing_else() -> None:
    embedded = static_configuration(FRONT, Path("/d"))
    configuration = cluster_configuration(FRONT, Path("/d"), Cluster(CONSUL))
    assert configuration["providers"].pop("consulCatalog") == {
        "watch": True,
        "exposedByDefault": False,
        "constraints": "Tag(`yurt`)",
        "endpoint": {"address": "10.9.0.1:8500", "scheme": "http"},
    }
    assert configuration == embedded


def test_traefik_asks_consul_with_a_token_and_certificates() -> None:
    ca, cert, key = Path("/ca"), Path("/cert"), Path("/key")
    consul = ConsulSettings("https://consul.internal", "secret", ca=ca, cert=cert, key=key)
    configuration = cluster_configuration(FRONT, Path("/d"), Cluster(consul))
    assert configuration["providers"]["consulCatalog"]["endpoint"] == {
        "address": "consul.internal:8501",
        "scheme": "https",
        "token": "secret",
        "tls": {"ca": "/ca", "cert": "/cert", "key": "/key"},
    }


def test_certificates_on_demand_cover_each_domain_and_the_names_below_it() -> None:
    acme = Acme(
        email="root@example.com",
        provider="rfc2136",
        domains=("api.example.com", "previews.example"),
        storage=Path("/acme.json"),
        server="https://acme.example/directory",
    )
    configuration = cluster_configuration(
        replace(FRONT, certificate=None), Path("/d"), Cluster(CONSUL, acme)
    )
    assert configuration["entryPoints"]["web"]["http"]["tls"] == {
        "certResolver": "dns",
        "domains": [
            {"main": "api.example.com", "sans": ["*.api.example.com"]},
            {"main": "previews.example", "sans": ["*.previews.example"]},
        ],
    }
    assert configuration["certificatesResolvers"] == {
        "dns": {
            "acme": {
                "email": "root@example.com",
                "storage": "/acme.json",
                "caServer": "https://acme.example/directory",
                "dnsChallenge": {"provider": "rfc2136"},
            }
        }
    }


def test_of_several_controls_those_get_requests_that_answer() -> None:
    urls = ["http://10.9.0.1:8080", "http://10.9.0.2:8080"]
    pair = (Path("/c.pem"), Path("/k.pem"))
    several = base_configuration(urls, pair)["http"]["services"]["control"]["loadBalancer"]
    assert several["servers"] == [{"url": url} for url in urls]
    assert several["healthCheck"] == {
        "path": "/api/health",
        "hostname": "localhost",
        "interval": "2s",
        "timeout": "1s",
    }
    one = base_configuration(urls[:1], pair)["http"]["services"]["control"]["loadBalancer"]
    assert "healthCheck" not in one
