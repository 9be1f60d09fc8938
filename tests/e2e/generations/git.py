"""Git, with an origin in the sandbox itself."""

from __future__ import annotations

from tests.e2e.generations.visit import Visit, call, expect, got, raises

AUTHOR = "-c user.name=A -c user.email=a@b.c"


def work(visit: Visit) -> str:
    return f"{visit.folder}-work"


def origin(visit: Visit) -> str:
    return f"{visit.folder}-origin.git"


@call("git.clone")
async def clone(visit: Visit) -> None:
    seed = f"{visit.folder}-seed"
    await visit.run(
        f"set -e; git init -q -b main {seed}; cd {seed}; echo one > file; git add file;"
        f" git {AUTHOR} commit -q -m first; git branch side; git clone -q --bare . {origin(visit)}"
    )
    await got(visit.sandbox.git.clone(f"file://{origin(visit)}", work(visit), branch="main"))
    expect("content", await visit.run(f"cat {work(visit)}/file"), "one")


@call("git.status")
async def status(visit: Visit) -> None:
    await visit.run(f"echo two > {work(visit)}/new")
    seen = await got(visit.sandbox.git.status(work(visit)))
    files = [(one.name, getattr(one.worktree, "value", one.worktree)) for one in seen.file_status]
    expect("status", (seen.current_branch, files), ("main", [("new", "Untracked")]))


@call("git.add", "git.commit")
async def commit(visit: Visit) -> None:
    git, path = visit.sandbox.git, work(visit)
    await got(git.add(path, ["new"]))
    made = await got(git.commit(path, "second", "A", "a@b.c"))
    log = await visit.run(f"git -C {path} log -1 --format='%H %s %an %ae'")
    expect("commit", log, f"{made.sha} second A a@b.c")


@call("git.push")
async def push(visit: Visit) -> None:
    await got(visit.sandbox.git.push(work(visit)))
    log = await visit.run(f"git -C {origin(visit)} log --format=%s main")
    expect("log", log.split(), ["second", "first"])


@call("git.pull")
async def pull(visit: Visit) -> None:
    seed = f"{visit.folder}-seed"
    await visit.run(
        f"set -e; cd {seed}; git pull -q {origin(visit)} main; echo 3 > third; git add third;"
        f" git {AUTHOR} commit -q -m third; git push -q {origin(visit)} main"
    )
    await got(visit.sandbox.git.pull(work(visit)))
    expect("content", await visit.run(f"cat {work(visit)}/third"), "3")


@call("git.branches")
async def branches(visit: Visit) -> None:
    found = await got(visit.sandbox.git.branches(work(visit)))
    expect("branches", "main" in found.branches, True)


@call("git.create_branch", "git.checkout_branch", "git.delete_branch")
async def branch(visit: Visit) -> None:
    git, path = visit.sandbox.git, work(visit)
    await got(git.create_branch(path, "mine"))
    expect("branches", "mine" in (await got(git.branches(path))).branches, True)
    await got(git.checkout_branch(path, "main"))
    expect("branch", (await got(git.status(path))).current_branch, "main")
    await got(git.delete_branch(path, "mine"))
    expect("branches", "mine" in (await got(git.branches(path))).branches, False)
    await raises("", lambda: git.checkout_branch(path, "missing"))


def fresh(visit: Visit) -> str:
    return f"{visit.folder}-fresh"


@call(
    "git.init", "git.configure_user", "git.get_config", "git.set_config", "git.reset", "git.restore"
)
async def init(visit: Visit) -> None:
    git, path = visit.sandbox.git, fresh(visit)
    await got(git.init(path, initial_branch="trunk"))
    await got(git.configure_user("A", "a@b.c", scope="local", path=path))
    await got(git.set_config("core.editor", "ed", scope="local", path=path))
    for key, value in (("user.email", "a@b.c"), ("core.editor", "ed")):
        expect(key, await got(git.get_config(key, scope="local", path=path)), value)
    await visit.run(f"cd {path}; echo 1 > f; git add f; git commit -qm one; echo 2 > f")
    await got(git.restore(path, ["f"]))
    expect("restored", await visit.run(f"cat {path}/f"), "1")
    await visit.run(f"cd {path}; echo 2 > f; git commit -qam two")
    await got(git.reset(path, mode="hard", target="HEAD~1"))
    expect("reset", await visit.run(f"cat {path}/f; git -C {path} branch"), "1\n* trunk")


@call("git.remote_add", "git.remote_get", "git.remotes")
async def remotes(visit: Visit) -> None:
    git, path, url = visit.sandbox.git, fresh(visit), f"file://{origin(visit)}"
    await got(git.remote_add(path, "up", url))
    found = await got(git.remotes(path))
    expect("remotes", [(one.name, one.url) for one in found.remotes], [("up", url)])
    expect("remote", await got(git.remote_get(path, "up")), url)


@call("git.dangerously_authenticate")
async def authenticate(visit: Visit) -> None:
    await got(visit.sandbox.git.dangerously_authenticate("me", "word", host="git.example.org"))
    asked = await visit.run(
        "printf 'protocol=https\\nhost=git.example.org\\n\\n' | git credential fill"
    )
    expect("credential", "password=word" in asked.split(), True)
