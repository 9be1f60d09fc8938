"""What a running sandbox reaches, seen from a machine beside the host."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.netns import namespace
from tests.support.runner_rig import NEEDS, Rig, eventually

pytestmark = [pytest.mark.contract, *NEEDS]
A = "a" * 26


def test_no_allow_list_opens_a_cloud_s_metadata_service(rig: Rig) -> None:
    """On a public address; as a name server it is asked all the same, where it is one."""
    plain, metadata = "203.0.113.77", "168.63.129.16"
    rig.configure(resolvers=[metadata])
    rig.control.assignment = {
        **rig.control.assignment,
        "network": {"block_all": False, "allow": [f"{plain}/32", f"{metadata}/32"]},
    }
    process = rig.start(A)
    rig.until(A, "ready")
    rig.configure(resolvers=[])
    rig.verb("prepare-node")  # as another installation on this host does, with its own settings
    with namespace("203.0.113.76/31", [f"{plain}/31", metadata]) as outside:
        assert rig.inside(A, f"ping -c1 -W5 {plain}").returncode == 0
        assert rig.inside(A, f"ping -c1 -W1 {metadata}").returncode != 0
        listen = outside.command("busybox", "nc", "-l", "-p", "53", "-e", "echo", "named")
        with subprocess.Popen(listen) as server:
            asked = eventually(lambda: rig.inside(A, f"nc -w5 {metadata} 53 </dev/null").stdout)
            server.kill()
        assert asked == "named\n"
    rig.stop(A, process)
