"""The way to the packages that only one-shot work uses: the object store's client and ciphers.

They lie in a directory of their own beside the runner, and are never loaded into a process that
holds a sandbox.
"""

from __future__ import annotations

import sys


def use(directory: str) -> None:
    """Let what lies in ``directory`` be imported from now on, after everything else."""
    if directory and directory not in sys.path:
        sys.path.append(directory)
