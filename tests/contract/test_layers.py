"""Layers from tar archives: true to owners and attributes, and deaf to hostile members."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from control.errors import InvalidError
from jobs.images import import_layer, layer_path
from jobs.runner import layers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
]
# `cap_net_raw=ep`, as setcap writes it.
NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def archive(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info in members:
            content = b"x" * info.size
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return stream.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load(data: Path, content: bytes) -> Path:
    return import_layer(data, digest(content), io.BytesIO(content), print)


def left(data: Path) -> list[str]:
    return sorted(path.name for path in (data / "images/layers").iterdir() if path.is_dir())


def test_owners_modes_and_attributes_survive(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    program = source / "ping"
    program.write_bytes(b"program")
    os.chown(program, 54321, 65534)
    program.chmod(0o6755)
    os.setxattr(program, "security.capability", NET_RAW)
    os.setxattr(program, "user.note", b"kept")
    os.setxattr(source, "user.overlay.opaque", b"y")
    (source / "link").symlink_to("ping")
    content = subprocess.run(
        ["tar", "--create", "--xattrs", "--xattrs-include=*", f"--directory={source}", "."],
        check=True,
        capture_output=True,
    ).stdout
    layer = load(tmp_path / "data", content)
    status = (layer / "ping").stat()
    assert (status.st_uid, status.st_gid) == (54321, 65534)
    assert stat.S_IMODE(status.st_mode) == 0o6755
    assert os.getxattr(layer / "ping", "security.capability") == NET_RAW
    assert os.getxattr(layer / "ping", "user.note") == b"kept"
    assert os.listxattr(layer) == []  # marks of an overlay are not the archive's to set
    assert (layer / "link").readlink().name == "ping"


def test_no_member_ends_up_outside_of_the_layer(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    hostile = [
        [member(f"{outside}/absolute", size=1)],
        [member("up", tarfile.SYMTYPE, linkname=str(outside)), member("up/through", size=1)],
        [member("hard", tarfile.LNKTYPE, linkname=f"{outside}/kept"), member("hard", size=1)],
        [member("../../../outside/dots", size=1)],
    ]
    data = tmp_path / "data"
    for members in hostile:
        content = archive(*members)
        try:
            load(data, content)
        except InvalidError:
            assert digest(content) not in left(data)
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"
    assert (outside / "kept").stat().st_nlink == 1
    assert [name for name in left(data) if name.startswith(".")] == []


def test_device_nodes_are_left_out(tmp_path: Path) -> None:
    devices = [
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("deleted", tarfile.CHRTYPE, devmajor=0, devminor=0),
        member("disk", tarfile.BLKTYPE, devmajor=7, devminor=0),
    ]
    layer = load(tmp_path, archive(*devices, member("file", size=1)))
    assert [path.name for path in layer.iterdir()] == ["file"]


def test_oci_s_marks_become_those_of_an_overlay(tmp_path: Path) -> None:
    marks = [
        "d/.wh.gone",
        "d/.wh..wh..opq",
        "d/.wh.kept",
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh.aufs",
    ]
    members = [member("d", tarfile.DIRTYPE, mode=0o755, mtime=5), member("d/kept", size=1)]
    layer = load(tmp_path, archive(*members, *(member(name) for name in marks)))
    assert sorted(str(path.relative_to(layer)) for path in layer.rglob("*")) == [
        *("d", "d/gone", "d/kept")
    ]
    gone = (layer / "d" / "gone").stat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert (layer / "d" / "kept").read_bytes() == b"x"
    assert os.getxattr(layer / "d", "user.overlay.opaque") == b"y"
    assert (layer / "d").stat().st_mtime == 5


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(archive(member("file", size=70_000))[:40_000], id="cut off"),
        pytest.param(b"this is no archive" * 1000, id="no archive"),
    ],
)
def test_a_broken_archive_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidError, match="cannot be unpacked"):
        load(tmp_path, content)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive(member("d/" * 300, tarfile.DIRTYPE)), "too long or too deep"),
        (archive(member("link", tarfile.SYMTYPE, linkname="x" * 5000)), "too long or too deep"),
        (archive(member("file", size=70_000)), "it is too large"),
    ],
)
def test_an_archive_without_end_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    store = tmp_path / "layers"
    with (
        layers.exclusive(store, print),
        pytest.raises(layers.LayerError, match=reason),
    ):
        layers.put(store / "a", io.BytesIO(content), digest(content), 60_000)
    assert list(store.glob("[!.]*")) == []


def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    content = archive(member("file", size=1))
    with pytest.raises(InvalidError, match="damaged"):
        import_layer(tmp_path, "0" * 64, io.BytesIO(content), print)
    assert left(tmp_path) == []


def test_a_layer_that_is_there_is_not_read_again(tmp_path: Path) -> None:
    content = archive(member("file", size=1))
    layer = load(tmp_path, content)
    unread = io.BytesIO(content)
    assert import_layer(tmp_path, digest(content), unread, print) == layer
    assert unread.tell() == 0
    assert layer == layer_path(tmp_path, digest(content))


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    leftover = tmp_path / "images/layers/.new-dead"
    leftover.mkdir(parents=True)
    (leftover / "file").touch()
    content = archive(member("file", size=1))
    load(tmp_path, content)
    assert left(tmp_path) == [digest(content)]
