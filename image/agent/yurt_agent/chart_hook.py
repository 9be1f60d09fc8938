"""What runs in the image's own Python when code draws: describes each chart that it shows.

``show`` of matplotlib prints one line for each figure, which the agent takes out of the output.
Written for Python 3.7 and newer; its text is handed to the other Python and imported by nobody.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

OWN_NAME = "<charts>"
OUR_FRAMES = (OWN_NAME, "<string>")


def number(value: Any) -> float:
    """Return a number that JSON has; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def numbers(values: Iterable[Any]) -> list[float]:
    """Return the finite numbers among them."""
    return [found for found in map(number, values) if math.isfinite(found)]


def points(pairs: Iterable[Sequence[Any]]) -> list[list[float]]:
    """Return those points of which both coordinates are finite."""
    found = ([number(pair[0]), number(pair[1])] for pair in pairs)
    return [pair for pair in found if all(map(math.isfinite, pair))]


def shown(label: Any) -> str:
    """Return a label as people see it; matplotlib's own names begin with an underscore."""
    text = str(label)
    return "" if text.startswith("_") else text


def lines(axes: Any) -> list[dict[str, Any]]:
    """Return the elements of a line chart."""
    return [
        {"label": shown(line.get_label()), "points": points(line.get_xydata())}
        for line in axes.lines
    ]


def scatters(axes: Any) -> list[dict[str, Any]]:
    """Return the elements of a scatter chart."""
    return [
        {"label": shown(spots.get_label()), "points": points(spots.get_offsets())}
        for spots in axes.collections
        if type(spots).__name__ == "PathCollection"
    ]


def bars(axes: Any) -> list[dict[str, Any]]:
    """Return the elements of a bar chart, labelled by the ticks that they stand at."""
    found = []
    for group in axes.containers:
        if type(group).__name__ != "BarContainer":
            continue
        lying = getattr(group, "orientation", "vertical") == "horizontal"
        names = tick_names(axes.yaxis if lying else axes.xaxis)
        for bar in group:
            start, size = (
                (bar.get_y(), bar.get_height()) if lying else (bar.get_x(), bar.get_width())
            )
            middle, value = start + size / 2, bar.get_width() if lying else bar.get_height()
            found.append(
                {
                    "label": names.get(round(middle, 6), f"{middle:g}"),
                    "group": shown(group.get_label()),
                    "value": f"{value:g}",
                }
            )
    return found


def tick_names(axis: Any) -> dict[float, str]:
    """Return the text of each tick by its place."""
    texts = [label.get_text() for label in axis.get_ticklabels()]
    places = [round(number(place), 6) for place in axis.get_ticklocs()]
    return {place: text for place, text in map(lambda *pair: pair, places, texts) if text}


def slices(axes: Any) -> list[dict[str, Any]]:
    """Return the elements of a pie chart; angles in degrees."""
    return [
        {
            "label": shown(wedge.get_label()),
            "angle": number(wedge.theta2 - wedge.theta1),
            "radius": number(wedge.r),
        }
        for wedge in axes.patches
        if type(wedge).__name__ == "Wedge"
    ]


def boxes(axes: Any) -> list[dict[str, Any]]:
    """Return the elements of a box plot, noted when it was drawn."""
    keys = {
        "min": "whislo",
        "first_quartile": "q1",
        "median": "med",
        "third_quartile": "q3",
        "max": "whishi",
    }
    found = []
    for place, lying, box in getattr(axes, "_drawn_boxes", ()):
        names = tick_names(axes.yaxis if lying else axes.xaxis)
        element = {name: number(box.get(key)) for name, key in keys.items()}
        element = {name: value for name, value in element.items() if math.isfinite(value)}
        outliers = numbers(box.get("fliers", ()))
        label = str(box.get("label", "")) or names.get(round(number(place), 6), "")
        found.append({"label": label, "outliers": outliers, **element})
    return found


KINDS: tuple[tuple[str, Callable[[Any], list[dict[str, Any]]]], ...] = (
    ("pie", slices),
    ("box_and_whisker", boxes),
    ("bar", bars),
    ("line", lines),
    ("scatter", scatters),
)


