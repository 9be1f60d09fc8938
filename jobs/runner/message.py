"""Sealed messages between control and a runner.

Each is an HTTP body with a head in ``X-Yurt-*`` fields and an HMAC-SHA256, by the key of the node,
over both. Both sides use this module; it imports neither ``hashlib`` nor ``hmac``, which load
OpenSSL into every runner.
"""

from __future__ import annotations

from _operator import _compare_digest  # what hmac.compare_digest is

try:
    from _sha2 import sha256 as sha256  # type: ignore[import-not-found]  # Python >= 3.12
except ImportError:
    from _sha256 import sha256 as sha256  # type: ignore[import-not-found]

same = _compare_digest
UP, UP_ANSWER, DOWN, DOWN_ANSWER = "up", "up-answer", "down", "down-answer"
# Of an assignment: what only a start needs, and nobody is told who only decides who may enter.
FOR_THE_START = frozenset(("volumes", "env", "user", "workdir", "entrypoint", "archive"))
_VERSION = "yurt1"
_BLOCK = 64
_INNER = bytes(x ^ 0x36 for x in range(256))
_OUTER = bytes(x ^ 0x5C for x in range(256))


class BadMessage(Exception):  # noqa: N818 - named for what it is to the receiver
    """A message is not from whom it says, not for us, or older than one already seen."""


class Head:
    """Which start of which sandbox on which node a message is about, and its place in the order."""

    __slots__ = ("generation", "incarnation", "node", "sandbox", "sequence")

    def __init__(
        self, node: str, sandbox: str, generation: int, incarnation: str, sequence: int
    ) -> None:
        self.node = node
        self.sandbox = sandbox
        self.generation = generation
        self.incarnation = incarnation
        self.sequence = sequence

    def fields(self) -> list[str]:
        """Return the head's values in the order in which they are sealed."""
        start = [self.node, self.sandbox, str(self.generation), self.incarnation]
        return [*start, str(self.sequence)]


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """Return the 32-byte HMAC-SHA256 (RFC 2104)."""
    if len(key) > _BLOCK:
        key = sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner = sha256(key.translate(_INNER) + text).digest()
    return bytes(sha256(key.translate(_OUTER) + inner).digest())


def _signature(key: bytes, direction: str, head: Head, body: bytes) -> str:
    top = "\n".join([_VERSION, direction, *head.fields(), ""])
    return hmac_sha256(key, top.encode("utf-8", "surrogatepass") + body).hex()


def seal(key: bytes, direction: str, head: Head, body: bytes) -> dict[str, str]:
    """Return the HTTP fields that go with ``body``, names in lower case."""
    names = ("node", "sandbox", "generation", "incarnation", "sequence")
    sealed = {f"x-yurt-{name}": value for name, value in zip(names, head.fields(), strict=True)}
    sealed["x-yurt-signature"] = _signature(key, direction, head, body)
    return sealed


def read_head(fields: Mapping[str, str]) -> Head:
    """Read the head without checking its signature, to learn whose key to check it with.

    Raises:
        BadMessage: a field is missing or malformed.
    """
    try:
        return Head(
            fields["x-yurt-node"],
            fields["x-yurt-sandbox"],
            int(fields["x-yurt-generation"]),
            fields["x-yurt-incarnation"],
            int(fields["x-yurt-sequence"]),
        )
    except (KeyError, ValueError) as error:
        raise BadMessage(f"malformed field: {error}") from error


def unseal(key: bytes, direction: str, fields: Mapping[str, str], body: bytes) -> Head:
    """Check a received message and return its head.

    Args:
        key: the key of the node.
        direction: one of this module's constants; an answer cannot pass for a request.
        fields: HTTP fields, names in lower case.
        body: the raw body.

    Raises:
        BadMessage: the seal is missing or wrong.
    """
    head = read_head(fields)
    expected = _signature(key, direction, head, body)
    # As bytes: the comparison takes text only if it is ASCII, and this comes from a stranger.
    given = fields.get("x-yurt-signature", "").encode("utf-8", "surrogatepass")
    if not same(expected.encode(), given):
        raise BadMessage("wrong signature")
    return head


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
