"""What only routes in Consul can get wrong: strangers, outages, tokens, certificates."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest

from control.errors import UnavailableError
from tests.support.consul import Authority, Consul, of_its_own, running
from tests.support.edge import Backend, Edge, edge_over, front_of, traefik
from traefik import consul as adapter
from traefik.consul import MARKER, ConsulRegistry, ConsulSettings
from traefik.registry import Route
from traefik.rules import sandbox_configuration, tags
from traefik.static import Acme, Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.contract

A = "a" * 26
B = "a" * 25 + "b"
PATH = f"/toolbox/{A}"
# What the documentation of the registry asks for.
WRITER = """
node "yurt-routes" { policy = "write" }
service "yurt-sandbox" { policy = "write" }
"""
NODE_ONLY, SERVICE_ONLY = WRITER.strip().splitlines()
READER = WRITER.replace("write", "read")


def route(sandbox_id: str = A, port: int = 23001, domain: str = "localhost") -> Route:
    return Route(sandbox_id, generation=1, address="127.0.0.1", port=port, domain=domain)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    with running(Consul(tmp_path_factory.mktemp("consul"))) as server:
        yield server


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[Consul]:
    """A server that the test may stop."""
    with running(Consul(tmp_path / "consul")) as server:
        yield server


@pytest.fixture
async def registry(shared: Consul) -> AsyncIterator[ConsulRegistry]:
    async with ConsulRegistry(of_its_own(shared)) as registry:
        yield registry


async def test_no_request_for_one_sandbox_ever_reaches_another(
    registry: ConsulRegistry, tmp_path: Path
) -> None:
    async with (
        edge_over(tmp_path, registry) as edge,
        Backend("gate a") as gate_a,
        Backend("gate b") as gate_b,
    ):
        await registry.register(route(A, gate_a.port))
        await registry.register(route(B, gate_b.port))
        await edge.live(f"/toolbox/{A}", "gate a")
        await edge.live(f"/toolbox/{B}", "gate b")
        for sandbox, gate in ((A, "gate a"), (B, "gate b")):
            ways = [(f"/toolbox/{sandbox}", "localhost"), ("/", f"80-{sandbox}.localhost")]
            reached = {await edge.backend(*way) for way in ways for _ in range(40)}
            assert reached == {gate}


async def test_a_strangers_instance_is_neither_listed_nor_touched_nor_routed(
    shared: Consul, registry: ConsulRegistry, tmp_path: Path
) -> None:
    names = registry.settings
    async with (
        edge_over(tmp_path, registry) as edge,
        Backend("gate") as gate,
        Backend("stranger") as stranger,
    ):
        await registry.register(route(A, gate.port))
        await edge.live(PATH, "gate")
        forged = ["traefik.enable=true", *tags(sandbox_configuration(route(A, stranger.port)))]
        instance = {"Service": names.service, "ID": A, "Port": stranger.port, "Tags": forged}
        shared.register("stranger", instance)
        other = [names.tag, *tags(sandbox_configuration(route(B, stranger.port)))]
        shared.register("stranger", {**instance, "ID": B, "Tags": other})
        # Whatever Traefik would make of them is there once this one is.
        await registry.register(route("c" * 26, gate.port))
        await edge.live(f"/toolbox/{'c' * 26}", "gate")
        assert {await edge.backend(PATH) for _ in range(20)} == {"gate"}
        assert await edge.backend(f"/toolbox/{B}") == "control"
        assert {one.sandbox_id for one in await registry.routes()} == {A, "c" * 26}
        for sandbox in (A, B):
            await registry.deregister(sandbox)
    left = set(shared.instances(names.service))
    assert left == {
        ("stranger", A),
        ("stranger", B),
        (names.node, "c" * 26),
        (names.node, MARKER),
    }


async def test_the_bad_health_of_a_strangers_namesake_takes_no_route(
    shared: Consul, registry: ConsulRegistry, tmp_path: Path
) -> None:
    names = registry.settings
    async with edge_over(tmp_path, registry) as edge, Backend("gate") as gate:
        await registry.register(route(A, gate.port))
        await edge.live(PATH, "gate")
        instance = {"Service": names.service, "ID": A, "Tags": ["traefik.enable=true"]}
        for node in ("a-stranger", "z-stranger"):
            shared.register(node, instance)
            check = {"Node": node, "CheckID": "x", "Status": "critical", "ServiceID": A}
            body = {"Node": node, "Address": "127.0.0.1", "Check": check}
            assert shared.call("PUT", "/v1/catalog/register", body).status_code == 200
        await registry.register(route(B, gate.port))
        await edge.live(f"/toolbox/{B}", "gate")
        assert await edge.backend(PATH) == "gate"


async def test_an_instance_of_ours_that_is_not_whole_raises_instead_of_being_left_out(
    shared: Consul, registry: ConsulRegistry
) -> None:
    names = registry.settings
    await registry.register(route(A))
    torn = {"Service": names.service, "ID": B, "Port": 1, "Tags": [names.tag]}
    body = {"Node": names.node, "SkipNodeUpdate": True, "Service": torn, "Address": "x"}
    shared.call("PUT", "/v1/catalog/register", body)
    with pytest.raises(UnavailableError, match=f"{B} .* deregister it"):
        await registry.routes()


async def test_a_machines_node_is_not_taken_for_routes(shared: Consul) -> None:
    nodes = shared.call("GET", "/v1/catalog/nodes").json()
    machine = next(one for one in nodes if one["Node"] == "machine")
    settings = replace(of_its_own(shared), node=machine["Node"])
    async with ConsulRegistry(settings) as registry:
        with pytest.raises(UnavailableError, match="Node name machine is reserved"):
            await registry.register(route())
    assert shared.call("GET", f"/v1/catalog/node/{machine['Node']}").json()["Node"] == machine


async def test_routes_outlive_consul_and_changes_catch_up_when_it_is_back(
    consul: Consul, tmp_path: Path
) -> None:
    async with (
        ConsulRegistry(consul.settings) as registry,
        edge_over(tmp_path, registry) as edge,
        Backend("gate") as gate,
    ):
        await registry.register(route(A, gate.port))
        await edge.live(PATH, "gate")
        consul.kill()
        for call in (registry.register(route(B)), registry.deregister(A), registry.routes()):
            with pytest.raises(UnavailableError, match=f"{consul.url}.*YURT_CONSUL_URL"):
                await call
        assert await edge.backend(PATH) == "gate"
        await asyncio.to_thread(consul.start)
        assert await registry.routes() == [route(A, gate.port)]
        assert await edge.backend(PATH) == "gate"
        begin = time.perf_counter()
        await registry.register(route(B, gate.port))
        await registry.deregister(A)
        await edge.live(f"/toolbox/{B}", "gate", seconds=60)
        await edge.live(PATH, "control")
        print(f"caught up after {time.perf_counter() - begin:.1f} s")


async def test_a_consul_that_hangs_is_given_up_and_holds_up_nothing_else(
    consul: Consul, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "TIMEOUT_SECONDS", 1.0)
    async with ConsulRegistry(consul.settings) as registry:
        await registry.register(route())
        consul.hang()
        asked = asyncio.create_task(registry.routes())
        begin = time.perf_counter()
        await asyncio.sleep(0.05)
        assert time.perf_counter() - begin < 0.5, "the loop stood still"
        with pytest.raises(UnavailableError, match="cannot reach Consul"):
            await asked
        assert time.perf_counter() - begin < 3
        consul.resume()
        assert await registry.routes() == [route()]


async def test_a_change_whose_caller_gave_up_does_not_undo_a_later_one(
    registry: ConsulRegistry,
) -> None:
    for _ in range(50):
        given_up = asyncio.create_task(registry.register(route()))
        await asyncio.sleep(0)  # it has begun
        given_up.cancel()
        await registry.deregister(A)
        assert await registry.routes() == []


async def test_a_consul_without_a_leader_says_so(tmp_path: Path) -> None:
    lonely = Consul(tmp_path, {"bootstrap_expect": 3, "performance": {"rpc_hold_timeout": "500ms"}})
    with running(lonely, alone=False):
        async with ConsulRegistry(lonely.settings) as registry:
            for call in (registry.register(route()), registry.deregister(A), registry.routes()):
                with pytest.raises(UnavailableError, match=r"No cluster leader.*raft list-peers"):
                    await call


async def test_what_is_not_consul_is_not_an_empty_list() -> None:
    async with Backend("other") as other, ConsulRegistry(ConsulSettings(other.url)) as registry:
        with pytest.raises(UnavailableError):
            await registry.routes()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    """A server that lets nobody do anything without a token; the fixture has the first one."""
    acl = {"acl": {"enabled": True, "default_policy": "deny"}}
    with running(Consul(tmp_path_factory.mktemp("guarded"), acl)) as server:
        server.token = server.bootstrap()
        yield server


async def test_the_policy_that_is_documented_suffices_for_control_and_for_traefik(
    guarded: Consul, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "this is of another program")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    settings = replace(guarded.settings, token=guarded.grant(WRITER, "control"))
    reader = replace(settings, token=guarded.grant(READER, "traefik"))
    async with ConsulRegistry(settings) as registry, Backend("gate") as gate:
        assert await registry.routes() == []
        await registry.deregister(A)
        async with edge_over(tmp_path, registry, Cluster(reader)) as edge:
            await registry.register(route(A, gate.port))
            await edge.live(PATH, "gate")
            assert await registry.routes() == [route(A, gate.port)]
            await registry.deregister(A)
            await edge.live(PATH, "control")
    assert reader.token in (tmp_path / "static.yml").read_text()
    assert (tmp_path / "static.yml").stat().st_mode & 0o077 == 0


TOO_LITTLE = [
    pytest.param(None, id="no token"),
    pytest.param("", id="nothing"),
    pytest.param(NODE_ONLY, id="node only"),
]


@pytest.fixture
async def listed(guarded: Consul) -> Route:
    """A route that is there, written by who may."""
    settings = replace(guarded.settings, token=guarded.grant(WRITER, "able"))
    async with ConsulRegistry(settings) as able:
        await able.register(route())
        assert await able.routes() == [route()]
    return route()


def registry_of(guarded: Consul, rules: str | None) -> ConsulRegistry:
    token = "" if rules is None else guarded.grant(rules, "unable")
    return ConsulRegistry(replace(guarded.settings, token=token))


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("rules", [*TOO_LITTLE, pytest.param(READER, id="reading")])
async def test_a_token_that_may_not_write_is_told_which_policy_it_needs(
    guarded: Consul, rules: str | None
) -> None:
    async with registry_of(guarded, rules) as registry:
        needs = 'YURT_CONSUL_TOKEN.*node "yurt-routes" and service "yurt-sandbox"'
        with pytest.raises(UnavailableError, match=needs) as refused:
            await registry.register(route(B))
    token = registry.settings.token
    assert not token or token not in str(refused.value)


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("rules", [*TOO_LITTLE, pytest.param(SERVICE_ONLY, id="service only")])
async def test_a_token_that_may_not_read_raises_instead_of_listing_nothing(
    guarded: Consul, rules: str | None
) -> None:
    async with registry_of(guarded, rules) as registry:
        with pytest.raises(UnavailableError, match="YURT_CONSUL_TOKEN"):
            await registry.routes()


async def test_a_token_that_may_only_read_lists_all(guarded: Consul, listed: Route) -> None:
    async with registry_of(guarded, READER) as registry:
        assert await registry.routes() == [listed]


async def test_a_token_that_nobody_made_raises(guarded: Consul) -> None:
    settings = replace(guarded.settings, token="8f8a0f30-0000-4000-8000-000000000000")
    async with ConsulRegistry(settings) as registry:
        for call in (registry.register(route()), registry.deregister(A), registry.routes()):
            with pytest.raises(UnavailableError, match="YURT_CONSUL_TOKEN"):
                await call


async def test_over_tls_both_sides_show_who_they_are(tmp_path: Path) -> None:
    authority = Authority.at(tmp_path)
    with running(Consul(tmp_path / "consul", authority=authority)) as server:
        async with (
            ConsulRegistry(server.settings) as registry,
            Backend("gate") as gate,
            edge_over(tmp_path / "edge", registry) as edge,
        ):
            await registry.register(route(A, gate.port))
            await edge.live(PATH, "gate")
        for settings in (
            replace(server.settings, ca=None),
            replace(server.settings, cert=None, key=None),
        ):
            async with ConsulRegistry(settings) as registry:
                with pytest.raises(UnavailableError, match="_CA, _CERT and _KEY"):
                    await registry.routes()


async def test_previews_have_a_domain_of_their_own_and_one_source_a_limit(
    registry: ConsulRegistry, tmp_path: Path
) -> None:
    name = f"3000-{A}.previews.localhost"
    authority = Authority.at(tmp_path, ["api.localhost", "*.previews.localhost"])
    async with Backend("control") as control, Backend("gate") as gate:
        front = replace(
            front_of(control),
            listen=("0.0.0.0",),
            certificate=(authority.cert, authority.key),
            connections_per_source=4,
        )
        await registry.register(route(A, gate.port, "previews.localhost"))
        with traefik(tmp_path / "edge", front, Cluster(registry.settings)):
            context = ssl.create_default_context(cafile=str(authority.ca))
            async with httpx.AsyncClient(trust_env=False, verify=context) as client:
                edge = Edge(front, registry, control, client, scheme="https")
                await edge.live("/", "gate", name)
                assert await edge.backend("/", "api.localhost") == "control"
                sent = {"Forwarded": "host=evil", "X-Forwarded-For": "6.6.6.6", "Host": name}
                answer = await client.get(edge.url, headers=sent, extensions={"sni_hostname": name})
            seen = answer.json()["headers"]
            assert "forwarded" not in seen
            assert seen["x-forwarded-for"] == "127.0.0.1"
            assert seen["x-forwarded-proto"] == "https"
            held = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(5)]
            await asyncio.sleep(0.3)
            async with httpx.AsyncClient(trust_env=False, verify=context) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(edge.url, extensions={"sni_hostname": name})
            for _, writer in held:
                writer.close()


async def test_a_control_that_is_gone_gets_no_requests_while_another_lives(
    registry: ConsulRegistry, tmp_path: Path
) -> None:
    async with Backend("one") as one, Backend("two") as two:
        front = replace(front_of(one), control=(one.url, two.url))
        with traefik(tmp_path, front, Cluster(registry.settings)):
            async with httpx.AsyncClient(trust_env=False) as client:
                edge = Edge(front, registry, one, client)
                await edge.live("/", "one")
                await edge.live("/", "two")
                await one.__aexit__()
                deadline = time.monotonic() + 10
                while (await edge.get("/")).status_code != 200 or {
                    (await edge.get("/")).status_code for _ in range(4)
                } != {200}:
                    assert time.monotonic() < deadline, "requests still go to the dead control"
                    await asyncio.sleep(0.05)
                assert {await edge.backend("/") for _ in range(10)} == {"two"}


async def test_traefik_takes_the_settings_of_certificates_on_demand(
    registry: ConsulRegistry, tmp_path: Path
) -> None:
    acme = Acme(
        email="root@localhost",
        provider="exec",
        domains=("api.localhost", "previews.localhost"),
        storage=tmp_path / "acme.json",
        server="https://127.0.0.1:1/directory",
    )
    async with Backend("control") as control:
        front = front_of(control)
        with traefik(tmp_path, front, Cluster(registry.settings, acme)):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            async with httpx.AsyncClient(trust_env=False, verify=context) as client:
                edge = Edge(front, registry, control, client, scheme="https")
                await edge.live("/", "control")
