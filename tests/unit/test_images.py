"""The images of a node as files: whole or absent, and removed without harm to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from control.errors import InvalidError, NotFoundError
from jobs.images import Image, layer_path, read_image, remove_image, write_image

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit
A, B, ONE, TWO, BASE = (letter * 64 for letter in "ab12f")


def put(data: Path, image_id: str, *layers: str) -> Image:
    for layer in layers:
        layer_path(data, layer).mkdir(parents=True, exist_ok=True)
    image = Image(id=image_id, layers=list(layers), env={"A": ""}, user="daytona")
    write_image(data, image)
    return image


def test_an_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    image = put(tmp_path, A, ONE, BASE)
    assert read_image(tmp_path, A) == image
    assert [path.name for path in (tmp_path / "images").iterdir() if path.is_file()] == [
        f"{A}.json"
    ]


def test_an_image_without_one_of_its_layers_is_not_there(tmp_path: Path) -> None:
    put(tmp_path, A, ONE, BASE)
    layer_path(tmp_path, BASE).rmdir()
    with pytest.raises(NotFoundError, match=BASE):
        read_image(tmp_path, A)
    with pytest.raises(NotFoundError, match=B):
        read_image(tmp_path, B)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, f"{A}\n"])
def test_an_id_is_never_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidError):
        read_image(tmp_path, name)
    with pytest.raises(InvalidError):
        layer_path(tmp_path, name)


def test_removing_an_image_keeps_the_layers_of_others(tmp_path: Path) -> None:
    put(tmp_path, A, ONE, BASE)
    other = put(tmp_path, B, TWO, BASE)
    layer_path(tmp_path, "0" * 64).mkdir()  # of an image that is just being fetched
    remove_image(tmp_path, A, print)
    assert not layer_path(tmp_path, ONE).exists()
    assert layer_path(tmp_path, "0" * 64).exists()
    assert read_image(tmp_path, B) == other
    remove_image(tmp_path, A, print)
