"""Create one sandbox without network by the newest SDK, and print its id.

python -m tests.e2e.sdk.create_blocked SNAPSHOT MARK
"""

from __future__ import annotations

import sys

from daytona import (  # type: ignore[import-not-found]
    CreateSandboxFromSnapshotParams,
    Daytona,
)


def main() -> None:
    snapshot, mark = sys.argv[1:]
    wanted = CreateSandboxFromSnapshotParams(
        snapshot=snapshot, network_block_all=True, env_vars={"MARK": mark}
    )
    print(Daytona().create(wanted).id)


if __name__ == "__main__":
    main()
