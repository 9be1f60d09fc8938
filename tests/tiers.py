"""Which tests `./yurt test` runs: tiers, one marker each, in the order of their cost.

    ./yurt test                  the tiers of continuous integration
    ./yurt test --all            every tier
    ./yurt test --tier unit      one tier (may be repeated)
    ./yurt test tests/unit -k x  pytest's own arguments work as ever
    ./yurt test --tier e2e --server URL --key KEY
                                 against a server that is there, on a cluster or anywhere

A pytest plugin. A tier that does not exist or has no test is an error (with --all it is only
said), and so is a test without the marker of its folder's tier; what is not run is printed with
its reason.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order in which they run. The last four want many minutes or a quiet machine.
TIERS = ("unit", "contract", "e2e", "security", "cluster", "chaos", "generations", "vm", "bench")
BY_DEFAULT = ("unit", "contract", "e2e", "security")
CLUSTER_PROGRAMS = ("nomad", "consul")

# One suite over the double and the real Nomad: the latter belongs to what needs Nomad. All SDKs
# rather than two take too long for every run.
IN_FOLDER = {"contract": ("contract", "cluster"), "e2e": ("e2e", "generations")}

HERE = Path(__file__).parent
EMPTY = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption("--all", action="store_true", dest="all_tiers", help="run every tier")
    group.addoption("--tier", action="append", default=[], help="run this tier")
    group.addoption("--server", default="", help="base URL of a server to test, not an own one")
    group.addoption("--key", default="", help="its API key")


def pytest_configure(config: pytest.Config) -> None:
    if bool(config.getoption("server")) != bool(config.getoption("key")):
        raise pytest.UsageError("--server and --key go together")
    for tier in config.getoption("tier"):
        if tier not in TIERS:
            message = f"no such tier: {tier!r} (there are: {', '.join(TIERS)})"
            raise pytest.UsageError(message)
    expression = config.getoption("markexpr")
    unknown = set(_words(expression)) - _markers(config)
    if unknown:
        message = f"no such marker: {', '.join(sorted(unknown))}"
        raise pytest.UsageError(message)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {}
    for item in items:
        tiers = [tier for tier in TIERS if item.get_closest_marker(tier)]
        folder = item.path.relative_to(HERE).parts[0]
        if len(tiers) != 1 or tiers[0] not in IN_FOLDER.get(folder, (folder,)):
            message = f"{item.nodeid} needs one tier as marker, its folder's; it has {tiers}"
            raise pytest.UsageError(message)
        order[item] = TIERS.index(tiers[0])
    items.sort(key=order.__getitem__)
    if config.getoption("server"):
        _keep(config, items, [item for item in items if "embedded" not in _fixtures(item)])
    wanted = selected(config)
    if wanted is None:
        return
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        empty = [tier for tier in wanted if TIERS.index(tier) not in order.values()]
        config.stash[EMPTY] = empty
        if empty and not config.getoption("all_tiers"):
            message = f"no test in tier: {', '.join(empty)}"
            raise pytest.UsageError(message)
    _keep(config, items, [item for item in items if TIERS[order[item]] in wanted])


def _keep(config: pytest.Config, items: list[pytest.Item], kept: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _fixtures(item: pytest.Item) -> Sequence[str]:
    found: Sequence[str] = getattr(item, "fixturenames", ())
    return found


def selected(config: pytest.Config) -> Sequence[str] | None:
    """Name the tiers to run; None when pytest's own arguments say which tests are meant."""
    if config.getoption("all_tiers"):
        return TIERS
    if named := config.getoption("tier"):
        return list(named)
    if config.getoption("markexpr") or config.args_source is pytest.Config.ArgsSource.ARGS:
        return None
    return BY_DEFAULT if _missing_for_cluster() else (*BY_DEFAULT, "cluster")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    wanted = selected(terminalreporter.config)
    if wanted is None:
        return
    empty = terminalreporter.config.stash.get(EMPTY, [])
    reasons = {tier: f"not asked for (--tier {tier})" for tier in TIERS if tier not in wanted}
    if "cluster" in reasons and _missing_for_cluster():
        reasons["cluster"] = f"not on PATH: {', '.join(_missing_for_cluster())}"
    reasons |= dict.fromkeys(empty, "has no test")
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", red=True)
    for tier, reason in reasons.items():
        terminalreporter.line(f"tier {tier}: {reason}")


def _missing_for_cluster() -> list[str]:
    return [program for program in CLUSTER_PROGRAMS if shutil.which(program) is None]


def _words(expression: str) -> list[str]:
    words = expression.replace("(", " ").replace(")", " ").split()
    return [word for word in words if word not in {"and", "or", "not"}]


def _markers(config: pytest.Config) -> set[str]:
    return {line.partition(":")[0].partition("(")[0] for line in config.getini("markers")}
