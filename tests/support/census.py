"""Counts what Yurt can leave on a host, so that two counts can be compared.

    python -m tests.support.census --data DIRECTORY [--save FILE | --compare FILE]

Nine kinds: processes, mounts (in every mount namespace), loop devices, network namespaces,
interfaces, packet filter rules, control groups, files, and kernel settings. Processes are ours when
they mention the data directory or are in our control groups; the rest is counted for the whole
host, since a leftover does not say whose it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from jobs.runner.network import has_link

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
NAME = "yurt"
FOLDERS = ("/tmp", "/var/tmp", "/run", "/run/netns", "/run/yurt", "/dev/shm", "/var/lib")
# What others may have set up, and what must be as it was. Of the rest another instance may end
# something of its own at any time.
OF_THE_HOST = ("packet filter", "setting")
OWN_TABLE = "table inet yurt "

_ELEMENT = re.compile(r'"(yv\d+)" [.:] [^,}]+')

Census = dict[str, set[str]]


def take(data: Path) -> Census:
    """Count everything that belongs, or could belong, to the instance with this data directory."""
    pids = [entry.name for entry in PROC.iterdir() if entry.name.isdigit()]
    return {
        "process": _processes(pids, str(data)),
        "mount": _mounts(pids, str(data)),
        "loop device": _loop_devices(),
        "network namespace": _namespaces(pids),
        "interface": {name for _, name in socket.if_nameindex()},
        "packet filter": _packet_filter(),
        "control group": _control_groups(),
        "file": _files(data),
        "setting": _settings(),
    }


def difference(before: Census, after: Census) -> list[str]:
    """List what was left, and what was taken away that was the host's own, one line each."""
    left = [
        f"left: {kind}: {item}" for kind in before for item in sorted(after[kind] - before[kind])
    ]
    lost = [
        f"lost: {kind}: {item}"
        for kind in OF_THE_HOST
        for item in sorted(before[kind] - after[kind])
        if not item.startswith(OWN_TABLE)
    ]
    return left + lost


def _own_family() -> set[str]:
    """This process and its ancestors, which may name the data directory in their arguments."""
    family, pid = set(), os.getpid()
    while pid > 0:
        family.add(str(pid))
        status = (PROC / str(pid) / "stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
    return family


def _read(path: Path) -> str:
    # A process may end, or be a kernel thread, between two reads.
    with contextlib.suppress(OSError):
        return path.read_bytes().decode(errors="replace")
    return ""


def _link(path: Path) -> str:
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""


def _processes(pids: list[str], data: str) -> set[str]:
    found = set()
    for pid in set(pids) - _own_family():
        directory = PROC / pid
        if _mentions(directory, data):
            command = " ".join(_read(directory / "cmdline").split("\0")).strip()
            started = _read(directory / "stat").rpartition(")")[2].split()
            if started and started[0] != "Z":
                found.add(f"{pid} (start {started[19]}) {command[:120]}")
    return found


def _mentions(directory: Path, data: str) -> bool:
    if f"/{NAME}/" in _read(directory / "cgroup"):
        return True
    if any(data in _read(directory / name) for name in ("cmdline", "environ")):
        return True
    links = [directory / name for name in ("cwd", "exe", "root")]
    with contextlib.suppress(OSError):
        links += (directory / "fd").iterdir()
    return any(_link(link).startswith(data) for link in links)


def _mounts(pids: list[str], data: str) -> set[str]:
    """Mounts that name the data directory, Yurt, or a bound namespace, in every mount namespace."""
    found, seen = set(), set()
    for pid in pids:
        namespace = _link(PROC / pid / "ns" / "mnt")
        if namespace in seen:
            continue
        seen.add(namespace)
        for line in _read(PROC / pid / "mountinfo").splitlines():
            if data in line or f"/{NAME}" in line or " nsfs " in line:
                found.add(f"{namespace} {line.partition(' ')[2]}")
    return found


def _loop_devices() -> set[str]:
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return {f"{file.parts[3]} {_read(file).strip()}" for file in files}


def _namespaces(pids: list[str]) -> set[str]:
    return {link for pid in pids if (link := _link(PROC / pid / "ns" / "net"))}


def _packet_filter() -> set[str]:
    listed = subprocess.run(
        ["nft", "--stateless", "list", "ruleset"], capture_output=True, text=True, check=True
    )
    table, lines = "", set()
    for line in listed.stdout.splitlines():
        if line.startswith("table"):
            table = line
        # What a link has that is there belongs to a running sandbox, and is counted with it.
        rest = _ELEMENT.sub(lambda found: "" if has_link(found[1]) else found[0], line)
        rest = rest.replace("elements = ", "").strip(" \t{},")
        if rest:
            lines.add(f"{table} {rest}")
    return lines


def _control_groups() -> set[str]:
    roots = [*CGROUPS.glob(NAME), *CGROUPS.glob(f"*/{NAME}")]
    # What vanishes meanwhile, with its sandbox, is no error to ``walk``.
    return {path for root in roots for path, _, _ in os.walk(root)}


def _files(data: Path) -> set[str]:
    found = {str(data)} if data.exists() else set()
    for folder in map(Path, FOLDERS):
        if folder.is_dir():
            inside = folder.iterdir()
            found |= {str(path) for path in inside if NAME in str(path)}
    return found


def _settings() -> set[str]:
    ours = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/forwarding")
    settings = {f"{path} = {_read(Path(path)).strip()}" for path in ours}
    for path in Path("/proc/sys/net/ipv4/conf").glob("*/forwarding"):
        if not path.parent.name.startswith("yv"):  # goes with its interface, which is counted
            settings.add(f"{path} = {_read(path).strip()}")
    return settings


def main() -> int:
    """Print a census, save it, or compare with a saved one (status 1 when they differ)."""
    parser = argparse.ArgumentParser(description="Count what Yurt can leave on a host.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument("--save", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, metavar="FILE")
    chosen = parser.parse_args()
    now = take(chosen.data.resolve())
    if chosen.save:
        chosen.save.write_text(json.dumps({kind: sorted(items) for kind, items in now.items()}))
        return 0
    if chosen.compare:
        saved = json.loads(chosen.compare.read_text())
        lines = difference({kind: set(items) for kind, items in saved.items()}, now)
        print("\n".join(lines) or "nothing was left")
        return 1 if lines else 0
    for kind, items in now.items():
        print(f"{kind}: {len(items)}", *sorted(items), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
