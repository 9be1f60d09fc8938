"""Images that the newest SDK has built, and sandboxes from them.

python -m tests.e2e.sdk.builds MARK
"""

from __future__ import annotations

import sys
import time

from daytona import (  # type: ignore[import-not-found]
    CreateSandboxFromImageParams,
    CreateSandboxFromSnapshotParams,
    CreateSnapshotParams,
    Daytona,
    DaytonaError,
    Image,
    Resources,
)


def main() -> None:
    (mark,) = sys.argv[1:]
    daytona = Daytona()
    image = (
        Image.base("python:3.12-slim-bookworm")
        .dockerfile_commands(["USER root"])
        .run_commands(f"echo {mark} > /built && echo 'so far so good'")
        .env({"MARK": f"{mark} '$HOME'"})
        .dockerfile_commands(["USER daytona"])
        .workdir("/srv/app")
        .run_commands("id -un > /tmp/who", ["bash", "-c", "pwd > /tmp/place"])
    )
    of_a_sandbox(daytona, image, mark)
    of_a_snapshot(daytona, image, mark)
    that_fails(daytona, image)
    print(mark)


def of_a_sandbox(daytona: Daytona, image: Image, mark: str) -> None:
    """Build at create, with logs as they come; what processes get is there from then on."""
    said = list[str]()
    wanted = CreateSandboxFromImageParams(image=image, resources=Resources(cpu=1, memory=1))
    sandbox = daytona.create(wanted, timeout=200, on_snapshot_create_logs=said.append)
    try:
        assert "so far so good" in "\n".join(said).splitlines(), said
        assert sandbox.process.exec("cat /built").result.strip() == mark
        assert sandbox.process.exec('echo "$MARK"').result.strip() == f"{mark} '$HOME'"
        assert sandbox.process.exec("id -un; cat /tmp/who").result.split() == ["daytona"] * 2
        assert sandbox.process.exec("pwd; cat /tmp/place").result.split() == ["/srv/app"] * 2
        assert sandbox.build_info.dockerfile_content == image.dockerfile()
    finally:
        sandbox.delete()
    begun = time.monotonic()
    again = daytona.create(wanted, timeout=200)
    took = time.monotonic() - begun
    print(f"again after {took:.1f} s", file=sys.stderr)
    again.delete()


def of_a_snapshot(daytona: Daytona, image: Image, mark: str) -> None:
    """Build a snapshot; all steps but the last are there already."""
    said = list[str]()
    # Long enough for a client that asks each second to see that it is built, and ask for the log.
    more = image.run_commands("test -e /built && echo more > /tmp/more && sleep 3")
    params = CreateSnapshotParams(name=f"built-{mark}", image=more)
    snapshot = daytona.snapshot.create(params, on_logs=said.append)
    try:
        assert snapshot.state == "active"
        assert "done before" in "\n".join(said), said
        sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=snapshot.name))
        try:
            assert sandbox.process.exec("cat /tmp/more").result.strip() == "more"
        finally:
            sandbox.delete()
    finally:
        daytona.snapshot.delete(snapshot)


def that_fails(daytona: Daytona, image: Image) -> None:
    """A failing step is named with what it said; what is not supported is refused at once."""
    for command, reasons in (
        ("RUN echo what is wrong >&2; exit 7", ("RUN echo what is wrong", "exit code 7")),
        ("ADD a b", ("line 2: ADD is not supported",)),
    ):
        failing = Image.base("python:3.12-slim-bookworm").dockerfile_commands([command])
        try:
            daytona.create(CreateSandboxFromImageParams(image=failing), timeout=200).delete()
        except DaytonaError as error:
            # Who hears of the end by an event has the reason in the record only.
            told = [str(each.error_reason) for each in daytona.list()]
            for reason in reasons:
                if reason not in "\n".join([str(error), *told]):
                    raise
            continue
        raise AssertionError(f"it was built: {command}")
    for left in daytona.list():
        left.delete()


if __name__ == "__main__":
    main()
