"""Preview URLs, signed and not, and what else is only looked at."""

from __future__ import annotations

import pytest
import pytest_asyncio

from control.naming import parse_preview_host
from jobs.runner.gate_auth import Policy
from tests.support.control_rig import Rig, complaint, eventually

pytestmark = [pytest.mark.unit, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def box(rig: Rig) -> None:
    await rig.create(name="box")


async def test_a_preview_url_has_all_that_every_sdk_reads(rig: Rig) -> None:
    made = (await rig.call("GET", "/sandbox/box/ports/8080/preview-url")).json()
    assert made["url"] == f"http://8080-{made['sandboxId']}.localhost:9878"
    assert made["token"] == rig.runners[made["sandboxId"]].assignment["preview_token"]
    assert len(made["token"]) == 32


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "80a"])
async def test_a_port_that_is_none_is_refused(rig: Rig, port: str) -> None:
    for path in ("preview-url", "signed-preview-url"):
        answer = await rig.call("GET", f"/sandbox/box/ports/{port}/{path}")
        assert answer.status_code == 400
        assert "Invalid port" in complaint(answer)


async def test_a_signed_url_is_what_the_gate_opens_and_can_be_called_back(rig: Rig) -> None:
    path = "/sandbox/box/ports/80/signed-preview-url"
    made = (await rig.call("GET", f"{path}?expiresInSeconds=3600")).json()
    assert made["port"] == 80
    host = parse_preview_host(made["url"].split("/")[2].split(":")[0], ("localhost",))
    assert host is not None
    assert made["token"] == f"{host.sandbox_id}-{host.signature}"
    label = (host.signature or "").encode()
    runner = rig.runners[host.sandbox_id]
    assert Policy(host.sandbox_id, runner.assignment)._label_expiry(label, 80) is not None
    assert Policy(host.sandbox_id, runner.assignment)._label_expiry(label, 81) is None
    ended = await rig.call("POST", f"{path}/{made['token']}/expire")
    assert (ended.status_code, ended.content) == (200, b"")

    async def told() -> bool:
        await rig.settle()
        return Policy(host.sandbox_id, runner.assignment)._label_expiry(label, 80) is None

    await eventually(told)


@pytest.mark.parametrize("seconds", ["0", "86401", "x", "-5"])
async def test_a_signed_url_lives_between_a_second_and_a_day(rig: Rig, seconds: str) -> None:
    path = f"/sandbox/box/ports/80/signed-preview-url?expiresInSeconds={seconds}"
    assert (await rig.call("GET", path)).status_code == 400


async def test_calling_back_what_opens_nothing_is_nothing(rig: Rig) -> None:
    for token in ("x", "a" * 23, "box-" + "2" * 23):
        path = f"/sandbox/box/ports/80/signed-preview-url/{token}/expire"
        assert (await rig.call("POST", path)).status_code == 200
    kept = await rig.store.sandboxes.named("default", "box")
    assert kept is not None
    assert "x" not in kept.secrets.revoked


async def test_the_configuration_has_what_sdks_require(rig: Rig) -> None:
    config = (await rig.http.get("/config", headers={"authorization": ""})).json()
    texts = ("version", "proxyTemplateUrl", "proxyToolboxUrl", "defaultSnapshot", "dashboardUrl")
    assert all(isinstance(config[field], str) for field in (*texts, "environment"))
    assert set(config["oidc"]) == {"issuer", "clientId", "audience", "provider"}
    assert config["proxyTemplateUrl"] == "http://{{PORT}}-{{sandboxId}}.localhost:9878"
    assert config["proxyToolboxUrl"] == "http://localhost:9878/toolbox"
    assert config["maintananceMode"] is config["linkedAccountsEnabled"] is False
    assert config["announcements"] == {}
    assert "analyticsApiUrl" not in config


async def test_health_is_told_without_a_key(rig: Rig) -> None:
    assert (await rig.http.get("/health")).json() == {"status": "ok"}
    ready = await rig.http.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")


async def test_snapshots_and_regions_are_listed(rig: Rig) -> None:
    page = (await rig.call("GET", "/snapshots?limit=5&page=1")).json()
    assert (page["total"], page["page"], page["totalPages"]) == (1, 1, 1)
    (snapshot,) = page["items"]
    assert snapshot["enabled"] is snapshot["general"] is True
    assert (snapshot["name"], snapshot["state"], snapshot["mem"]) == ("default", "active", 1)
    for name in ("default", snapshot["id"]):
        assert (await rig.call("GET", f"/snapshots/{name}")).json() == snapshot
    missing = await rig.call("GET", "/snapshots/a%2Fb:c")
    assert complaint(missing) == "Snapshot with ID or name a/b:c not found"
    (region,) = (await rig.call("GET", "/regions")).json()
    assert region["regionType"] == "shared"


async def test_the_toolbox_s_place_is_told_by_a_call_too(rig: Rig) -> None:
    said = await rig.call("GET", "/sandbox/box/toolbox-proxy-url")
    assert said.json() == {"url": "http://localhost:9878/toolbox"}
