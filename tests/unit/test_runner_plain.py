"""The runner's JSON is that of the standard library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jobs.runner import plain

pytestmark = pytest.mark.unit

VALUES = [
    {"a": [1, 2.5, None, True, 'é\n"', {}], "b": {"c": []}},
    [],
    "x",
    3,
    -1.5e300,
    "\U0001f600\ud800",
]


@pytest.mark.parametrize("value", VALUES)
def test_it_writes_and_reads_what_the_standard_library_does(value: object) -> None:
    assert plain.dumps(value) == json.dumps(value)
    assert plain.loads(f" {json.dumps(value)}\n") == value
    assert plain.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", '{"a" 1}', "1 2", '"\n"', "nul", '{"a":1}}', '"\\x"', "-", b"\xff"]
)
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as the standard library's
        plain.loads(text)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), float("nan")])
def test_what_cannot_be_json_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        plain.dumps(value)


def test_the_runner_comes_up_without_regular_expressions() -> None:
    script = "import sys; from jobs.runner import guard, holder; print('re' in sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = ['.']; {script}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
