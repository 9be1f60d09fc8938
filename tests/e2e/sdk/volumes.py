"""Two sandboxes share a volume, by the SDK of whichever environment this runs in.

python -m tests.e2e.sdk.volumes NAME MARK
"""

from __future__ import annotations

import sys
import time

try:
    from daytona import (  # type: ignore[import-not-found]
        CreateSandboxFromSnapshotParams,
        Daytona,
        VolumeMount,
    )
except ImportError:  # what it was called before
    from daytona_sdk import (  # type: ignore[import-not-found]
        CreateSandboxFromSnapshotParams,
        Daytona,
        VolumeMount,
    )


def main() -> None:
    name, mark = sys.argv[1:]
    daytona = Daytona()
    volume = daytona.volume.get(name, create=True)
    assert daytona.volume.get(name).id == volume.id
    mounts = [VolumeMount(volume_id=volume.id, mount_path="/home/daytona/shared")]
    wanted = CreateSandboxFromSnapshotParams(volumes=mounts)
    first = daytona.create(wanted)
    try:
        command = f"echo {mark} > /home/daytona/shared/mark"
        assert first.process.exec(command).exit_code == 0
        second = daytona.create(wanted)
        try:
            print(second.process.exec("cat /home/daytona/shared/mark").result.strip())
            assert [mount.volume_id for mount in second.volumes] == [volume.id]
        finally:
            daytona.delete(second)
    finally:
        daytona.delete(first)
    assert volume.id in [each.id for each in daytona.volume.list()]
    daytona.volume.delete(daytona.volume.get(name))
    end = time.monotonic() + 15
    while volume.id in [each.id for each in daytona.volume.list()]:
        assert time.monotonic() < end, "the volume is still listed"
        time.sleep(0.2)
    again = daytona.volume.create(name)
    while daytona.volume.get(name).state != "ready":
        assert time.monotonic() < end + 15, "the volume of the same name is not ready"
        time.sleep(0.2)
    daytona.volume.delete(again)


if __name__ == "__main__":
    main()
