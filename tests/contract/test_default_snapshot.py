"""The default snapshot: what is in it, whose it is, and that it is made once."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from control.errors import UnavailableError
from jobs.images import Image, ensure_default_snapshot, layer_path
from jobs.site import Site
from tests.support import images
from tests.support.inside import run_inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [
    pytest.mark.contract,
    # The first run on a machine makes it from Debian's packages.
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]
SITE = Site(extra_ca=("/usr/local/share/ca-certificates/*.crt",))
USER = "daytona"


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="yurt-test-", dir="/var/tmp") as directory:
        lent = Path(directory) / "data"
        images.borrow(lent)
        yield lent


@pytest.fixture(scope="module")
def image(data: Path) -> Image:
    made = ensure_default_snapshot(data, SITE, print)
    images.keep(data)
    return made


@pytest.fixture(scope="module")
def layer(data: Path, image: Image) -> Path:
    return layer_path(data, image.layers[0])


class Inside:
    """Runs shell commands in the snapshot with the environment that a sandbox would have."""

    def __init__(self, layer: Path, work: Path, env: Mapping[str, str]) -> None:
        self.layer, self.work, self.env = layer, work, env

    def says(self, script: str, user: str = USER) -> str:
        home = "/root" if user == "root" else f"/home/{user}"
        env = {**self.env, "HOME": home}
        done = run_inside(
            self.layer, self.work, "bash", "-euc", f"cd; {script}", env=env, user=user
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture
def inside(layer: Path, image: Image, tmp_path: Path) -> Inside:
    return Inside(layer, tmp_path / "w", image.env)


@pytest.mark.parametrize(
    "command",
    [
        *("bash", "curl", "git", "less", "npm", "npx", "pip", "ps", "python", "python3", "setcap"),
        *("sudo", "tmux", "ifconfig", "ip", "ping", "unzip", "xz"),
        *("jedi-language-server", "typescript-language-server"),
    ],
)
def test_a_command_is_there(inside: Inside, command: str) -> None:
    path = "export PATH=$PATH:/usr/sbin:/sbin"
    assert inside.says(f"{path}; command -v {command}")


def test_python_and_node_have_their_versions(inside: Inside) -> None:
    assert inside.says("python --version").startswith("Python 3.")
    assert int(inside.says("node --version").removeprefix("v").partition(".")[0]) >= 20
    assert inside.says("npm --version")


def test_language_servers_run_and_are_no_packages_of_the_users(inside: Inside) -> None:
    assert inside.says("jedi-language-server --version") == "0.47.0"
    assert inside.says("typescript-language-server --version") == "5.1.3"
    missing = "import importlib.util as u; print(u.find_spec('jedi'))"
    assert inside.says(f'python -c "{missing}"') == "None"
    assert "typescript" not in inside.says("npm ls -g")


def test_the_user_is_daytona_and_may_become_root_without_a_password(inside: Inside) -> None:
    assert inside.says("id -u; id -g; id -un; pwd") == f"1000\n1000\n{USER}\n/home/{USER}"
    assert inside.says("sudo -n id -u") == "0"
    assert inside.says("sudo -n su - daytona -c 'id -un'") == USER
    assert inside.says("touch ~/x /workspace/y; stat -c %U:%G ~/x /workspace /workspace/y") == (
        "\n".join([f"{USER}:{USER}"] * 3)
    )


def test_the_user_installs_for_everybody_and_finds_it_on_the_path(inside: Inside) -> None:
    make = 'mkdir p; echo \'{"name":"p","version":"1.0.0","bin":"x"}\' > p/package.json'
    program = "printf '#!/usr/bin/env node\\nconsole.log(6*7)\\n' > p/x"
    assert inside.says(f"{make}; {program}; npm install -g --offline ./p >&2; p") == "42"
    scheme = "import sysconfig; print(sysconfig.get_path('scripts'))"
    assert inside.says(f'test -w "$(python -c "{scheme}")"; echo yes') == "yes"
    assert "global.break-system-packages='true'" in inside.says("pip config list")


def test_owners_modes_and_capabilities_are_kept(layer: Path) -> None:
    for name in ("sudo", "su", "passwd"):
        status = (layer / "usr/bin" / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o4755), name
    capability = os.getxattr(layer / "usr/bin/ping", "security.capability")
    assert capability[:4] == bytes.fromhex("01000002")  # version 2: holds for any uid range
    assert stat.S_IMODE((layer / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE(layer.stat().st_mode) == 0o755
    shadow = (layer / "etc/shadow").stat()
    assert stat.S_IMODE(shadow.st_mode) & 0o007 == 0


def test_nothing_of_the_host_is_in_it(layer: Path) -> None:
    assert (layer / "etc/resolv.conf").read_text() == ""
    assert (layer / "etc/hostname").read_text() == ""
    nodes = [p for p in (layer / "dev").rglob("*") if p.is_char_device() or p.is_block_device()]
    assert [node for node in nodes if not node.is_symlink()] == []
    assert list((layer / "var/lib/apt/lists").glob("*Packages*")) == []
    assert list((layer / "tmp").iterdir()) == []


def test_what_the_host_trusts_is_trusted_inside(inside: Inside, layer: Path, image: Image) -> None:
    certificates = SITE.certificates()
    bundle = (layer / "etc/ssl/certs/ca-certificates.crt").read_text()
    for certificate in certificates:
        assert certificate.strip() in bundle
    assert ("NODE_EXTRA_CA_CERTS" in image.env) == bool(certificates)
    if certificates:
        assert inside.says("sudo -n printenv PIP_CERT") == "/etc/ssl/certs/ca-certificates.crt"


def test_the_image_says_what_a_runner_reads(data: Path, image: Image) -> None:
    written = json.loads((data / "images" / f"{image.id}.json").read_text())
    assert written["id"] == image.id
    assert written["layers"] == [image.id]
    assert written["user"] == USER
    assert written["workdir"] == ""
    assert written["entrypoint"] == written["cmd"] == []
    assert written["env"]["LANG"] == "C.UTF-8"
    assert 200_000_000 < written["size_bytes"] < 600_000_000


def test_an_image_that_is_there_is_not_made_again(data: Path, image: Image, layer: Path) -> None:
    said: list[str] = []
    before = layer.stat().st_ctime_ns
    assert ensure_default_snapshot(data, SITE, said.append) == image
    assert said == []
    assert layer.stat().st_ctime_ns == before


def test_an_unreachable_mirror_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    mirror = "http://127.0.0.1:9/debian"
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9") as caught:
        ensure_default_snapshot(tmp_path, replace(SITE, apt_mirror=mirror), print)
    assert "YURT_APT_MIRROR" in str(caught.value)
    left = [path for path in (tmp_path / "images").rglob("*") if path.is_dir()]
    assert left == [tmp_path / "images/layers"]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
