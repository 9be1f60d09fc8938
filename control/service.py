"""Everything that the API calls, in one hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from control.keys import KeyRing
    from control.reports import Reports
    from control.sandboxes import Sandboxes
    from control.settings import Settings
    from control.store import Store


@dataclass(frozen=True, slots=True)
class Service:
    """The use cases; ``node_keys`` are what the messages of each node are sealed with."""

    settings: Settings
    store: Store
    sandboxes: Sandboxes
    keys: KeyRing
    reports: Reports
    node_keys: Mapping[str, bytes]
    now: Callable[[], datetime]
