"""`lcx plugins`, and a tool that works whatever its plugins do."""

from __future__ import annotations

import importlib.metadata
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx import hookimpl, plugins
from tests.conftest import Ran
from tests.toy import TOY_RECIPE, Toy


class Claimer(Toy):
    """A toy that also claims a recipe."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @hookimpl
    def lcx_register_recipes(self, register: Callable[..., None]) -> None:
        register(self.folder)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these the installed plugins besides the real ones; an exception is raised on loading."""
    real = list(importlib.metadata.entry_points(group="lcx"))

    class Point(types.SimpleNamespace):
        def load(self) -> Any:
            if isinstance(self.found, BaseException):
                raise self.found
            return self.found

    def call(**found: Any) -> None:
        dist = types.SimpleNamespace(name="somebodys", version="9")
        points = [
            Point(name=name, value=f"module_{name}", dist=dist, found=what) for name, what in found.items()
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [*real, *points])
        loaded = plugins.load()
        monkeypatch.setattr(plugins, "loaded", lambda: loaded)

    return call


LIGHT = ["--help", "recipes list", "recipes show in2", "plugins list", "completion show bash", "train -h"]


def test_list_and_check(cli: Callable[..., Ran]) -> None:
    rows = {row["name"]: row for row in cli("plugins", "list", "--json").json["plugins"]}
    assert rows["in2"]["state"] == "loaded"
    assert rows["in2"]["package"] == "lcx"
    assert rows["in2"]["provides"]["methods"] == ["in2"]
    assert "lcx_register_methods" in rows["in2"]["hooks"]
    assert "in2" in cli("plugins", "list").out
    ran = cli("plugins", "check", "in2")
    assert ran.code == 0
    assert "lcx_register_methods" in ran.out


def test_a_failed_plugin_is_shown_and_breaks_nothing(
    cli: Callable[..., Ran], install: Callable[..., None]
) -> None:
    install(bad=RuntimeError("on purpose"))
    ran = cli("plugins", "list", "--json")
    assert ran.code == 0
    row = next(row for row in ran.json["plugins"] if row["name"] == "bad")
    assert (row["state"], row["error"], row["version"]) == ("failed", "RuntimeError: on purpose", "9")
    ran = cli("plugins", "check")
    assert ran.code == 3
    assert "Traceback" in ran.out
    assert "on purpose" in ran.out
    assert cli("plugins", "check", "in2").code == 0
    for line in LIGHT:
        assert cli(*line.split()).code == 0, line


def test_a_recipe_that_needs_the_failed_plugin_says_so(
    cli: Callable[..., Ran], install: Callable[..., None], tmp_path: Path
) -> None:
    install(bad=RuntimeError("on purpose"))
    (tmp_path / "r.yaml").write_text(TOY_RECIPE)
    ran = cli("train", "--recipe", str(tmp_path / "r.yaml"))
    assert ran.code == 3
    assert "no plugin provides the method 'toy'" in ran.err
    assert "on purpose" in ran.err


def test_clashes_name_both_and_break_nothing_else(
    cli: Callable[..., Ran], install: Callable[..., None], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.yaml").write_text(TOY_RECIPE)
    install(first=Claimer(tmp_path / "one"), second=Claimer(tmp_path / "two"))
    ran = cli("plugins", "check", "--json")
    assert ran.code == 3
    found = {(clash["kind"], clash["name"]): clash["owners"] for clash in ran.json["clashes"]}
    assert found == {("method", "toy"): ["first", "second"], ("recipe", "same"): ["first", "second"]}
    assert "claimed by first and second" in cli("plugins", "list").out
    ran = cli("train", "--recipe", "same")
    assert ran.code == 3
    assert "'first'" in ran.err
    assert "'second'" in ran.err
    ran = cli("train", "--recipe", str(tmp_path / "one" / "same.yaml"))
    assert ran.code == 3
    assert "two plugins claim the method 'toy': 'first' and 'second'" in ran.err
    for line in LIGHT:
        assert cli(*line.split()).code == 0, line
    assert "claimed twice" in cli("recipes", "list").out


def test_lcx_plugins_empty_leaves_the_core(shell_lcx: Callable[..., Ran]) -> None:
    ran = shell_lcx("plugins", "list", "--json", LCX_PLUGINS="")
    assert {row["state"] for row in ran.json["plugins"]} == {"off"}
    ran = shell_lcx("train", "--recipe", "in2-tiny", LCX_PLUGINS="")
    assert ran.code == 3
    assert "LCX_PLUGINS leaves out: in2" in ran.err
