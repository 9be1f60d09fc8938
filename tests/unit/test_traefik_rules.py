"""Traefik's configuration, whole dictionaries, and what its rules match."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from traefik.registry import Route
from traefik.rules import (
    base_configuration,
    front_configuration,
    preview_rule,
    sandbox_configuration,
    toolbox_rule,
)
from traefik.static import Front, static_configuration

pytestmark = pytest.mark.unit

ID = "abcdefghijklmnopqrstuvwxyz"
ROUTE = Route(sandbox_id=ID, generation=3, address="127.0.0.1", port=23001, domain="localhost")
SIGNATURE = "a2" * 11 + "z"


def test_a_sandbox_has_a_toolbox_and_a_preview_router_to_its_gate() -> None:
    assert sandbox_configuration(ROUTE) == {
        "http": {
            "routers": {
                f"toolbox-{ID}": {
                    "rule": (
                        f"PathRegexp(`^/toolbox/{ID}(/|$)`)"
                        f" || PathRegexp(`^/api/toolbox/{ID}/toolbox(/|$)`)"
                    ),
                    "service": f"sandbox-{ID}",
                    "priority": 200,
                },
                f"preview-{ID}": {
                    "rule": (
                        rf"HostRegexp(`^[1-9][0-9]{{0,4}}-{ID}(-[a-z2-7]{{23}})?\.localhost$`)"
                    ),
                    "service": f"sandbox-{ID}",
                    "priority": 300,
                },
            },
            "services": {
                f"sandbox-{ID}": {
                    "loadBalancer": {
                        "servers": [{"url": "http://127.0.0.1:23001"}],
                        "passHostHeader": True,
                        "responseForwarding": {"flushInterval": "-1ns"},
                    }
                }
            },
        }
    }


def test_the_catch_all_leads_to_control_but_never_to_its_internal_paths() -> None:
    assert base_configuration(["http://127.0.0.1:8123"], (Path("/c.pem"), Path("/k.pem"))) == {
        "http": {
            "middlewares": {
                "strip": {
                    "headers": {
                        "customRequestHeaders": {
                            "Forwarded": "",
                            "X-Original-URL": "",
                            "X-Rewrite-URL": "",
                        }
                    }
                }
            },
            "routers": {
                "control": {
                    "rule": "PathPrefix(`/`) && !PathRegexp(`(?i)^/+internal`)",
                    "service": "control",
                    "priority": 1,
                }
            },
            "services": {
                "control": {
                    "loadBalancer": {
                        "servers": [{"url": "http://127.0.0.1:8123"}],
                        "passHostHeader": True,
                        "responseForwarding": {"flushInterval": "-1ns"},
                    }
                }
            },
        },
        "tls": {
            "stores": {
                "default": {"defaultCertificate": {"certFile": "/c.pem", "keyFile": "/k.pem"}}
            }
        },
    }


def test_connections_from_outside_are_counted_per_source() -> None:
    assert front_configuration(["front"], 5000, 1024) == {
        "tcp": {
            "middlewares": {"per-source": {"inFlightConn": {"amount": 1024}}},
            "routers": {
                "front": {
                    "rule": "HostSNI(`*`)",
                    "entryPoints": ["front"],
                    "middlewares": ["per-source"],
                    "service": "web",
                }
            },
            "services": {
                "web": {
                    "loadBalancer": {
                        "servers": [{"address": "127.0.0.1:5000"}],
                        "serversTransport": "web",
                    }
                }
            },
            "serversTransports": {"web": {"proxyProtocol": {"version": 2}}},
        }
    }


INTERNAL = {"address": "127.0.0.1:2", "http": {"aliasHeadersStrategy": "reject"}}
WEB_HTTP = {
    "middlewares": ["strip@file"],
    "sanitizePath": False,
    "aliasHeadersStrategy": "reject",
    "encodeQuerySemicolons": True,
    "maxHeaderBytes": 32768,
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
WEB_TRANSPORT = {
    "lifeCycle": {"graceTimeOut": "2s"},
    "respondingTimeouts": {"readTimeout": "0s", "idleTimeout": "180s"},
}


def test_on_loopback_clients_connect_to_the_web_entry_points_directly() -> None:
    front = Front(listen=("127.0.0.1", "::1"), port=9878, control=(), internal_port=2, web_port=3)
    assert static_configuration(front, Path("/d/dynamic")) == {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "WARN", "format": "json"},
        "entryPoints": {
            "internal": INTERNAL,
            "web": {
                "address": "127.0.0.1:9878",
                "asDefault": True,
                "http": WEB_HTTP,
                "transport": WEB_TRANSPORT,
            },
            "web1": {
                "address": "[::1]:9878",
                "asDefault": True,
                "http": WEB_HTTP,
                "transport": WEB_TRANSPORT,
            },
        },
        "ping": {"entryPoint": "internal"},
        "providers": {
            "providersThrottleDuration": "5ms",
            "file": {"directory": "/d/dynamic", "watch": True},
        },
        "serversTransport": {
            "maxIdleConnsPerHost": 256,
            "forwardingTimeouts": {"dialTimeout": "2s", "idleConnTimeout": "60s"},
        },
    }


def test_beyond_loopback_a_counting_front_stands_before_the_web_entry_point() -> None:
    front = Front(
        listen=("0.0.0.0",),
        port=443,
        control=(),
        internal_port=2,
        web_port=3,
        certificate=(Path("/c.pem"), Path("/k.pem")),
    )
    assert front.outer == {"front": "0.0.0.0:443"}
    assert static_configuration(front, Path("/d"))["entryPoints"] == {
        "internal": INTERNAL,
        "front": {
            "address": "0.0.0.0:443",
            "transport": {"respondingTimeouts": {"readTimeout": "1ns"}},
        },
        "web": {
            "address": "127.0.0.1:3",
            "asDefault": True,
            "http": {**WEB_HTTP, "tls": {}},
            "transport": WEB_TRANSPORT,
            "proxyProtocol": {"trustedIPs": ["127.0.0.1/32"]},
        },
    }


def expressions(rule: str) -> list[re.Pattern[str]]:
    return [re.compile(text) for text in re.findall(r"`([^`]*)`", rule)]


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        (f"3000-{ID}.localhost", True),
        (f"3000-{ID}-{SIGNATURE}.localhost", True),
        (f"3000-{ID}-{SIGNATURE[:-1]}.localhost", False),
        (f"03000-{ID}.localhost", False),
        (f"123456-{ID}.localhost", False),
        (f"3000-{ID}a.localhost", False),
        (f"3000-{ID}.localhost.example.com", False),
        (f"x3000-{ID}.localhost", False),
        (f"3000-{ID}xlocalhost", False),
    ],
)
def test_a_preview_rule_matches_whole_hosts_only(host: str, matches: bool) -> None:
    (expression,) = expressions(preview_rule(ID, "localhost"))
    assert bool(expression.search(host)) is matches


def test_a_preview_rule_takes_several_domains() -> None:
    (expression,) = expressions(preview_rule(ID, "localhost, Sandboxes.example.com"))
    assert expression.search(f"80-{ID}.localhost")
    assert expression.search(f"80-{ID}.sandboxes.example.com")
    assert not expression.search(f"80-{ID}.sandboxes-example.com")


@pytest.mark.parametrize(
    ("path", "matches"),
    [
        (f"/toolbox/{ID}", True),
        (f"/toolbox/{ID}/files", True),
        (f"/api/toolbox/{ID}/toolbox/files", True),
        (f"/api/toolbox/{ID}", False),
        (f"/api/toolbox/{ID}/toolboxes", False),
        (f"/toolbox/{ID}abc/files", False),
        (f"/x/toolbox/{ID}", False),
    ],
)
def test_a_toolbox_rule_matches_this_sandbox_only(path: str, matches: bool) -> None:
    assert any(pattern.search(path) for pattern in expressions(toolbox_rule(ID))) is matches


@pytest.mark.parametrize("bad", ["", "short", ID.upper(), ID[:-1] + "`", ID[:-1] + "1", ID + "\n"])
def test_what_is_not_an_id_never_becomes_a_rule(bad: str) -> None:
    with pytest.raises(ValueError, match="not a sandbox id"):
        toolbox_rule(bad)


@pytest.mark.parametrize("bad", ["", "a`) || Host(`b", "a b", ".x", "localhost,"])
def test_what_is_not_a_domain_never_becomes_a_rule(bad: str) -> None:
    with pytest.raises(ValueError, match="not a domain"):
        preview_rule(ID, bad)
