"""Whom to believe, and how to show who one is, towards Nomad and Consul."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx

from control.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


def client_context(
    name: str, ca: Path | None, cert: Path | None, key: Path | None
) -> ssl.SSLContext:
    """Return the context for one server: its own authority, or those that everybody believes.

    Args:
        name: as in the settings, ``NOMAD`` for ``YURT_NOMAD_CA``.
        ca: the authority to believe, alone.
        cert: what to show of oneself, with its key.
        key: of the certificate.

    Raises:
        UnavailableError: a file is missing, or does not hold what it should.
    """
    try:
        if ca is None:
            context = httpx.create_ssl_context(trust_env=False)
        else:
            context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise UnavailableError(
            f"YURT_{name}_CA, YURT_{name}_CERT and YURT_{name}_KEY do not hold what they should:"
            f" {error}"
        ) from error
    return context
