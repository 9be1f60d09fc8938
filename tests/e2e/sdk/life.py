"""A sandbox grows, is archived and comes back, by the SDK of this environment.

python -m tests.e2e.sdk.life MARK
"""

from __future__ import annotations

import sys
import time

from daytona import (  # type: ignore[import-not-found]
    CreateSandboxFromSnapshotParams,
    Daytona,
    Resources,
)


def main() -> None:
    (mark,) = sys.argv[1:]
    daytona = Daytona()
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(labels={"mark": mark}))
    try:
        sandbox.fs.upload_file(mark.encode(), "kept")
        memory, disk = int(sandbox.memory), int(sandbox.disk)
        sandbox.resize(Resources(cpu=2, memory=memory + 1))
        assert (sandbox.state, sandbox.cpu, sandbox.memory) == ("started", 2, memory + 1)
        sandbox.stop()
        sandbox.resize(Resources(disk=disk + 2))
        assert (sandbox.state, sandbox.disk) == ("stopped", disk + 2)
        sandbox.archive()
        end = time.monotonic() + 60
        while sandbox.state != "archived":
            assert time.monotonic() < end, sandbox.state
            time.sleep(0.2)
            sandbox.refresh_data()
        sandbox.start()
        print(sandbox.fs.download_file("kept").decode())
        sandbox.stop()
        sandbox.archive()
        sandbox.start()  # at once, which gives the archive up
        assert sandbox.fs.download_file("kept").decode() == mark
        room = sandbox.process.exec("df --output=size -BG / | tail -n 1").result
        assert int(room.strip().rstrip("G")) > disk, room
    finally:
        daytona.delete(sandbox)


if __name__ == "__main__":
    main()
