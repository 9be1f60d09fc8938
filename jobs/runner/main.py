"""Entry point of the runner: ``main.py run DIRECTORY JSON`` holds one sandbox, the other verbs
work on the node for sandboxes that are not running.

Runs as ``python -I -S`` from an immutable directory named by its digest, so that what a running
sandbox was started with never changes under it. Started through a link to that directory it stays
in the directory, wherever the link points later.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys

sys.argv[0] = os.path.realpath(__file__)  # by this name it starts itself anew
sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.dirname(sys.argv[0])))]


_MAX_FILES = 1 << 20


def main(arguments: list[str]) -> int:
    """Dispatch to the verb; the other verbs' modules are not loaded into long-lived runners."""
    # Not the caller's: the root directory inside and the control groups are made by us, and the
    # sandbox must be able to enter them.
    os.umask(0o022)
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_DFL)  # ignored ones stay so, down to the user's programs
    verb, *rest = arguments or [""]
    if verb == "run":
        from jobs.runner import guard

        os.closerange(3, _MAX_FILES)  # what the caller left open is not the sandbox's
        directory, job = rest
        return guard.run(os.path.abspath(directory), job)
    if verb == "gate":
        from jobs.runner import gate

        listener, link, sandbox_id, domain, uid, empty = rest
        gate.main(
            int(listener),
            int(link),
            sandbox_id=sandbox_id,
            domain=domain,
            uid=int(uid),
            empty_fd=int(empty),
        )
        return 1
    if verb == "attach-volumes":
        from jobs.runner import attach

        os._exit(attach.main(*rest))  # at once: what ends an interpreter might load something
    from jobs.runner import verbs

    return verbs.run(verb, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
