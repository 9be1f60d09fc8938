"""Where images may come from, and how they are asked for."""

from __future__ import annotations

import pytest

from control.errors import InvalidError
from control.references import Reference, image_name, reference

pytestmark = pytest.mark.unit


def test_references_say_where_images_come_from() -> None:
    assert reference("ubuntu:22.04", ()) == Reference("ubuntu:22.04")
    assert reference("ghcr.io/a/b@sha256:" + "0" * 64, ()).plain is False
    assert reference("127.0.0.1:5000/a:1", ["http://127.0.0.1:5000"]).plain is True
    assert reference("library/ubuntu", ["docker.io"]) == Reference("library/ubuntu")
    mirror = "http://127.0.0.1:5000/hub"
    mirrored = Reference("127.0.0.1:5000/hub/library/a:1", plain=True)
    assert reference("a:1", (), mirror) == reference("docker.io/a:1", (), mirror) == mirrored
    assert reference("b/a", (), "https://m.org") == Reference("m.org/b/a")
    assert reference("ghcr.io/a/b", (), mirror) == Reference("ghcr.io/a/b")
    assert image_name("a@sha256:" + "0" * 64)
    for text in ("127.0.0.1/a:1", "localhost:5000/a:1", "registry.local/a:1", "[::1]:5000/a:1"):
        with pytest.raises(InvalidError, match="YURT_REGISTRIES"):
            reference(text, ())
    with pytest.raises(InvalidError, match=r"docker\.io"):
        reference("ubuntu:22.04", ["ghcr.io"])
