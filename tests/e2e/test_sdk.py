"""Stock SDKs, each in its own environment, do everything on fresh random content."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.sdk.__main__ import DEFAULT_BYTES, drive
from tests.e2e.sdk.environments import DRIVERS

if TYPE_CHECKING:
    from tests.support.remote import Server

pytestmark = pytest.mark.e2e

SIZE = int(os.environ.get("YURT_TEST_LARGE_BYTES", DEFAULT_BYTES))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_stock_sdk_does_everything(server: Server, driver: str) -> None:
    ran = drive(driver, server.variables, SIZE, capture=True)
    print(ran.stdout)
    summary = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else None
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert summary is not None
    assert summary["failed"] is None
