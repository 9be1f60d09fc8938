"""What runs in the image's own Python: takes pieces of code and runs them in ``__main__``.

The agent starts it with two descriptors: orders come on one, what became of them goes to the
other, one JSON object a line. What the code prints goes to the process's own output. Written for
Python 3.7 and newer, and imported by nobody: its text is handed to the other Python.
"""

from __future__ import annotations

import builtins
import json
import linecache
import os
import signal
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType, TracebackType

LONGEST_VALUE = 64 << 10
LONGEST_TRACEBACK = 256 << 10
OWN_NAME = "<interpreter>"


class Worker:
    """Runs one piece after the other; what a piece changes, the next ones see."""

    def __init__(self, orders: int, reports: int) -> None:
        for fd in (orders, reports):
            os.set_inheritable(fd, False)
        self._orders = os.fdopen(orders, "rb")
        self._reports = reports
        self._names = sys.modules["__main__"].__dict__
        self._pid = os.getpid()
        self._count = 0
        self._running = False

    def serve(self) -> None:
        """Obey until the agent is gone."""
        for line in self._orders:
            order = json.loads(line)
            signal.signal(signal.SIGINT, self._interrupted)
            error = self.run(order["code"], order["envs"])
            if os.getpid() != self._pid:
                os._exit(0)  # a child that the code forked, and that came back here
            self._report({"error": error})

    def _report(self, report: dict[str, object]) -> None:
        view = memoryview(json.dumps(report).encode() + b"\n")
        while view:
            view = view[os.write(self._reports, view) :]

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        if self._running:
            raise KeyboardInterrupt

    def run(self, source: str, envs: dict[str, str]) -> dict[str, str] | None:
        """Run one piece; return its error, None if it had none."""
        kept = {name: os.environ.get(name) for name in envs}
        os.environ.update(envs)
        error = None
        try:
            try:
                self._running = True
                exec(self._compiled(source), self._names)
            finally:
                self._running = False
                _flush()
        except BaseException as caught:  # noqa: BLE001 - whatever the code raised is its result
            error = described(caught)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        return error

    def _compiled(self, source: str) -> CodeType:
        self._count += 1
        name = f"<code {self._count}>"
        # So that tracebacks show lines of code that is in no file.
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        return compile(source, name, "exec", 0, dont_inherit=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # the code has closed it, or put something else in its place


def described(error: BaseException) -> dict[str, str]:
    """Return the error's class, its text, and its traceback without our own frames."""
    try:
        value = str(error)
    except Exception:  # noqa: BLE001 - the class is the code's own, and so is its text
        value = "<no text: its __str__ failed>"
    try:
        lines = traceback.format_exception(type(error), error, _below(error.__traceback__))
    except Exception:  # noqa: BLE001 - likewise
        lines = [f"{type(error).__name__}\n"]
    return {
        "name": type(error).__name__,
        "value": value[:LONGEST_VALUE],
        "traceback": "".join(lines)[-LONGEST_TRACEBACK:],
    }


def _below(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == OWN_NAME:
        trace = trace.tb_next
    return trace


def _prepare() -> None:
    sys.argv = [""]
    for stream in (sys.stdout, sys.stderr):
        # No text of the code may end in an error about an encoding.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    # "quit" would close standard input and raise; so would "exit".
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)


if __name__ == OWN_NAME:
    _prepare()
    Worker(*arguments).serve()  # type: ignore[name-defined]  # noqa: F821 - given by who starts it
    os._exit(0)
