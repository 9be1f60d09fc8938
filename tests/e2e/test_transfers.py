"""Transfers through the whole way: Traefik, gate, agent."""

from __future__ import annotations

import json
import os
from http.client import HTTPConnection, IncompleteRead
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from tests.support.api import Sandbox
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e
DOWNLOADS = 600


def test_no_download_is_cut_because_its_answer_came_too_soon(
    server: Server, sandbox: Sandbox
) -> None:
    """A Go proxy drops an answer that overtakes its own last look at the request's body.

    Without the gate's short wait about one of a hundred of these downloads ends at once: each
    request's head and body are sent apart, on a connection of its own, and the agent answers a
    file of this size in pieces within half a millisecond.
    """
    sandbox.upload(os.urandom(100_000), "/tmp/file")
    body = json.dumps({"paths": ["/tmp/file"]})
    headers = {
        "Authorization": f"Bearer {server.key}",
        "Content-Type": "application/json",
    }
    host = urlsplit(server.base_url).netloc
    cut = 0
    for _ in range(DOWNLOADS):
        connection = HTTPConnection(host, timeout=20)
        try:
            connection.request("POST", f"/toolbox/{sandbox.id}/files/bulk-download", body, headers)
            cut += len(connection.getresponse().read()) < 100_000
        except IncompleteRead:
            cut += 1
        finally:
            connection.close()
    assert cut == 0
