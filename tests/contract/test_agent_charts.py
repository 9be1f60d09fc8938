"""Charts of code-run, by a real agent with a real matplotlib."""

from __future__ import annotations

import base64
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.agent_rig import AgentRig, running_agent

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(
        importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not here"
    ),
]
PLOT = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\n"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentRig]:
    # Above all others the Python that has matplotlib; its cache of fonts is made once.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = str(tmp_path_factory.mktemp("home"))
    with running_agent(env={"PATH": path, "HOME": home}, workdir=home) as rig:
        yield rig


def run(agent: AgentRig, code: str, **more: Any) -> Any:
    answer = agent.request(
        "POST", "/process/code-run", {"code": code, "language": "python", **more}
    )
    assert answer.status == 200, answer.body
    return answer.json()


def chart(agent: AgentRig, code: str) -> dict[str, Any]:
    """Run code that shows one figure; return its chart, the picture looked at and taken out."""
    said = run(agent, PLOT + code + "\nplt.show()\nprint('end')")
    assert (said["exitCode"], said["result"]) == (0, "end\n")
    (only,) = said["artifacts"]["charts"]
    assert base64.b64decode(only.pop("png")).startswith(b"\x89PNG")
    assert isinstance(only, dict)
    return only


def test_a_line_chart_has_its_points_ticks_and_scales(agent: AgentRig) -> None:
    code = (
        "axes.plot([1, 2, 3], [10, 100, float('nan')], label='grown')\naxes.plot([2], [20])\n"
        "axes.set(title='T ü', xlabel='when', ylabel='what', yscale='log')\n"
        "axes.set_xticks([1, 2], ['one', 'two'])"
    )
    found = chart(agent, code)
    assert found.pop("y_ticks")
    assert found.pop("y_tick_labels")
    assert found == {
        "type": "line",
        "title": "T ü",
        "x_label": "when",
        "y_label": "what",
        "x_ticks": [1.0, 2.0],
        "x_tick_labels": ["one", "two"],
        "x_scale": "linear",
        "y_scale": "log",
        "elements": [
            {"label": "grown", "points": [[1.0, 10.0], [2.0, 100.0]]},
            {"label": "", "points": [[2.0, 20.0]]},
        ],
    }


def test_a_scatter_chart_has_its_groups(agent: AgentRig) -> None:
    code = "axes.scatter([1, 2], [3, 4], label='a')\naxes.scatter([5], [6], label='b')"
    found = chart(agent, code)
    assert found["type"] == "scatter"
    assert found["elements"] == [
        {"label": "a", "points": [[1.0, 3.0], [2.0, 4.0]]},
        {"label": "b", "points": [[5.0, 6.0]]},
    ]


@pytest.mark.parametrize("method", ["bar", "barh"])
def test_a_bar_chart_has_names_groups_and_values(agent: AgentRig, method: str) -> None:
    found = chart(agent, f"axes.{method}(['x', 'y'], [3, 4.5], label='g')")
    assert found["type"] == "bar"
    assert found["elements"] == [
        {"label": "x", "group": "g", "value": "3"},
        {"label": "y", "group": "g", "value": "4.5"},
    ]


def test_a_pie_has_angles(agent: AgentRig) -> None:
    found = chart(agent, "axes.pie([1, 3], labels=['few', 'many'], radius=2)")
    assert (found["type"], "x_label" in found) == ("pie", False)
    assert [(e["label"], round(e["angle"]), e["radius"]) for e in found["elements"]] == [
        ("few", 90, 2.0),
        ("many", 270, 2.0),
    ]


def test_a_box_plot_has_its_quartiles_and_outliers(agent: AgentRig) -> None:
    found = chart(agent, "axes.boxplot([[1, 2, 3, 4, 5, 100]], tick_labels=['all'])")
    assert found["type"] == "box_and_whisker"
    (box,) = found["elements"]
    assert box == {
        "label": "all",
        "min": 1.0,
        "first_quartile": 2.25,
        "median": 3.5,
        "third_quartile": 4.75,
        "max": 5.0,
        "outliers": [100.0],
    }


def test_several_axes_are_a_composite_and_what_has_no_kind_is_a_picture(agent: AgentRig) -> None:
    code = (
        "plt.close()\nfigure, (one, two) = plt.subplots(1, 2)\nfigure.suptitle('both')\n"
        "one.plot([1, 2])\ntwo.bar(['a'], [1])"
    )
    found = chart(agent, code)
    assert (found["type"], found["title"]) == ("composite_chart", "both")
    assert [element["type"] for element in found["elements"]] == ["line", "bar"]
    assert chart(agent, "axes.imshow([[1, 2], [3, 4]])")["type"] == "unknown"
    polar = "plt.close()\nplt.subplot(projection='polar').plot([1, 2])"
    assert chart(agent, polar)["type"] == "unknown"


def test_each_show_is_a_chart_and_the_output_stays_as_it_was(agent: AgentRig) -> None:
    code = (
        PLOT
        + "axes.plot([1])\nprint('no end', end='')\nplt.show()\nplt.show()\nprint(' of line')\n"
        "figure, axes = plt.subplots()\naxes.bar(['a'], [1])\nfigure.show()\nprint('dtn_artifact')"
    )
    said = run(agent, code)
    assert said["result"] == "no end of line\ndtn_artifact\n"
    assert [found["type"] for found in said["artifacts"]["charts"]] == ["line", "bar"]


def test_code_that_could_draw_runs_as_any_other(agent: AgentRig) -> None:
    code = (
        "from __future__ import annotations\n# matplotlib\nimport sys\n"
        "print(sys.argv, __name__)\nclass C: pass\nimport pickle; pickle.dumps(C())\n"
        "try: input()\nexcept EOFError: print('EOF')\nraise SystemExit(5)"
    )
    said = run(agent, code, argv=["a", "-b"])
    assert said == {"exitCode": 5, "result": "['-', 'a', '-b'] __main__\nEOF\n"}
    failed = run(agent, "import matplotlib\n\n1 / 0")
    assert failed["exitCode"] == 1
    assert failed["result"] == (
        "Traceback (most recent call last):\n"
        '  File "<stdin>", line 3, in <module>\nZeroDivisionError: division by zero\n'
    )
    wrong = run(agent, "matplotlib = (")
    assert wrong["exitCode"] == 1
    assert "charts" not in wrong["result"]
    assert "SyntaxError" in wrong["result"]
