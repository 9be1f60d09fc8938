"""What Yurt needs of a machine: each need with what was found and what to do about it.

Looks only; the one thing that it may change is that the kernel loads a module for a look.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from control.cli import forwarding, ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control.settings import Settings

KERNEL = (6, 1)
RUNC = (1, 1, 5)
GIB = 1 << 30
MEMORY_BYTES = 4 * GIB
SPACE_BYTES = 10 * GIB
LEAST_SPACE_BYTES = 2 * GIB
PROGRAMS = (
    *("runc", "nft", "ip", "mkfs.ext4", "e2fsck", "resize2fs", "setpriv", "tar", "zstd", "skopeo"),
    *("mmdebstrap", "openssl"),
)
# A disk is a sparse file behind a loop device, and a layer an id-mapped mount: these can do both.
FILE_SYSTEMS = ("ext4", "ext3", "xfs", "btrfs", "f2fs")


class Verdict(StrEnum):
    """``FAIL`` keeps Yurt from working, ``WARN`` only some of it."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One need: what was found, and what to do if that is not enough."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def machine_checks(settings: Settings) -> Iterator[Check]:
    """Look at the machine, independently of whether Yurt is up."""
    yield root(os.geteuid())
    yield kernel(os.uname().release)
    yield programs()
    yield runc()
    yield control_groups()
    yield loop_devices()
    yield overlay()
    yield user_namespaces()
    yield data_directory(settings.data)
    yield space(settings.data)
    yield memory()
    yield addresses(ipaddress.IPv4Network(settings.subnet))
    yield from forward_rules()
    yield names(settings.domains[0])


def port_checks(settings: Settings) -> Iterator[Check]:
    """Look at the ports that clients connect to; they are taken while Yurt is up."""
    for address in settings.addresses:
        name = f"port {address}:{settings.port}"
        if ports.can_listen(address, settings.port):
            yield Check(name, Verdict.OK, "free")
        else:
            holder = ports.holder(settings.port)
            advice = "stop it, or choose another port by YURT_PORT"
            yield Check(name, Verdict.FAIL, f"taken by {holder}", advice)


def root(uid: int) -> Check:
    """Server commands mount, make namespaces and set up networks."""
    if uid == 0:
        return Check("root", Verdict.OK, "yes")
    return Check("root", Verdict.FAIL, f"user id {uid}", "run this as root, e.g. with sudo")


def kernel(release: str) -> Check:
    """Id-mapped overlay layers need a new enough kernel."""
    floor = ".".join(map(str, KERNEL))
    if version_of(release)[:2] >= KERNEL:
        return Check("kernel", Verdict.OK, release)
    return Check("kernel", Verdict.FAIL, release, f"needs Linux {floor} or newer")


def programs() -> Check:
    """The programs that a runner and the first start call."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return Check("programs", Verdict.OK, ", ".join(PROGRAMS))
    advice = "`./yurt up` installs them where apt is; else install them by hand"
    return Check("programs", Verdict.FAIL, f"missing: {', '.join(missing)}", advice)


def runc() -> Check:
    """An older one has known ways out of a container."""
    floor = ".".join(map(str, RUNC))
    said = _output("runc", "--version")
    found = re.search(r"runc version (\S+)", said)
    if found is None:
        return Check("runc", Verdict.FAIL, "not found", f"install runc {floor} or newer")
    if version_of(found[1]) >= RUNC:
        return Check("runc", Verdict.OK, found[1])
    return Check("runc", Verdict.FAIL, found[1], f"needs runc {floor} or newer")


def control_groups(root: Path = Path("/sys/fs/cgroup")) -> Check:
    """Limits of memory, processor time and processes, in either version."""
    wanted = ("memory", "cpu", "pids")
    listed = root / "cgroup.controllers"
    if listed.exists():
        version, offered = "v2", listed.read_text().split()
    else:
        version, offered = "v1", [name for name in wanted if (root / name / "tasks").exists()]
    missing = [name for name in wanted if name not in offered]
    if missing:
        advice = "boot with these controllers on (cgroup_enable=memory)"
        found = f"{version} without {', '.join(missing)}"
        return Check("control groups", Verdict.FAIL, found, advice)
    places = [root] if version == "v2" else [root / name for name in wanted]
    if not all(os.access(place, os.W_OK) for place in places):
        advice = "mount /sys/fs/cgroup writable; in a container, delegate it"
        return Check("control groups", Verdict.FAIL, f"{version}, read-only", advice)
    return Check("control groups", Verdict.OK, f"{version} with {', '.join(wanted)}")


def loop_devices(control: Path = Path("/dev/loop-control")) -> Check:
    """A sandbox's disk is a file behind one."""
    if not control.exists():
        _output("modprobe", "loop")
    if control.exists():
        return Check("loop devices", Verdict.OK, str(control))
    advice = "load the module loop; in a container, hand in /dev/loop-control and /dev/loopN"
    return Check("loop devices", Verdict.FAIL, f"no {control}", advice)


def overlay(listed: Path = Path("/proc/filesystems")) -> Check:
    """A sandbox's root is its disk over the layers of an image."""
    for _ in range(2):
        if "overlay" in listed.read_text().split():
            return Check("overlay", Verdict.OK, "yes")
        _output("modprobe", "overlay")
    return Check("overlay", Verdict.FAIL, "not in this kernel", "load the module overlay")


