"""What is tried in the machine: runs there as root, by the server's own environment.

    .venv/bin/python -m tests.vm.inside

Prints what it does, and ends with status 0 only when everything was as it must be. Time limits are
wide: software emulation is about 25 times slower than the machine itself.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from control.cli.prepare import MARK
from tests.support import census
from tests.support.api import Api
from tests.support.instance import UP_SECONDS, Instance
from tests.support.processes import holder_of_lock, listener_on
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.api import Sandbox

SLOW = 25
GROUPS = Path("/sys/fs/cgroup/yurt")
HOG = Path(__file__).parents[1] / "security" / "inside" / "hog.py"
SETTINGS = {
    # The machine has no network: any address will do for the sandboxes' name server.
    "YURT_RESOLVERS": "192.0.2.53",
    "YURT_HOLD_SECONDS": "600",
    "YURT_START_DEADLINE_SECONDS": "600",
    "YURT_STOP_GRACE_SECONDS": "300",
}


def say(text: str) -> None:
    print(f"[{Path('/proc/uptime').read_text().split()[0]:>8}] {text}", flush=True)


def expect_this_kind_of_machine() -> None:
    say(f"kernel {os.uname().release}")
    assert (Path("/sys/fs/cgroup") / "cgroup.controllers").exists(), "control groups are not v2"
    assert Path("/run/systemd/system").is_dir(), "systemd does not run"


def expect_limits(sandbox: Sandbox) -> None:
    """The kernel's own files hold what the record promises."""
    record, group = sandbox.record(), GROUPS / sandbox.id
    memory = int((group / "memory.max").read_text())
    quota, period = map(int, (group / "cpu.max").read_text().split())
    say(f"limits: memory {memory}, cpu {quota}/{period}, pids {(group / 'pids.max').read_text()}")
    assert memory == record["memory"] << 30
    assert quota == record["cpu"] * period
    assert int((group / "pids.max").read_text()) > 0
    assert (group / "memory.swap.max").read_text().strip() == "0"


def expect_a_reason_for_memory(sandbox: Sandbox) -> None:
    sandbox.upload(HOG.read_bytes(), "/tmp/hog.py")
    sandbox.background("python3 /tmp/hog.py memory")
    reason = sandbox.reason()
    say(f"out of memory: {reason}")
    assert "out of memory" in reason
    assert sandbox.record()["state"] == "started"


def expect_to_survive_stop_and_start(sandbox: Sandbox) -> None:
    sandbox.root("useradd kept && echo kept > /opt/kept && chown kept /opt/kept")
    sandbox.stop()
    say("stopped")
    sandbox.start()
    say("started again")
    assert sandbox.check("stat -c %U /opt/kept; cat /opt/kept").split() == ["kept"] * 2


def expect_to_survive_a_kill(instance: Instance, sandbox: Sandbox) -> None:
    sandbox.check("echo before > /home/daytona/kill; sync")
    holder_of_lock(instance.data / "run" / "sandboxes" / sandbox.id / "lock").kill()
    record = sandbox.wait_for("stopped", 10)
    say(f"killed: {record['errorReason']}")
    assert record["errorReason"]
    sandbox.start()
    assert sandbox.check("cat /home/daytona/kill").strip() == "before"


def expect_control_to_come_back(instance: Instance, sandbox: Sandbox) -> None:
    control = listener_on(int((instance.data / "run" / "control.port").read_text()))
    control.kill()
    eventually(sandbox.api.answers, "control to answer again", seconds=5 * SLOW)
    say("control came back")
    assert sandbox.record()["state"] == "started"


def expect_a_restart_of_the_service_to_cost_nothing(instance: Instance, sandbox: Sandbox) -> None:
    """The server that runs by itself becomes a service; the sandbox stays the same throughout."""
    first = sandbox.check("cut -d' ' -f22 /proc/1/stat")
    say(instance.run("service", "install", seconds=UP_SECONDS).stdout)
    expect_limits(sandbox)
    systemctl("restart")
    say("the service was restarted")
    eventually(sandbox.api.answers, "the service to answer", seconds=5 * SLOW)
    with sandbox.api.sandbox() as another:
        expect_limits(another)
    systemctl("stop")
    lock = instance.data / "run" / "sandboxes" / sandbox.id / "lock"
    assert holder_of_lock(lock).lives(), "the stop of the service ended a sandbox"
    systemctl("start")
    eventually(sandbox.api.answers, "the service to answer again", seconds=5 * SLOW)
    assert sandbox.check("cut -d' ' -f22 /proc/1/stat") == first
    say(instance.run("service", "uninstall").stdout)
    assert not list(Path("/etc/systemd/system").glob("yurt*"))
    say(f"up by itself again after {instance.up():.0f} s")
    assert sandbox.check("cut -d' ' -f22 /proc/1/stat") == first


def systemctl(verb: str) -> None:
    subprocess.run(["systemctl", verb, "yurt"], check=True)


def tour(instance: Instance) -> None:
    say(instance.run("doctor").stdout)
    say(f"up after {instance.up():.0f} s")
    with contextlib.closing(Api(instance)) as api, api.sandbox() as sandbox:
        say(f"created {sandbox.id}")
        assert sandbox.check("id -un").strip() == "daytona"
        expect_limits(sandbox)
        expect_a_reason_for_memory(sandbox)
        expect_to_survive_stop_and_start(sandbox)
        expect_to_survive_a_kill(instance, sandbox)
        expect_control_to_come_back(instance, sandbox)
        expect_a_restart_of_the_service_to_cost_nothing(instance, sandbox)


def main() -> None:
    expect_this_kind_of_machine()
    instance = Instance(Path("/var/lib/yurt"), 9878, SETTINGS, slowness=SLOW)
    # The images came with the machine; the mark says that they are ours.
    (instance.data / MARK).write_text("made by the test\n")
    before = census.take(instance.data)
    done = False
    try:
        tour(instance)
        done = True
    finally:
        # The machine is thrown away: what its logs say is lost unless it is said now.
        say("" if done else instance.logs())
    subprocess.run(["umount", instance.data / "images"], check=True)
    instance.down("--purge")
    # Its directory was there before, with the images that came with the machine.
    before["file"] -= {str(instance.data)}
    instance.expect_nothing_left(before)
    say("nothing was left")


if __name__ == "__main__":
    main()
