"""Run a program in a root file system: its own mounts and processes, the layer untouched below."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BUSYBOX = Path("/bin/busybox") if Path("/bin/busybox").exists() else Path("/usr/bin/busybox")
# Everything is mounted in a mount namespace that ends with the program.
_ENTER = """
set -eu
mount --make-rprivate /
mount -t tmpfs none "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay -o "lowerdir=$LAYER,upperdir=$WORK/upper,workdir=$WORK/work" none "$WORK/root"
mkdir -p "$WORK/root/opt/yurt" "$WORK/root/proc" "$WORK/root/dev"
mount -t proc none "$WORK/root/proc"
mount --rbind /dev "$WORK/root/dev"
cat /etc/resolv.conf 2>/dev/null >"$WORK/resolv.conf" || :
[ ! -d "$WORK/root/etc" ] || cp "$WORK/resolv.conf" "$WORK/root/etc/resolv.conf"
[ -z "$BUNDLE" ] || mount --bind "$BUNDLE" "$WORK/root/opt/yurt"
exec chroot $AS "$WORK/root" "$@"
"""


def run_inside(
    layer: Path,
    work: Path,
    *command: str,
    bundle: Path | None = None,
    env: Mapping[str, str] | None = None,
    user: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a command over a layer, as root or as ``user``, with nothing but ``env`` around it."""
    work.mkdir(exist_ok=True)
    inner = ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in (env or {}).items()), *command]
    entered = {
        "PATH": os.environ["PATH"],
        "LAYER": str(layer),
        "WORK": str(work),
        "BUNDLE": str(bundle or ""),
        "AS": f"--userspec={user}" if user else "",
    }
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "-", *inner],
        env=entered,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def busybox_root(root: Path) -> Path:
    """Make a root file system that holds busybox and nothing else: no C library, no Python."""
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    program = root / "usr/bin/busybox"
    program.write_bytes(BUSYBOX.read_bytes())
    program.chmod(0o755)
    for name in ("sh", "cat", "env"):
        (root / "usr/bin" / name).symlink_to("busybox")
    return root
