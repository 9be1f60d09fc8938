"""The agent bundle: a Python that runs in any root file system and leaves no trace in children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from image.bundle.build import MOUNT_POINT, TINI
from jobs.images import ensure_bundle
from tests.support.inside import BUSYBOX, busybox_root, run_inside

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not (BUSYBOX.exists() and TINI.exists()), reason="needs busybox-static and tini"
    ),
]
PYTHON = (f"{MOUNT_POINT}/bin/python3", "-I", "-S", "-X", "utf8")
SYSTEM_PYTHON = Path("/usr/bin/python3")
# Import every module of the agent, those that it loads late included.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.path.append("/opt/yurt/app")
import yurt_agent
names = sorted(m.name for m in pkgutil.walk_packages(yurt_agent.__path__, "yurt_agent."))
for name in names:
    importlib.import_module(name)
import ctypes, websockets.server, websockets.extensions.permessage_deflate
import httptools, httptools.parser.parser, python_multipart, asyncio, hashlib, zlib
late = sorted({m.__cached__ for m in sys.modules.values() if getattr(m, "__cached__", None)})
print(json.dumps({"prefix": sys.prefix, "names": names, "caches": late,
                  "sha": hashlib.sha256(b"").hexdigest()}))
"""
# What a child of Python sees: its environment, and the libraries that it maps.
CHILD = """
import os, subprocess
show = ["/bin/cat", "/proc/self/environ", "/proc/self/maps"]
print(subprocess.run(show, capture_output=True, text=True, env=dict(os.environ)).stdout)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_bundle(tmp_path_factory.mktemp("data"), print)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("root"))


def test_every_module_of_the_agent_runs_without_a_c_library(
    bundle: Path, root: Path, tmp_path: Path
) -> None:
    done = run_inside(root, tmp_path / "w", *PYTHON, "-c", IMPORT_ALL, bundle=bundle)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["prefix"] == MOUNT_POINT
    assert all(name.startswith(f"{MOUNT_POINT}/") for name in said["caches"])
    inside = [bundle / Path(name).relative_to(MOUNT_POINT) for name in said["caches"]]
    assert [path for path in inside if not path.exists()] == []  # each was compiled ahead
    assert said["sha"].startswith("e3b0c442")


def test_a_child_inherits_nothing_of_the_bundle(bundle: Path, root: Path, tmp_path: Path) -> None:
    env = {"PATH": "/bin", "LC_ALL": "C"}
    done = run_inside(root, tmp_path / "w", *PYTHON, "-c", CHILD, bundle=bundle, env=env)
    assert done.returncode == 0, done.stderr
    *environment, maps = done.stdout.split("\0")
    assert sorted(environment) == ["LC_ALL=C", "PATH=/bin"]
    assert "busybox" in maps
    assert MOUNT_POINT not in maps


def test_the_init_is_static_and_runs_python(bundle: Path, root: Path, tmp_path: Path) -> None:
    init = f"{MOUNT_POINT}/bin/tini"
    command = (init, "-s", "--", *PYTHON, "-c", "print('up')")
    done = run_inside(root, tmp_path / "w", *command, bundle=bundle)
    assert done.stdout == "up\n", done.stderr


def test_a_stranger_can_read_all_of_it_and_it_is_small(bundle: Path) -> None:
    modes = {path: path.stat().st_mode for path in [bundle, *bundle.rglob("*")]}
    closed = [path for path, mode in modes.items() if mode & 0o004 == 0 or mode & 0o022]
    assert closed == []
    assert [p for p in modes if p.is_dir() and modes[p] & 0o005 != 0o005] == []
    assert sum(p.stat().st_size for p in modes if p.is_file()) < 30_000_000


def test_a_bundle_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    said: list[str] = []
    first = ensure_bundle(tmp_path, said.append)
    assert said
    said.clear()
    before = first.stat().st_mtime_ns
    assert ensure_bundle(tmp_path, said.append) == first
    assert said == []
    assert first.stat().st_mtime_ns == before


def test_what_a_killed_builder_left_is_cleared_away(tmp_path: Path) -> None:
    leftover = tmp_path / "lib" / ".new-dead"
    leftover.mkdir(parents=True)
    ensure_bundle(tmp_path, print)
    assert not leftover.exists()


def test_debians_own_python_makes_a_bundle_too(root: Path, tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not SYSTEM_PYTHON.exists() or SYSTEM_PYTHON.resolve().name != f"python{version}":
        pytest.skip(f"needs Debian's Python {version}")
    ours = [path for path in sys.path if not path.startswith(sys.base_prefix)]
    script = (
        f"import sys; sys.path[:0] = {ours!r}\n"
        "from pathlib import Path; from image.bundle.build import build_bundle\n"
        f"build_bundle(Path({str(tmp_path / 'bundle')!r}), print)"
    )
    scripts = str(Path(sys.executable).parent)
    env = {"PATH": f"{scripts}:{os.environ['PATH']}"}
    subprocess.run([SYSTEM_PYTHON, "-I", "-S", "-c", script], check=True, env=env, timeout=100)
    inside = run_inside(root, tmp_path / "w", *PYTHON, "-c", IMPORT_ALL, bundle=tmp_path / "bundle")
    assert inside.returncode == 0, inside.stderr
    assert json.loads(inside.stdout)["prefix"] == MOUNT_POINT
