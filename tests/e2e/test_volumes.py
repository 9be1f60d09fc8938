"""Volumes as users have them: by the API and a stock SDK, through stops, ends and restarts."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.sdk.environments import python_of
from tests.support.instance import REPOSITORY
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Api
    from tests.support.instance import Instance
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e


def state_of(api: Api, volume_id: str) -> str:
    listed = api.call("GET", "/volumes?includeDeleted=true").json()
    return {volume["id"]: str(volume["state"]) for volume in listed}.get(volume_id, "")


@contextlib.contextmanager
def a_volume(api: Api) -> Iterator[dict[str, Any]]:
    """A volume, deleted at the end with whatever is in it."""
    made = api.call("POST", "/volumes", json={"name": f"v-{secrets.token_hex(6)}"}).json()
    eventually(lambda: state_of(api, made["id"]) == "ready", "the volume to be ready")
    yield made
    api.call("DELETE", f"/volumes/{made['id']}")
    eventually(lambda: state_of(api, made["id"]) == "deleted", "the volume to be gone", seconds=30)


def test_a_volume_is_shared_survives_and_ends(api: Api) -> None:
    with a_volume(api) as volume:
        mounts = [{"volumeId": volume["name"], "mountPath": "/home/daytona/shared"}]
        part = [{"volumeId": volume["id"], "mountPath": "/part", "subpath": "deep/part"}]
        with api.sandbox(volumes=mounts) as first, api.sandbox(volumes=part) as second:
            # The agent's own user, who is not root, writes where it was not asked to.
            first.check("echo hello > ~/shared/a && mkdir -p ~/shared/deep/part")
            second.check("echo part > /part/b")
            assert first.check("cat ~/shared/deep/part/b").strip() == "part"
            owner = "stat -c '%u:%g %U' {}"
            mine = first.check(owner.format("~/shared/deep/part/b"))
            assert second.check(owner.format("/part/b")) == mine
            assert "0:0" not in mine
            second.root("chown 4321:1234 /part/b && chmod 640 /part/b")
            assert first.check("stat -c '%u %g %a' ~/shared/deep/part/b").split() == [
                *("4321", "1234", "640"),
            ]
            assert second.check("ls -A /part").split() == ["b"]
            first.upload(b"x" * 100_000, "/home/daytona/shared/up")
            assert first.check("wc -c < ~/shared/up").strip() == "100000"
            first.stop()
            first.start()
            assert first.check("cat ~/shared/a").strip() == "hello"
            refused = api.call("DELETE", f"/volumes/{volume['id']}")
            assert refused.status_code == 409
            assert "in use by one or more sandboxes" in refused.json()["message"]
        with api.sandbox(volumes=mounts) as third:
            assert third.check("cat ~/shared/a ~/shared/deep/part/b 2>&1 | head -1") == "hello\n"


@pytest.mark.parametrize("environment", ["newest", "v0_21"])
def test_a_stock_sdk_has_sandboxes_share_a_volume(server: Server, environment: str) -> None:
    mark = secrets.token_hex(8)
    ran = subprocess.run(
        [python_of(environment), "-m", "tests.e2e.sdk.volumes", f"sdk-{mark}", mark],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **server.variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, mark), ran.stderr[-4000:]


def test_a_volume_is_there_after_the_server_and_its_sandboxes_went(
    embedded: Instance, api: Api
) -> None:
    with a_volume(api) as volume:
        mounts = [{"volumeId": volume["id"], "mountPath": "/data"}]
        with api.sandbox(volumes=mounts) as sandbox:
            sandbox.check("echo kept > /data/a && sync /data/a")
            embedded.down()
            embedded.up()
            eventually(api.answers, "the server to answer", seconds=30)
            sandbox.start()
            assert sandbox.check("cat /data/a") == "kept\n"
            with api.sandbox(volumes=mounts) as other:
                assert other.check("cat /data/a") == "kept\n"
