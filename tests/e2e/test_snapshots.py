"""Images of a real registry, real sandboxes from them, and snapshots of these, by the stock SDK."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from jobs.registry import publish
from tests.e2e.sdk.environments import python_of
from tests.support.api import Api
from tests.support.instance import REPOSITORY, Instance
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (shutil.which("docker-registry") and shutil.which("skopeo")),
        reason="needs docker-registry and skopeo",
    ),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("images") / "registry")
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def instance(registry: Registry) -> Iterator[Instance]:
    """A server that may fetch from the registry, which has an image: its own default one."""
    host = registry.url.removesuffix("/yurt")
    settings = {"YURT_REGISTRIES": f"{host},docker.io", "YURT_DOCKER_MIRROR": f"{host}/yurt"}
    with Instance.temporary(**settings) as instance:
        instance.up()
        yield instance


@pytest.fixture(scope="module")
def api(instance: Instance) -> Iterator[Api]:
    client = Api(instance)
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(registry: Registry, instance: Instance, api: Api) -> str:
    shown = api.call("GET", "/snapshots/default").json()
    image_id = shown["ref"].rpartition("-")[2]
    publish(instance.data, image_id, registry.url, print)
    return f"{registry.url.removeprefix('http://')}/snapshots:{image_id}"


def run_driver(instance: Instance, module: str, *arguments: str) -> None:
    mark = secrets.token_hex(6)
    ran = subprocess.run(
        [python_of("newest"), "-m", f"tests.e2e.sdk.{module}", *arguments, mark],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **instance.variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, mark), ran.stderr[-4000:] + instance.logs()


def test_the_newest_sdk_makes_snapshots_and_sandboxes_from_images(
    instance: Instance, image: str
) -> None:
    run_driver(instance, "snapshots", image)


def test_the_newest_sdk_builds_images(registry: Registry, instance: Instance, image: str) -> None:
    # The default image under the name that Docker Hub has for what the SDK begins with.
    hub = f"{registry.url.removeprefix('http://')}/library/python:3.12-slim-bookworm"
    copied = [f"docker://{image}", f"docker://{hub}"]
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run(["skopeo", "copy", "--quiet", *plain, *copied], check=True)
    run_driver(instance, "builds")


def test_a_snapshot_of_a_sandbox_has_no_secret_of_it(instance: Instance, api: Api) -> None:
    canary = secrets.token_hex(20)
    with api.sandbox(env={"SECRET": canary}) as source:
        source.check("echo kept > ~/kept && echo $SECRET | wc -c")
        name = f"s-{secrets.token_hex(6)}"
        answer = api.call("POST", f"/sandbox/{source.id}/snapshot", json={"name": name})
        assert answer.json()["state"] == "started", answer.text
        source.stop()
        stopped = api.call("POST", f"/sandbox/{source.id}/snapshot", json={"name": f"{name}-2"})
        assert stopped.json()["state"] == "stopped", stopped.text
        for each in (name, f"{name}-2"):
            with api.sandbox(snapshot=each) as copy:
                assert copy.check("cat ~/kept").strip() == "kept"
                assert copy.check("env | grep -c SECRET || true").strip() == "0"
            ref = api.call("GET", f"/snapshots/{each}").json()["ref"].rpartition("-")[2]
            described = (instance.data / "images" / f"{ref}.json").read_text()
            assert canary not in described
    layers = instance.data / "images" / "layers"
    found = subprocess.run(["grep", "-rlsF", canary, layers], capture_output=True, check=False)
    assert found.stdout == b""
    for each in (name, f"{name}-2"):
        assert api.call("DELETE", f"/snapshots/{each}").status_code == 200
