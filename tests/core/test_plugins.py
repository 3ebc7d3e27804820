"""Loading plugins: one at a time, guarded, restricted; wrapped and overridden stages."""

from __future__ import annotations

import importlib.metadata
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from lcx import hookimpl, plugins, recipe
from lcx.context import Context, StepResult
from lcx.errors import PluginError
from lcx.plugins import Plugins
from lcx.run import Run
from lcx.steps import execute
from tests.toy import Toy


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these the installed plugins: name -> object, or the exception that loading raises."""

    class Point(types.SimpleNamespace):
        def load(self) -> Any:
            if isinstance(self.found, BaseException):
                raise self.found
            return self.found

    def install(**found: Any) -> None:
        dist = types.SimpleNamespace(name="somebodys", version="9")
        points = [
            Point(name=name, value=f"module_{name}", dist=dist, found=what) for name, what in found.items()
        ]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)

    return install


def states(loaded: Plugins) -> dict[str, str]:
    return {entry.name: entry.state for entry in loaded.entries}


@pytest.mark.parametrize(
    "failure", [ImportError("no such thing"), SystemExit(3), ValueError("x"), SyntaxError("y")], ids=repr
)
def test_a_broken_plugin_breaks_nothing_else(
    failure: BaseException, entry_points: Callable[..., None]
) -> None:
    entry_points(bad=failure, good=Toy())
    loaded = plugins.load()
    assert states(loaded) == {"bad": "failed", "good": "loaded"}
    assert loaded.method("toy").name == "toy"
    bad = loaded.failed()[0]
    assert type(failure).__name__ in bad.error
    assert "Traceback" in bad.trace


def test_half_registered_names_are_taken_back(entry_points: Callable[..., None]) -> None:
    class Half(Toy):
        @hookimpl
        def lcx_register_probes(self, register: Callable[..., None]) -> None:
            register("val:half", "x:y")
            raise RuntimeError("half way")

    entry_points(half=Half())
    loaded = plugins.load()
    assert states(loaded) == {"half": "failed"}
    assert "toy" not in loaded.methods
    assert "val:half" not in loaded.probes
    assert not loaded.manager.has_plugin("half")


def test_a_misspelt_hook_is_a_failure(entry_points: Callable[..., None]) -> None:
    class Wrong:
        @hookimpl
        def lcx_trian(self, step: Any) -> None: ...

    entry_points(wrong=Wrong(), empty=types.SimpleNamespace())
    loaded = plugins.load()
    assert "unknown hook lcx_trian" in loaded.entries[1].error
    assert "none of lcx's hooks" in loaded.entries[0].error


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, {"one": "loaded", "two": "loaded"}),
        ("", {"one": "off", "two": "off"}),
        ("two", {"one": "off", "two": "loaded"}),
        (" one , two ", {"one": "loaded", "two": "loaded"}),
    ],
)
def test_lcx_plugins_restricts(
    wanted: str | None,
    expected: dict[str, str],
    entry_points: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if wanted is not None:
        monkeypatch.setenv("LCX_PLUGINS", wanted)
    entry_points(one=Toy("first"), two=Toy("second"))
    assert states(plugins.load()) == expected


def test_a_needed_method_says_why_it_is_not_there(
    entry_points: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_points(bad=ImportError("no torch here"))
    with pytest.raises(PluginError, match="no plugin provides the method 'toy'") as bad:
        plugins.load().method("toy")
    assert "'bad' (somebodys) failed to load: ImportError: no torch here" in bad.value.why
    monkeypatch.setenv("LCX_PLUGINS", "")
    with pytest.raises(PluginError) as off:
        plugins.load().method("toy")
    assert off.value.why == "LCX_PLUGINS leaves out: bad"


def test_two_plugins_claim_a_method(entry_points: Callable[..., None]) -> None:
    entry_points(first=Toy(), second=Toy(), third=Toy("other"))
    loaded = plugins.load()
    with pytest.raises(PluginError, match="'first' and 'second'"):
        loaded.method("toy")
    assert loaded.method("other").name == "other"


# -- stages, wrapped and overridden


class Timer:
    """Adds to what any train step reports."""

    @hookimpl(wrapper=True)
    def lcx_train(self, step: Any, run: Any, ctx: Any) -> Generator[None, StepResult, StepResult]:
        result = yield
        result.metrics["seconds"] = 1.5
        return result


class Instead:
    """Takes train steps before their own method does."""

    @hookimpl(tryfirst=True)
    def lcx_train(self, step: Any, run: Any, ctx: Any) -> StepResult:
        return StepResult(metrics={"instead": 1})


def train(tmp_path: Path, toy_recipe: Path, **extra: Any) -> tuple[StepResult, Toy]:
    toy = Toy()
    loaded = plugins.load(extra={"toy": toy, **extra})
    found = recipe.load(str(toy_recipe), loaded)
    steps = recipe.resolve(found, loaded, project={})
    run = Run(tmp_path / "run", "toy")
    ctx = Context()
    execute(steps[0], run, ctx, loaded)
    return execute(steps[1], run, ctx, loaded), toy


def test_a_stage_can_be_wrapped(tmp_path: Path, toy_recipe: Path) -> None:
    result, toy = train(tmp_path, toy_recipe, timer=Timer())
    assert result.metrics == {"score": 0.5, "seconds": 1.5}
    assert toy.calls == ["synth", "train"]


def test_a_stage_can_be_overridden(tmp_path: Path, toy_recipe: Path) -> None:
    result, toy = train(tmp_path, toy_recipe, instead=Instead())
    assert result.metrics == {"instead": 1}
    assert toy.calls == ["synth"]


def test_hookspecs_have_docstrings_and_registries() -> None:
    from lcx import hookspecs

    hooks = [name for name in vars(hookspecs) if name.startswith("lcx_")]
    assert all(getattr(hookspecs, name).__doc__ for name in hooks)
    assert {name for name in hooks if name.startswith("lcx_register_")} == set(plugins._REGISTRIES)