def user_namespaces(limit: Path = Path("/proc/sys/user/max_user_namespaces")) -> Check:
    """Each sandbox has its own."""
    if not limit.exists():
        return Check(
            "user namespaces", Verdict.FAIL, "not in this kernel", "use a kernel with them"
        )
    if int(limit.read_text()) == 0:
        advice = "sysctl -w user.max_user_namespaces=15000"
        return Check("user namespaces", Verdict.FAIL, "switched off", advice)
    return Check("user namespaces", Verdict.OK, "yes")


def data_directory(data: Path) -> Check:
    """What the file system of the data directory must be able to do."""
    kind = file_system(_existing(data), Path("/proc/self/mountinfo").read_text())
    found = f"{data} on {kind}"
    if kind in FILE_SYSTEMS:
        return Check("data directory", Verdict.OK, found)
    advice = f"choose a directory on one of {', '.join(FILE_SYSTEMS)} by YURT_DATA"
    return Check("data directory", Verdict.FAIL, found, advice)


def space(data: Path) -> Check:
    """Room for images and disks."""
    volume = os.statvfs(_existing(data))
    free = volume.f_bavail * volume.f_frsize
    found = f"{free / GIB:.1f} GiB free"
    advice = f"make room, or set YURT_DATA; {SPACE_BYTES // GIB} GiB are a good start"
    if free < LEAST_SPACE_BYTES:
        return Check("space", Verdict.FAIL, found, advice)
    verdict = Verdict.OK if free >= SPACE_BYTES else Verdict.WARN
    return Check("space", verdict, found, "" if verdict is Verdict.OK else advice)


def memory(info: Path = Path("/proc/meminfo")) -> Check:
    """Room for sandboxes at work; 5 % are forgiven, which firmware takes from 4 GB."""
    total = int(re.findall(r"MemTotal:\s+(\d+)", info.read_text())[0]) << 10
    found = f"{total / GIB:.1f} GiB"
    if total >= MEMORY_BYTES * 0.95:
        return Check("memory", Verdict.OK, found)
    return Check("memory", Verdict.WARN, found, "4 GiB are a good start; fewer sandboxes fit")


def addresses(subnet: ipaddress.IPv4Network) -> Check:
    """The links to sandboxes have addresses of their own, that nothing else here may have."""
    clashes = clashing_routes(subnet, _output("ip", "-j", "-4", "route", "show", "table", "all"))
    if not clashes:
        return Check("addresses", Verdict.OK, f"{subnet} is free")
    advice = (
        "what has addresses in it cannot be reached from here while a sandbox has the same; "
        "choose another network by YURT_SUBNET"
    )
    inside = any(ipaddress.IPv4Network(route).subnet_of(subnet) for route in clashes)
    verdict = Verdict.FAIL if inside else Verdict.WARN
    found = ", ".join(f"{route} ({device})" for route, device in clashes.items())
    return Check("addresses", verdict, f"{subnet} clashes with {found}", advice)


def forward_rules() -> Iterator[Check]:
    """Rules of others that drop what sandboxes send."""
    found = forwarding.obstacles()
    if not found:
        yield Check("forward rules", Verdict.OK, "nothing drops what sandboxes send")
    for obstacle in found:
        if forwarding.is_handled(obstacle):
            found_text = f"{obstacle.owner} drops, but lets sandboxes through"
            yield Check("forward rules", Verdict.OK, found_text)
        elif obstacle.chain:
            advice = f"`./yurt up` puts an accept into the chain {obstacle.chain}"
            yield Check("forward rules", Verdict.WARN, f"{obstacle.owner} drops", advice)
        else:
            yield Check("forward rules", Verdict.WARN, f"{obstacle.owner} drops", obstacle.advice)


def names(domain: str) -> Check:
    """Programs on this machine look preview hosts up; browsers know *.localhost by themselves."""
    host = f"3000-abc.{domain}"
    if resolves(host):
        return Check("names", Verdict.OK, f"{host} is known")
    if domain == "localhost":
        advice = "install libnss-myhostname; `myhostname` in the line hosts of /etc/nsswitch.conf"
    else:
        advice = f"make a wildcard entry *.{domain} in your DNS"
    return Check("names", Verdict.WARN, f"{host} is unknown", advice)


def resolves(host: str) -> bool:
    """Tell whether a name has an address for programs on this machine."""
    try:
        return bool(socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM))
    except OSError:
        return False


def file_system(path: Path, mountinfo: str) -> str:
    """Name the type of the file system that ``path`` is on, by ``/proc/self/mountinfo``."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        mounted, _, rest = line.partition(" - ")
        point = mounted.split()[4].replace("\\040", " ")
        # A later line of the same place lies over an earlier one.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind


def clashing_routes(subnet: ipaddress.IPv4Network, routes: str) -> dict[str, str]:
    """Find the routes (``ip -j route``) that are not ours and overlap: network to device."""
    clashes = {}
    for route in json.loads(routes or "[]"):
        destination, device = route.get("dst", "default"), str(route.get("dev", "?"))
        if destination == "default" or device.startswith("yv"):
            continue
        network = ipaddress.IPv4Network(destination, strict=False)
        if network.overlaps(subnet):
            clashes[str(network)] = device
    return clashes


def version_of(text: str) -> tuple[int, ...]:
    """Read the numbers of a version, at most three."""
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("-")[0])[:3])


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path.resolve()


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
