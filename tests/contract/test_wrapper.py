"""The wrapper script, run on a copy of itself with stand-ins for what it calls."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
TOOLS = "bash cat chmod dirname flock id ln mkdir mktemp readlink rm sha256sum sleep tail uname"

# Stands for every Python: makes environments by linking itself, and writes down what it was asked.
PYTHON = """#!/bin/bash
echo "$*" >>"$(dirname "$(readlink -f "$0")")/../calls"
case "$*" in
  "-m venv"*)
    mkdir -p "${@: -1}/bin"
    ln -sf "$(readlink -f "$0")" "${@: -1}/bin/python"
    printf '#!/bin/bash\\necho ran "$@"\\n' >"${@: -1}/bin/yurt"
    chmod +x "${@: -1}/bin/yurt"
    sleep 0.1
    ;;
esac
"""


class Checkout:
    """A copy of the wrapper with its lists, and a PATH that has only what is put there."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self.bin = root / "bin"
        self.calls = root / "calls"
        self.bin.mkdir()
        for tool in TOOLS.split():
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)
        for folder in ("sdk", "image/agent"):
            (self.root / folder).mkdir(parents=True)
            (self.root / folder / "pyproject.toml").touch()
        for name in ("yurt", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(ROOT / name, self.root)

    def stub(self, name: str, script: str) -> None:
        program = self.bin / name
        program.unlink(missing_ok=True)
        program.write_text(script)
        program.chmod(0o755)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.bin / "bash", self.root / "yurt", *arguments],
            env={"PATH": str(self.bin), "YURT_PYTHON": "python3"},  # not the system's
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=20)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def made(checkout: Checkout) -> Checkout:
    checkout.stub("python3", PYTHON)
    assert checkout.run("ls").returncode == 0
    return checkout


def test_elsewhere_than_on_linux_it_says_what_is_missing_and_stops(checkout: Checkout) -> None:
    checkout.stub("uname", "#!/bin/bash\necho Darwin\n")
    done = checkout.run("up")
    assert done.returncode == 1
    assert "this is Darwin" in done.stderr
    assert "Linux virtual machine" in done.stderr
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("command", ["up", "down", "env", "test", "install"])
def test_server_commands_need_root(checkout: Checkout, command: str) -> None:
    checkout.stub("id", "#!/bin/bash\necho 1000\n")
    done = checkout.run(command)
    assert done.returncode == 1
    assert f"sudo ./yurt {command}" in done.stderr
    assert not (checkout.root / ".venv").exists()


def test_client_commands_need_no_root(made: Checkout) -> None:
    made.stub("id", "#!/bin/bash\necho 1000\n")
    assert made.run("exec", "box", "a b").stdout == "ran exec box a b\n"


def test_an_old_python_is_refused(checkout: Checkout) -> None:
    checkout.stub("python3", '#!/bin/bash\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n')
    done = checkout.run("ls")
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; found: Python 3.9.2" in done.stderr


def test_without_apt_it_names_the_packages_and_stops(checkout: Checkout) -> None:
    checkout.stub("id", "#!/bin/bash\necho 0\n")
    done = checkout.run("up")
    assert done.returncode == 1
    assert "mmdebstrap" in done.stderr
    assert "this system's tools" in done.stderr


def test_missing_packages_are_installed_and_the_rest_is_not(made: Checkout) -> None:
    made.stub("id", "#!/bin/bash\necho 0\n")
    made.stub("apt-get", '#!/bin/bash\necho "apt-get $*" >>"$(dirname "$0")/../calls"\n')
    made.stub("runc", "#!/bin/bash\n")
    made.run("up")
    installed = [line for line in made.calls.read_text().splitlines() if " install --yes " in line]
    assert len(installed) == 1
    assert "mmdebstrap" in installed[0].split()
    assert "runc" not in installed[0].split()


def test_what_is_installed_starts_no_services(made: Checkout) -> None:
    """Else a database and a registry that only tests need would run on the machine for good."""
    policy = Path("/usr/sbin/policy-rc.d")
    was_there = policy.exists()
    made.stub("id", "#!/bin/bash\necho 0\n")
    made.stub("apt-get", f'#!/bin/bash\n{policy} && exit 1\necho denied >>"{made.calls}"\n')
    made.run("up")
    if not was_there:
        assert "denied" in made.calls.read_text()
    assert policy.exists() == was_there


def test_a_failed_step_shows_its_output_and_leaves_the_next_run_to_try_again(
    checkout: Checkout,
) -> None:
    broken = PYTHON.replace("esac", '  *require-hashes*) echo "no such wheel"; exit 7 ;;\nesac')
    checkout.stub("python3", broken)
    done = checkout.run("ls")
    assert done.returncode == 1
    assert "no such wheel" in done.stderr
    checkout.stub("python3", PYTHON)
    assert checkout.run("ls").stdout == "ran ls\n"


def test_the_environment_is_made_again_when_the_lock_changes(made: Checkout) -> None:
    made.calls.unlink()
    made.run("ls")
    assert not made.calls.exists()
    with (made.root / "requirements.lock").open("a") as lock:
        lock.write("\n")
    made.run("ls")
    assert "--require-hashes" in made.calls.read_text()


def test_two_at_once_make_one_environment(checkout: Checkout) -> None:
    checkout.stub("python3", PYTHON)
    with checkout.start("ls") as first, checkout.start("ls") as second:
        outputs = {process.communicate(timeout=20)[0] for process in (first, second)}
    assert outputs == {"ran ls\n"}
    assert checkout.calls.read_text().count("-m venv") == 1


def test_a_run_with_nothing_to_make_costs_little(made: Checkout) -> None:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        made.run("ls")
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.05
