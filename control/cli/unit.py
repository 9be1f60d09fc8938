"""What systemd is told of a server. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UNWRITABLE = re.compile(r"[\"'\\\x00-\x1f]")
_UNSAFE = re.compile(r'([\\"$`])')

# Only the server itself is stopped: its sandboxes are of this unit's group and go on, also if one
# of their processes runs out of memory. Delegating keeps the controllers that they are limited by.
_UNIT = """\
# Written by `yurt service install`; what the server is to be like is in {settings}.
[Unit]
Description=Yurt: sandboxes for AI agents
Wants=network-online.target
After=network-online.target
RequiresMountsFor={data}

[Service]
Type=notify
ExecStart={program} up --no-demo
EnvironmentFile={settings}
Environment=HOME=/root
Slice=yurt.slice
Delegate=cpu memory pids
KillMode=process
TimeoutStartSec=infinity
TimeoutStopSec=60
Restart=on-failure
RestartSec=2
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"""


def is_unit_name(text: str) -> bool:
    """Tell whether a unit may be called so."""
    return _NAME.fullmatch(text) is not None


def service_unit(program: Path, settings: Path, data: Path) -> str:
    """Write a unit that runs ``program`` with the variables in the file ``settings``.

    Raises:
        ValueError: a path cannot be written there.
    """
    return _UNIT.format(program=_quoted(program), settings=settings, data=_quoted(data))


def environment_file(variables: Mapping[str, str]) -> str:
    """Write variables as systemd reads them.

    Raises:
        ValueError: a value has more than one line.
    """
    lines = []
    for name, value in sorted(variables.items()):
        if "\n" in value:
            raise ValueError(f"{name} has more than one line")
        escaped = _UNSAFE.sub(r"\\\1", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def _quoted(path: Path) -> str:
    """Write a path as one word of a unit, which has no form for some characters."""
    text = str(path)
    if _UNWRITABLE.search(text):
        raise ValueError(f"{text!r} has a quote, a backslash or a control character in it")
    return '"{}"'.format(text.replace("%", "%%"))
