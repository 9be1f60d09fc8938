"""What can go wrong with a cluster on one machine, in words for whoever started it."""

from __future__ import annotations


class ClusterError(Exception):
    """The root; the text says what to do, or shows the end of the log concerned."""


class MissingError(ClusterError):
    """A program that the cluster needs is not installed."""
