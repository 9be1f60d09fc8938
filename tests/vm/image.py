"""A virtual machine's disk with Debian 12, its own kernel, systemd and cgroup v2.

It needs no network when it runs: the system packages are in it, and everything else comes on a
second disk (see ``run.py``). Made once and cached; a changed recipe makes a new one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.cache import cached

SUITE = "bookworm"
ROOT_DISK_BYTES = 16 << 30

# What the guest needs to boot and to report, besides what the wrapper would install.
PACKAGES = (
    *("dbus", "git", "initramfs-tools", "procps", "python3", "python3-venv"),
    *("strace", "systemd-sysv", "tcpdump", "udev", "zstd"),
)
WRAPPER = Path(__file__).parents[2] / "yurt"

# Only what the guest's two disks and its console need: a small initrd is unpacked sooner, and
# everything is about 25 times slower in software emulation.
INITRD_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")

JOB_UNIT = """\
[Unit]
Description=Run the job from the second disk, then power off

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/run-job
ExecStopPost=/usr/bin/systemctl --no-block poweroff
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""

# The output is read from the disk after power-off; the console only shows progress meanwhile.
JOB_SCRIPT = """\
#!/bin/sh
mkdir -p /job
mount /dev/vdb /job || exit 1
while read -r number destination; do
    if [ -d "/job/copy/$number" ]; then
        mkdir -p "$destination"
    else
        mkdir -p "$(dirname "$destination")" && touch "$destination"
    fi
    mount --bind "/job/copy/$number" "$destination"
done < /job/copies
cd /root
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
{ /job/script; echo $? > /job/out/exit; } 2>&1 | tee /job/out/output > /dev/hvc0
dmesg > /job/out/dmesg
journalctl -b --no-pager > /job/out/journal
sync
"""


@dataclass(frozen=True, slots=True)
class Image:
    """The files that QEMU boots from; ``disk`` is never written to."""

    disk: Path
    kernel: Path
    initrd: Path


def image() -> Image:
    """Return the cached image, made now (several minutes) when it is missing."""
    recipe = "\n".join(
        [SUITE, str(ROOT_DISK_BYTES), *_packages(), *INITRD_MODULES, JOB_UNIT, JOB_SCRIPT]
    )
    entry = cached("vm", recipe, _make)
    return Image(disk=entry / "root.img", kernel=entry / "vmlinuz", initrd=entry / "initrd.img")


def _packages() -> list[str]:
    """List what is installed: ours, and the table in the wrapper script."""
    table = re.search(r'^server_packages="(.*?)"$', WRAPPER.read_text(), re.DOTALL | re.MULTILINE)
    assert table is not None
    return [*PACKAGES, *(line.split()[0] for line in table[1].splitlines() if line.strip())]


def _make(directory: Path) -> None:
    root = directory / "root"
    _bootstrap(root, directory)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(next((root / "boot").glob(f"{name}-*")), directory / name)
    disk = directory / "root.img"
    with disk.open("wb") as file:
        file.truncate(ROOT_DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk], check=True)
    shutil.rmtree(root)


def _bootstrap(root: Path, scratch: Path) -> None:
    """Install Debian into ``root``, with the job service in it."""
    dpkg = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    )
    kernel = f"linux-image-cloud-{dpkg.stdout.strip()}"
    (scratch / "modules").write_text("".join(f"{name}\n" for name in INITRD_MODULES))
    (scratch / "initramfs").write_text("MODULES=list\nCOMPRESS=zstd\n")
    (scratch / "unit").write_text(JOB_UNIT)
    (scratch / "script").write_text(JOB_SCRIPT)
    subprocess.run(
        [
            "mmdebstrap",
            "--mode=root",
            "--variant=apt",
            "--aptopt=Apt::Install-Recommends false",
            f"--include={','.join([*_packages(), kernel])}",
            "--essential-hook=mkdir -p $1/etc/initramfs-tools/conf.d",
            f"--essential-hook=upload {scratch}/modules /etc/initramfs-tools/modules",
            f"--essential-hook=upload {scratch}/initramfs /etc/initramfs-tools/conf.d/yurt-tests",
            f"--customize-hook=upload {scratch}/unit /etc/systemd/system/run-job.service",
            f"--customize-hook=upload {scratch}/script /usr/local/sbin/run-job",
            "--customize-hook=chmod 755 $1/usr/local/sbin/run-job",
            "--customize-hook=chroot $1 systemctl enable run-job.service",
            "--customize-hook=echo yurt-vm > $1/etc/hostname",
            SUITE,
            str(root),
        ],
        check=True,
    )
