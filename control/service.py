"""Everything that the API calls, in one hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from control.archives import Archives
    from control.keys import KeyRing
    from control.model import Resources, Sandbox
    from control.organizations import Organizations
    from control.reports import Reports
    from control.sandboxes import Sandboxes
    from control.settings import Settings
    from control.snapshots import Snapshots
    from control.store import Store
    from control.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Service:
    """The use cases.

    ``sandboxes`` gives those of an organisation; ``node_key`` what the messages of a node are
    sealed with, None for one that is not known; ``tell_use`` tells a
    sandbox that somebody uses it; ``require_growth`` requires room for one that is to be larger;
    ``troubles`` says what does not answer, by its name;
    ``metrics`` tells what is counted.
    """

    settings: Settings
    store: Store
    archives: Archives
    sandboxes: Callable[[str], Sandboxes]
    volumes: Callable[[str], Volumes]
    snapshots: Callable[[str], Snapshots]
    organizations: Organizations
    keys: KeyRing
    reports: Reports
    node_key: Callable[[str], Awaitable[bytes | None]]
    tell_use: Callable[[Sandbox], Awaitable[None]]
    require_growth: Callable[[Sandbox, Resources], Awaitable[None]]
    troubles: Callable[[], Mapping[str, str]]
    metrics: Callable[[], Awaitable[bytes]]
    now: Callable[[], datetime]
