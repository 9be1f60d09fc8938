"""Lists a whole root file system as root: runs inside a sandbox.

    python3 inventory.py OUTPUT

One JSON line per path: type, mode, owner, group, links, time, content digest or target, and
extended attributes (file capabilities among them). What is mounted over the root is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def mounted() -> set[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {line.split()[4].encode().decode("unicode_escape") for line in lines}
    return {Path(point) for point in points} - {Path("/")}


def walk(directory: Path, skipped: set[Path]) -> Iterator[Path]:
    yield directory
    for path in sorted(directory.iterdir()):
        if path in skipped:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from walk(path, skipped)
        else:
            yield path


def describe(path: Path) -> dict[str, object]:
    status = path.lstat()
    said: dict[str, object] = {
        "path": str(path),
        "type": stat.S_IFMT(status.st_mode),
        "mode": oct(stat.S_IMODE(status.st_mode)),
        "owner": status.st_uid,
        "group": status.st_gid,
        "attributes": {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        },
    }
    if stat.S_ISLNK(status.st_mode):
        said["content"] = str(path.readlink())
    elif stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            said["content"] = hashlib.file_digest(file, "sha256").hexdigest()
        said["size"] = status.st_size
        said["links"] = status.st_nlink
        said["time"] = status.st_mtime_ns
    return said


def main() -> None:
    with Path(sys.argv[1]).open("w") as output:
        for path in walk(Path("/"), mounted()):
            output.write(json.dumps(describe(path)) + "\n")


if __name__ == "__main__":
    main()
