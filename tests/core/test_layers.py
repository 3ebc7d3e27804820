"""Precedence of values and the origin of each; types of --set; suggestions for unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcx import recipe
from lcx.errors import UsageError
from lcx.plugins import Plugins
from lcx.recipe import Recipe, Step

IDS = ["synth", "train", "eval"]


@pytest.fixture
def counting(toy_plugins: Plugins, toy_recipe: Path) -> Recipe:
    return recipe.load(str(toy_recipe), toy_plugins)


def steps(found: Recipe, loaded: Plugins, *sets: str, **layers: Any) -> dict[str, Step]:
    parsed = [recipe.parse_set(text, IDS, None) for text in sets]
    layers.setdefault("project", {})
    return {step.id: step for step in recipe.resolve(found, loaded, sets=parsed, **layers)}


def test_every_layer_wins_over_the_one_below(counting: Recipe, toy_plugins: Plugins) -> None:
    layers: list[tuple[dict[str, Any], int, str]] = [
        ({}, 5, "recipe toy.yaml"),
        ({"project": {"synth": {"examples": 6}}}, 6, "lcx.toml"),
        ({"sets": [("synth", "examples", 7)]}, 7, "--set"),
        ({"flags": {"synth": {"examples": 8}}}, 8, "--examples"),
    ]
    given: dict[str, Any] = {"project": {}}
    for layer, value, origin in layers:
        given |= layer
        step = recipe.resolve(counting, toy_plugins, **given)[0]
        assert step.values()["examples"] == value
        assert step.origins["examples"] == origin
        assert step.origins["rate"] == "method toy"


def test_project_file_for_all_recipes_and_for_one(tmp_path: Path) -> None:
    (tmp_path / "lcx.toml").write_text(
        "[steps.synth]\nexamples = 6\nrate = 0.1\n[recipes.toy.synth]\nexamples = 9\n"
    )
    assert recipe.project_values("toy", tmp_path) == {"synth": {"examples": 9, "rate": 0.1}}
    assert recipe.project_values("other", tmp_path) == {"synth": {"examples": 6, "rate": 0.1}}
    assert recipe.project_values("toy", tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[step.synth]\nexamples = 6\n", "unknown table 'step'"),
        ("steps = [", "not valid TOML"),
        ("steps = 3\n", "'steps' is a table"),
        ("[steps]\nsynth = 3\n", "'steps.synth' is a table"),
        ("[recipes]\ntoy = 3\n", "'recipes.toy' is a table"),
        ("[recipes.toy.trian]\nbatch = 3\n", "recipe 'toy' has no step 'trian'. Did you mean 'train'?"),
    ],
)
def test_bad_project_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lcx.toml").write_text(text)
    with pytest.raises(UsageError) as bad:
        recipe.project_values("toy", tmp_path, IDS)
    assert message in bad.value.what


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("synth.examples=9", "examples", 9),
        ("synth.rate=1e-3", "rate", 0.001),
        ("synth.on=true", "on", True),
        ("synth.words=[a, b]", "words", ["a", "b"]),
        ("synth.ratios={a: 1.0}", "ratios", {"a": 1.0}),
        ("synth.ratios.a=0.75", "ratios", {"a": 0.75, "b": 0.5}),
        ("synth.inner.width=4", "inner", {"width": 4, "depth": 1}),
        ("synth.title=", "title", ""),
        ("synth.title=7", "title", "7"),
        ("synth.title=a=b", "title", "a=b"),
        ("synth.title=a: b: c", "title", "a: b: c"),
    ],
)
def test_set_reads_types(text: str, key: str, value: Any, counting: Recipe, toy_plugins: Plugins) -> None:
    step = steps(counting, toy_plugins, text)["synth"]
    assert step.values()[key] == value
    assert step.origins[key] == "--set"


def test_set_without_a_step_goes_to_the_default_one() -> None:
    assert recipe.parse_set("batch=4", IDS, "train") == ("train", "batch", 4)
    with pytest.raises(UsageError, match="say which step"):
        recipe.parse_set("batch=4", IDS, None)
    with pytest.raises(UsageError, match="not of the form"):
        recipe.parse_set("batch", IDS, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synth.exmples=9", "unknown key 'exmples'. Did you mean 'examples'?"),
        ("synth.inner.widht=9", "unknown key 'inner.widht'. Did you mean 'width'?"),
        ("synth.examples=many", "'examples': input should be a valid integer"),
        ("synth.examples=0", "'examples': input should be greater than or equal to 1"),
    ],
)
def test_bad_values_name_recipe_step_and_key(
    text: str, message: str, counting: Recipe, toy_plugins: Plugins
) -> None:
    with pytest.raises(UsageError) as bad:
        steps(counting, toy_plugins, text)
    assert bad.value.what.startswith("recipe 'toy', step 'synth': ")
    assert message in bad.value.what


def test_data_and_model_are_wired_to_the_step_before(counting: Recipe, toy_plugins: Plugins) -> None:
    found = steps(counting, toy_plugins)
    assert found["train"].values()["input"] == "step:synth"
    assert found["train"].values()["model"] == "tiny"
    assert found["eval"].values()["model"] == "step:train"
    assert found["eval"].origins["model"] == "the step before"


@pytest.mark.parametrize("reference", ["step:eval", "step:nothing", "step:train"])
def test_a_step_takes_only_from_earlier_ones(reference: str, counting: Recipe, toy_plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="does not come before it"):
        steps(counting, toy_plugins, f"train.input={reference}")


def test_set_for_a_step_that_is_not_there(counting: Recipe, toy_plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=r"has no step 'trian'. Did you mean 'train'"):
        recipe.resolve(counting, toy_plugins, sets=[("trian", "batch", 1)], project={})


def test_a_method_without_the_stage(tmp_path: Path, toy_plugins: Plugins) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("method: toy\nsteps:\n  - stage: score\n")
    with pytest.raises(UsageError, match="method 'toy' has no stage 'score'"):
        recipe.resolve(recipe.load(str(path), toy_plugins), toy_plugins, project={})
