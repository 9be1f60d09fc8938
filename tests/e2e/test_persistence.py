"""What was installed and changed inside is there after stop and start, to the last attribute."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.api import Api, Sandbox

pytestmark = pytest.mark.e2e

INVENTORY = Path(__file__).parent / "inside" / "inventory.py"
# On memory, so that looking changes nothing of what is looked at.
SCRIPT, LIST = "/dev/shm/inventory.py", "/dev/shm/inventory.json"

# Paths that change at every start by design, each with its reason.
CHANGES_AT_START: dict[str, str] = {}

INSTALL = {
    "apt": "apt-get update -qq && apt-get install -y -qq --no-install-recommends tree libcap2-bin",
    "pip": "pip install --quiet --break-system-packages iniconfig",
    "npm": "npm install --global --silent is-number",
    "useradd": "useradd --create-home --shell /bin/sh bob",
    "sudoers": "echo 'bob ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/bob",
    "setcap": "cp /usr/bin/python3 /opt/binder && setcap cap_net_bind_service+ep /opt/binder",
    "setuid": "cp /usr/bin/id /opt/id && chown bob:65534 /opt/id && chmod 6755 /opt/id",
    "hard link": "mkdir /opt/links && echo {mark} > /opt/links/a && ln /opt/links/a /opt/links/b",
    "symlink, fifo": "ln -s ../links/a /opt/links/s && mkfifo /opt/links/f",
    "sparse": "truncate -s 64M /opt/sparse && echo {mark} >> /opt/sparse",
    "replaced directory": "rm -r /etc/skel && mkdir /etc/skel && echo {mark} > /etc/skel/only",
    "moved directory": "mv /etc/profile.d /etc/moved.d",
    "removed file": "rm /etc/issue",
    "changed in place": "echo '# {mark}' >> /etc/bash.bashrc",
}

# Each prints what is expected; all of them run before the stop and after the start.
WORKS = {
    "dpkg -s tree | grep ^Status": "Status: install ok installed",
    "tree --version | cut -c1-4": "tree",
    "python3 -c 'import iniconfig; print(iniconfig.__name__)'": "iniconfig",
    "npm list --global --parseable is-number 2>/dev/null | grep -c is-number": "1",
    "sudo -n su - bob -c 'id -un'": "bob",
    "sudo -n su - bob -c 'sudo -n id -u'": "0",
    "/usr/sbin/getcap /opt/binder": "/opt/binder cap_net_bind_service=ep",
    "/opt/binder -c 'import socket; socket.socket().bind((\"127.0.0.1\", 81)); print(81)'": "81",
    "stat -c '%U %g %a' /opt/id": "bob 65534 6755",
    "ls /etc/skel": "only",
    "test ! -e /etc/profile.d -a ! -e /etc/issue && echo gone": "gone",
}


def inventory(sandbox: Sandbox) -> dict[str, dict[str, object]]:
    """List the whole tree inside, path to its description."""
    sandbox.upload(INVENTORY.read_bytes(), SCRIPT)
    sandbox.root(f"python3 {SCRIPT} {LIST} && chmod 644 {LIST}", seconds=120)
    lines = sandbox.download(LIST).splitlines()
    sandbox.root(f"rm {SCRIPT} {LIST}")
    return {said["path"]: said for said in map(json.loads, lines)}


def changes(
    before: dict[str, dict[str, object]], after: dict[str, dict[str, object]]
) -> dict[str, object]:
    """Tell what differs, without what is known to change at every start."""
    paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {
        path: (before.get(path), after.get(path)) for path in sorted(paths - set(CHANGES_AT_START))
    }


def test_everything_installed_inside_survives_stop_and_start(api: Api) -> None:
    with api.sandbox() as sandbox:
        mark = secrets.token_hex(8)
        for command in INSTALL.values():
            sandbox.root(command.format(mark=mark), seconds=300)
        for command, expected in WORKS.items():
            assert sandbox.check(command).strip() == expected
        sandbox.root("sync")
        before = inventory(sandbox)
        assert len(before) > 10_000, "the inventory saw too little to prove anything"
        sandbox.stop()
        sandbox.start()
        after = inventory(sandbox)
        assert changes(before, after) == {}
        for command, expected in WORKS.items():
            assert sandbox.check(command).strip() == expected


def test_a_change_of_one_byte_or_owner_or_attribute_is_seen(api: Api) -> None:
    """The comparison itself can fail."""
    with api.sandbox() as sandbox:
        sandbox.root("mkdir /opt/seen && cd /opt/seen && for n in 1 2 3 4; do echo x > $n; done")
        before = inventory(sandbox)
        sandbox.root("cd /opt/seen && echo y > 1 && chown 7 2 && chmod 4755 3 && rm 4")
        seen = changes(before, inventory(sandbox))
        assert {path for path in seen if path.startswith("/opt/seen/")} == {
            f"/opt/seen/{name}" for name in "1234"
        }
