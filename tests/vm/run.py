"""Run one script as root in a virtual machine with Debian's own kernel, systemd and cgroup v2.

    python -m tests.vm.run --script FILE [--copy SRC:DST]... [--memory MIB] [--timeout SECONDS]

Everything is in QEMU's software emulation: about 25 times slower than the machine itself, good for
function and not for times. The guest has no network. The root disk is thrown away afterwards; what
``--copy`` brings lies on a second disk and can be written to. What the script prints comes back,
its exit status is this command's, and the kernel's log is kept with ``--keep DIRECTORY``.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.image import Image, image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOM_BYTES = 8 << 30
NOT_FINISHED = 125

# A console that the machine does not have is ignored by the kernel.
KERNEL_ARGUMENTS = (
    *("root=/dev/vda", "rw", "fsck.mode=skip", "edd=off", "panic=-1"),
    *("systemd.getty_auto=no", "console=ttyAMA0", "console=ttyS0"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What the guest left on its disk. ``code`` is 125 when the script did not come to an end."""

    code: int
    output: str
    dmesg: str
    journal: str
    console: str
    seconds: float


def run(
    script: str,
    copies: Sequence[tuple[Path, str]] = (),
    *,
    memory_mib: int = 4096,
    timeout_seconds: float = 900,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Boot the machine, run ``script`` (with its own ``#!`` line) as root, and return what it left.

    ``copies`` are pairs of a file or directory here and an absolute path there.
    """
    with tempfile.TemporaryDirectory(prefix="yurt-vm-", dir="/var/tmp") as name:
        directory = Path(name)
        disk = _job_disk(directory, script, copies)
        started = time.monotonic()
        _boot(image(), disk, directory, memory_mib, timeout_seconds, progress)
        out = directory / "result"
        out.mkdir()
        subprocess.run(
            ["debugfs", "-R", f"rdump /out {out}", disk], check=True, capture_output=True
        )
        return _result(out / "out", directory / "console", time.monotonic() - started)


def _job_disk(directory: Path, script: str, copies: Sequence[tuple[Path, str]]) -> Path:
    """Make an ext4 image with the script, the copies and an empty ``out``."""
    tree = directory / "tree"
    (tree / "copy").mkdir(parents=True)
    (tree / "out").mkdir()
    (tree / "script").write_text(script)
    (tree / "script").chmod(0o755)
    lines = []
    for number, (source, destination) in enumerate(copies):
        subprocess.run(
            ["cp", "-a", "--sparse=always", source.resolve(), tree / "copy" / str(number)],
            check=True,
        )
        lines.append(f"{number} {destination}\n")
    (tree / "copies").write_text("".join(lines))
    used = subprocess.run(["du", "-sB1", tree], capture_output=True, text=True, check=True).stdout
    disk = directory / "job.img"
    with disk.open("wb") as file:
        file.truncate(int(used.split()[0]) * 5 // 4 + ROOM_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, disk], check=True)
    shutil.rmtree(tree)
    return disk


def _boot(
    system: Image,
    disk: Path,
    directory: Path,
    memory_mib: int,
    timeout_seconds: float,
    progress: Callable[[str], None] | None,
) -> None:
    """Run QEMU until the guest powers off or time is up."""
    shown = directory / "progress"
    shown.touch()
    command = [
        f"qemu-system-{platform.machine()}",
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(os.cpu_count() or 1)),
        *("-m", str(memory_mib), "-nic", "none", "-display", "none", "-no-reboot"),
        *("-kernel", str(system.kernel), "-initrd", str(system.initrd)),
        *("-append", " ".join(KERNEL_ARGUMENTS)),
        *("-drive", f"file={system.disk},format=raw,if=virtio,snapshot=on,cache=unsafe"),
        *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
        *("-serial", f"file:{directory / 'console'}"),
        *("-device", "virtio-serial", "-chardev", f"file,id=progress,path={shown}"),
        *("-device", "virtconsole,chardev=progress"),
    ]
    environment = {**os.environ, "TMPDIR": str(directory)}
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    follower = threading.Thread(target=_follow, args=(shown, machine, progress), daemon=True)
    if progress is not None:
        follower.start()
    try:
        machine.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        print(f"the machine did not power off within {timeout_seconds:.0f} s", file=sys.stderr)
    finally:
        if machine.poll() is None:
            machine.kill()
            machine.wait()
    if progress is not None:
        follower.join()


def _follow(
    shown: Path, machine: subprocess.Popen[bytes], progress: Callable[[str], None] | None
) -> None:
    """Hand what the guest prints to ``progress`` as it appears."""
    if progress is None:
        return
    with shown.open(encoding="utf-8", errors="replace") as file:
        ended = False
        while not ended:
            ended = machine.poll() is not None
            while text := file.read():
                progress(text)
            if not ended:
                time.sleep(0.2)


def _result(out: Path, console: Path, seconds: float) -> Result:
    def read(path: Path) -> str:
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    code = read(out / "exit").strip()
    return Result(
        code=int(code) if code else NOT_FINISHED,
        output=read(out / "output"),
        dmesg=read(out / "dmesg"),
        journal=read(out / "journal"),
        console=read(console),
        seconds=seconds,
    )


def _pair(text: str) -> tuple[Path, str]:
    source, separator, destination = text.partition(":")
    if not separator or not destination.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE:/ABSOLUTE/DESTINATION")
    if not Path(source).exists():
        raise argparse.ArgumentTypeError(f"{source} does not exist")
    return Path(source), destination


def main() -> int:
    """Run the command line and return the script's exit status."""
    parser = argparse.ArgumentParser(description="Run a script as root in a Debian 12 machine.")
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--copy", type=_pair, action="append", default=[], metavar="SRC:DST")
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY")
    chosen = parser.parse_args()

    def show(text: str) -> None:
        print(text, end="", flush=True)

    result = run(
        chosen.script.read_text(),
        chosen.copy,
        memory_mib=chosen.memory,
        timeout_seconds=chosen.timeout,
        progress=show,
    )
    if chosen.keep:
        chosen.keep.mkdir(parents=True, exist_ok=True)
        for name in ("output", "dmesg", "journal", "console"):
            (chosen.keep / name).write_text(getattr(result, name))
    if result.code == NOT_FINISHED:
        print(result.console[-4000:], file=sys.stderr)
    print(f"exit status {result.code} after {result.seconds:.0f} s", file=sys.stderr)
    return result.code


if __name__ == "__main__":
    sys.exit(main())