def chart_of(axes: Any) -> dict[str, Any]:
    """Describe one pair of axes; what has no kind of its own is ``unknown``."""
    chart: dict[str, Any] = {"type": "unknown", "title": axes.get_title(), "elements": []}
    if axes.name != "rectilinear":  # polar and three-dimensional ones have no kind on the wire
        return chart
    for kind, read in KINDS:
        elements = read(axes)
        if elements:
            chart.update(type=kind, elements=elements)
            break
    if chart["type"] != "pie":
        for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            chart[f"{letter}_label"] = axis.get_label().get_text()
            if chart["type"] in {"line", "scatter"}:
                chart[f"{letter}_ticks"] = numbers(axis.get_ticklocs())
                texts = [label.get_text() for label in axis.get_ticklabels()]
                chart[f"{letter}_tick_labels"] = texts
                chart[f"{letter}_scale"] = axis.get_scale()
    return chart


def described(figure: Any) -> dict[str, Any]:
    """Describe a figure with its picture; several pairs of axes make a composite."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")  # draws, so that ticks have texts
    png = {"png": base64.b64encode(picture.getvalue()).decode()}
    try:
        drawn = [a for a in figure.axes if a.has_data() and a.get_label() != "<colorbar>"]
        if len(drawn) == 1:
            return dict(chart_of(drawn[0]), **png)
        title = getattr(figure, "_suptitle", None)
        return {
            "type": "composite_chart" if drawn else "unknown",
            "title": title.get_text() if title is not None else "",
            "elements": [chart_of(axes) for axes in drawn],
            **png,
        }
    except Exception:  # noqa: BLE001 - a chart that we cannot read is still a picture
        return {"type": "unknown", "title": "", "elements": [], **png}


class Charts:
    """Prints what is shown; each line begins with a mark that the agent knows."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def print(self, figure: Any) -> None:
        """Print the line of one figure."""
        text = json.dumps({"type": "chart", "value": described(figure)})
        stream = sys.__stdout__
        if stream is not None:
            sys.stdout.flush()
            stream.write(f"{self._mark}{text}\n")
            stream.flush()

    def hook(self, pyplot: Any) -> None:
        """Take the place of what shows, and note box plots, whose numbers are lost else."""
        figure_class = sys.modules["matplotlib.figure"].__dict__["Figure"]
        axes_class = sys.modules["matplotlib.axes"].__dict__["Axes"]
        draw_boxes = axes_class.bxp

        def show(*_arguments: Any, **_options: Any) -> None:
            for number_ in pyplot.get_fignums():
                self.print(pyplot.figure(number_))
                pyplot.close(number_)

        def bxp(axes: Any, stats: Sequence[Mapping[str, Any]], *more: Any, **options: Any) -> Any:
            places = more[0] if more else options.get("positions")
            places = range(1, len(stats) + 1) if places is None else places
            lying = options.get("vert") is False or options.get("orientation") == "horizontal"
            drawn = [(place, lying, box) for place, box in map(lambda *pair: pair, places, stats)]
            axes._drawn_boxes = [*getattr(axes, "_drawn_boxes", ()), *drawn]
            return draw_boxes(axes, stats, *more, **options)

        pyplot.show = show
        figure_class.show = lambda figure, *_arguments, **_options: self.print(figure)
        axes_class.bxp = bxp

    # As a finder of modules: see to it that pyplot is hooked when it is loaded.

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Find ``matplotlib.pyplot`` as the others do, and stay in its loading."""
        if name != "matplotlib.pyplot":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def load(module: Any, execute: Any = execute) -> None:
                    execute(module)
                    self.hook(module)

                spec.loader.exec_module = load  # type: ignore[method-assign]
                return spec
        return None


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error as if our frames were not there."""
    while trace is not None and trace.tb_frame.f_code.co_filename in OUR_FRAMES:
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)


def main(mark: str) -> None:
    """Run what comes on standard input, as ``python3 -`` does."""
    sys.argv[0] = "-"
    sys.excepthook = report
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.meta_path.insert(0, Charts(mark))
    code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", 0, dont_inherit=True)
    exec(code, sys.modules["__main__"].__dict__)


if __name__ == OWN_NAME:
    main(mark)  # type: ignore[name-defined]  # noqa: F821 - given by who starts it
