"""What the agent knows of its own process, from the time when it still has every right."""

from __future__ import annotations

import os


class Own:
    """One per process, like the files behind it.

    Attributes:
        score_fd: writes whom the kernel shall kill first; -1 if there is no such file.
        score: what it says of us, as a number in bytes.
        below_init: our parent is the sandbox's first process.
    """

    score_fd = -1
    score = b"0"
    below_init = False


def keep() -> None:
    """Keep a way to say whom the kernel shall kill first; needs the rights that we start with.

    At the memory limit the user's programs go before the agent, so that it can say what happened.
    """
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        fd = -1  # no such file: the kernel then chooses by size alone
    else:
        Own.score = os.pread(fd, 16, 0).strip()
    Own.score_fd = fd
    with open("/proc/1/comm", "rb") as name:
        Own.below_init = os.getppid() == 1 and name.read().strip() == b"tini"
