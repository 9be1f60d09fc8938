"""Snapshots from an image and from a sandbox, and a sandbox from an image, by the newest SDK.

python -m tests.e2e.sdk.snapshots IMAGE MARK
"""

from __future__ import annotations

import sys

from daytona import (  # type: ignore[import-not-found]
    CreateSandboxFromImageParams,
    CreateSandboxFromSnapshotParams,
    CreateSnapshotParams,
    Daytona,
    DaytonaError,
    Resources,
)


def main() -> None:
    image, mark = sys.argv[1:]
    daytona, said = Daytona(), list[str]()
    wanted = CreateSnapshotParams(
        name=f"image-{mark}", image=image, resources=Resources(cpu=1, memory=1, disk=2)
    )
    snapshot = daytona.snapshot.create(wanted, on_logs=said.append)
    assert (snapshot.state, snapshot.image_name, snapshot.mem) == ("active", image, 1)
    assert any("Created snapshot" in line for line in said)
    try:
        daytona.snapshot.create(wanted)
        raise AssertionError("a name was given twice")
    except DaytonaError as error:
        if "already exists" not in str(error):
            raise
    of_snapshot(daytona, snapshot.name, mark)
    of_image(daytona, image)
    daytona.snapshot.delete(snapshot)
    assert all(each.name != snapshot.name for each in daytona.snapshot.list().items)
    print(mark)


def of_snapshot(daytona: Daytona, name: str, mark: str) -> None:
    """Change a sandbox, make a snapshot of it, and find the change in another one."""
    source = daytona.create(CreateSandboxFromSnapshotParams(snapshot=name, env_vars={"S": mark}))
    try:
        kept = f"echo {mark} > ~/kept && mkdir -p ~/new && rm -f ~/.profile; sleep 1000 &"
        assert source.process.exec(kept).exit_code == 0
        source.create_snapshot(f"sandbox-{mark}")
        assert source.process.exec("pgrep sleep").exit_code == 0, "it does not go on"
        made = daytona.snapshot.get(f"sandbox-{mark}")
        assert (made.state, made.source_sandbox_id) == ("active", source.id)
        assert made.size > 0
        copy = daytona.create(CreateSandboxFromSnapshotParams(snapshot=made.name))
        try:
            assert copy.process.exec("cat ~/kept").result.strip() == mark
            assert copy.process.exec("ls -d ~/new && ! ls ~/.profile").exit_code == 0
            assert copy.process.exec("echo [$S]").result.strip() == "[]"
        finally:
            copy.delete()
        daytona.snapshot.delete(made)
    finally:
        source.delete()


def of_image(daytona: Daytona, image: str) -> None:
    """Make sandboxes from an image that the server has not seen under that name."""
    said = list[str]()
    for _ in range(2):
        sandbox = daytona.create(
            CreateSandboxFromImageParams(image=image), on_snapshot_create_logs=said.append
        )
        try:
            assert sandbox.process.exec("echo hello").result.strip() == "hello"
        finally:
            sandbox.delete()
    assert f"FROM {image}" in "\n".join(said)


if __name__ == "__main__":
    main()
