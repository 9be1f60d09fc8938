"""What tests of several tiers share: one server for the whole run, and sandboxes in it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.api import Api
from tests.support.instance import Instance
from tests.support.remote import Remote
from tests.support.waiting import eventually
from tests.tiers import IN_FOLDER, TIERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Sandbox
    from tests.support.remote import Server

# Whichever test comes first pays for the default snapshot, which is made from packages.
FIRST_START_SECONDS = 900

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing of other tiers when one is asked for: that costs more than the unit tests."""
    asked = config.getoption("tier", default=[]) or [config.getoption("markexpr")]
    folder = collection_path.name
    if collection_path.parent != HERE or folder not in TIERS or not set(asked) <= set(TIERS):
        return None
    return not set(IN_FOLDER.get(folder, (folder,))) & set(asked) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "server" in fixtures and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(FIRST_START_SECONDS))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server that ``--server`` names, else one of the tests' own.

    That one is purged at the end; whatever it leaves on the host is an error.
    """
    if url := request.config.getoption("server", default=""):
        yield Remote(url, request.config.getoption("key"))
        return
    with Instance.temporary() as instance:
        instance.up()
        yield instance


@pytest.fixture(scope="session")
def embedded(server: Server) -> Instance:
    """The tests' own server, for what looks into its data or uses server commands.

    With ``--server`` such tests are not collected.
    """
    assert isinstance(server, Instance)
    return server


@pytest.fixture(scope="session")
def api(server: Server) -> Iterator[Api]:
    """The server's API with its first key. No test may leave a sandbox behind."""
    with leaving_nothing(server, seconds=30) as client:
        yield client


@contextlib.contextmanager
def leaving_nothing(server: Server, *, seconds: float) -> Iterator[Api]:
    """A client of a server that has no sandbox any more when it is closed."""
    client = Api(server)
    yield client
    eventually(lambda: not left_in(client), f"{left_in(client)} to be gone", seconds=seconds)
    client.close()


def left_in(client: Api) -> dict[str, str]:
    """Every sandbox that is not destroyed, and its state."""
    listed = client.call("GET", "/sandbox").json()["items"]
    return {item["id"]: item["state"] for item in listed if item["state"] != "destroyed"}


@pytest.fixture
def sandbox(api: Api) -> Iterator[Sandbox]:
    """A started sandbox from the default snapshot."""
    with api.sandbox() as made:
        yield made
