"""A clean Debian 12 with nothing but git and python3, booted with its own systemd.

systemd-nspawn gives it its own mounts, processes and network; the kernel and its control groups are
the host's. What a site gives to every machine of its own comes from the host: the resolver, the
extra CA certificates, and pip's setting to believe them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cache import cached
from tests.support.netns import internet_for, namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "dbus", "git", "python3")
LOOP_DEVICES = 24
# systemd-nspawn's own settings: /proc/sys can be written, and /tmp is on the disk.
AS_ON_A_MACHINE = {"SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1", "SYSTEMD_NSPAWN_TMPFS_TMP": "0"}
CERTIFICATES = Path("/usr/local/share/ca-certificates")
HERE, THERE, NETWORK = "172.29.86.1/30", "172.29.86.2/30", "172.29.86.0/30"

JOB_UNIT = """\
[Unit]
Description=Run the job, then power off
After=multi-user.target

[Service]
Type=oneshot
Environment=HOME=/root USER=root TERM=xterm LANG=C.UTF-8
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WorkingDirectory=/root
ExecStart=/bin/bash -c '/root/job >/root/job.log 2>&1; echo $? >/root/job.exit'
ExecStopPost=/usr/bin/systemctl --no-block poweroff
TimeoutStartSec=infinity
LimitNOFILE=1048576

[Install]
WantedBy=default.target
"""

# pip 23 brings certificates of its own; a site that replaces TLS certificates sets this.
PIP_CONF = "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n"


@dataclass(frozen=True, slots=True)
class Result:
    """What the job left. ``code`` is None when it did not come to an end."""

    code: int | None
    output: str
    seconds: float


def base() -> Path:
    """Return the cached archive of the clean system, made now (half a minute) when missing."""
    return cached("bare", " ".join([SUITE, *PACKAGES]), _make) / "root.tar"


def _make(directory: Path) -> None:
    subprocess.run(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            SUITE,
            directory / "root.tar",
        ],
        check=True,
    )


def run(
    job: str,
    repository: Path,
    *,
    timeout_seconds: float = 3600,
    progress: Callable[[str], None] = lambda _: None,
    keep: Mapping[str, Path] | None = None,
) -> Result:
    """Boot a clean machine, run ``job`` as root in it, and return what it printed.

    The job finds ``repository`` at ``/source``, to clone from and not to write to. What is to be
    kept of the machine is named by ``keep``: path below its root to a path here.
    """
    with tempfile.TemporaryDirectory(prefix="yurt-bare-", dir="/var/tmp") as name:
        root = Path(name) / "root"
        root.mkdir()
        subprocess.run(["tar", "-xpf", base(), "-C", root], check=True)
        _settle_in(root, job)
        started = time.monotonic()
        with (
            namespace(HERE, [THERE]) as network,
            internet_for(network, NETWORK),
            _booted(root, repository, network.path, Path(name) / "console") as machine,
        ):
            _follow(machine, root / "root/job.log", timeout_seconds, progress)
        for inside, here in (keep or {}).items():
            if (root / inside).exists():
                shutil.move(root / inside, here)
        code = root / "root/job.exit"
        log = root / "root/job.log"
        return Result(
            code=int(code.read_text()) if code.exists() else None,
            output=log.read_text(errors="replace") if log.exists() else "",
            seconds=time.monotonic() - started,
        )


def _settle_in(root: Path, job: str) -> None:
    """Put in what a site puts into its machines, and the job."""
    shutil.copytree(CERTIFICATES, root / "usr/local/share/ca-certificates", dirs_exist_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/pip.conf").write_text(PIP_CONF)
    (root / "etc/hostname").write_text("yurt-bare\n")
    (root / "root/job").write_text(job)
    (root / "root/job").chmod(0o755)
    (root / "etc/systemd/system/job.service").write_text(JOB_UNIT)
    wants = root / "etc/systemd/system/default.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "job.service").symlink_to("/etc/systemd/system/job.service")


@contextlib.contextmanager
def _booted(
    root: Path, repository: Path, network: Path, console: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Boot it; at the end it has powered off, or is asked to, or is killed."""
    loops = [Path(f"/dev/loop{number}") for number in range(LOOP_DEVICES)]
    for number, loop in enumerate(loops):
        if not loop.exists():
            os.mknod(loop, 0o60660, os.makedev(7, number))
    with console.open("wb") as output:
        machine = subprocess.Popen(
            [
                *("systemd-nspawn", "--register=no", "--keep-unit", "--quiet", "--boot"),
                *(f"--directory={root}", f"--machine=yurt-bare-{os.getpid()}"),
                *("--capability=all", "--system-call-filter=@mount @keyring bpf"),
                *(f"--network-namespace-path={network}", "--resolv-conf=off", "--console=pipe"),
                *(f"--bind-ro={repository}:/source", "--bind=/sys/fs/cgroup"),
                *(f"--bind={path}" for path in (Path("/dev/loop-control"), *loops)),
            ],
            env=os.environ | AS_ON_A_MACHINE,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield machine
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if machine.poll() is None:
                machine.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    machine.wait(60)
        print(console.read_bytes().decode(errors="replace")[-2000:] if machine.returncode else "")


def _follow(
    machine: subprocess.Popen[bytes], log: Path, seconds: float, progress: Callable[[str], None]
) -> None:
    """Hand on what the job prints until the machine is off or time is up."""
    end, offset = time.monotonic() + seconds, 0
    while True:
        ended = machine.poll() is not None
        if log.exists():
            with log.open("rb") as file:
                file.seek(offset)
                text = file.read()
                offset = file.tell()
            progress(text.decode(errors="replace"))
        if ended or time.monotonic() > end:
            return
        time.sleep(0.5)
