"""A cluster for each module of tests, and its API.

``YURT_TEST_CLUSTER=DIRECTORY`` names one that is there already, as ``make cluster`` makes one in
``.cluster``: it is used as it is, and stays.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import making
from tests.cluster.cluster import Cluster
from tests.conftest import leaving_nothing
from tests.support.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Api


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Taken away at the end; whatever it leaves on the machine is an error."""
    if there := os.environ.get("YURT_TEST_CLUSTER"):
        yield Cluster.load(Path(there))
        return
    with making.temporary() as made:
        yield made


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Remote:
    return Remote(cluster.env["DAYTONA_API_URL"], cluster.env["DAYTONA_API_KEY"])


@pytest.fixture(scope="module")
def api(server: Remote) -> Iterator[Api]:
    """The cluster's API with its first key. No module may leave a sandbox behind."""
    with leaving_nothing(server, seconds=60) as client:
        yield client
