"""Recipe files: found by name or path, inherited, refused with a reason; the bundled ones hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from lcx import hookimpl, plugins, recipe
from lcx.errors import LcxError, PluginError, UsageError
from lcx.plugins import Plugins
from tests.conftest import Ran
from tests.truth import shared_folder

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").rglob("*.yaml"))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_bundled_recipes_are_there() -> None:
    assert {"in2", "in2-tiny"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_bundled_recipe_validates_and_bears_its_files_name(path: Path) -> None:
    loaded = plugins.load()
    found = recipe.load(str(path), loaded)
    assert recipe.resolve(found, loaded, project={})
    assert found.name == path.stem
    assert found.summary


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_head_comments_commands_parse(path: Path) -> None:
    from lcx.cli.app import COMMANDS, load_command

    head = [line[1:].strip() for line in path.read_text().split("\n") if line.startswith("#")]
    commands = [shlex.split(re.split(r"\s{3,}", line)[0]) for line in head if line.startswith("lcx ")]
    assert len(commands) >= 2, "a recipe's head comment shows the command that runs it and one override"
    assert any(word.startswith("--set") for words in commands for word in words)
    loaded = plugins.load()
    for words in commands:
        assert words[1] in COMMANDS
        ctx = load_command(words[1]).make_context(words[1], words[2:])
        found = recipe.load(ctx.params["recipe"], loaded)
        ids = [step.id for step in found.steps]
        sets = [recipe.parse_set(text, ids, words[1]) for text in ctx.params["sets"] or []]
        recipe.resolve(found, loaded, sets=sets, project={})


def test_load_by_path_name_and_local_file(
    toy_plugins: Plugins, toy_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe.load(str(toy_recipe), toy_plugins).name == "toy"
    monkeypatch.chdir(toy_recipe.parent)
    assert recipe.load("toy.yaml", toy_plugins).steps[0].settings == {"examples": 5}
    assert recipe.load("toy", toy_plugins).name == "toy"


def test_unknown_recipe_suggests() -> None:
    with pytest.raises(UsageError, match="Did you mean 'in2-tiny'"):
        recipe.find("in2-tyni", plugins.load())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: toy\nstep: []", "unknown key 'step'. Did you mean 'steps'"),
        ("method: toy\nsteps:\n  - stage: trian", "unknown stage 'trian'. Did you mean 'train'"),
        ("method: toy\nsteps:\n  - {stage: train}\n  - {stage: train}", "two steps have the id 'train'"),
        ("method: toy\nsteps: {stage: train}", "'steps' is a list"),
        ("method: toy\nsteps:\n  - train", "each step is a mapping"),
        ("method: toy", "needs 'steps'"),
        ("steps:\n  - stage: train", "needs a 'method'"),
        ("- a\n- b", "a recipe is a YAML mapping"),
        ("method: [toy", "not valid YAML"),
        ("method: toy\nsteps:\n  - id: x", "step 'x' has no 'stage'"),
        ("", "a recipe is a YAML mapping"),
    ],
)
def test_bad_files_are_refused_with_a_reason(
    text: str, message: str, tmp_path: Path, toy_plugins: Plugins
) -> None:
    with pytest.raises(UsageError) as bad:
        recipe.load(write(tmp_path / "r.yaml", text), toy_plugins)
    assert message in bad.value.what


def test_yaml_tags_run_no_code(tmp_path: Path, toy_plugins: Plugins) -> None:
    marker = tmp_path / "ran"
    text = (
        f"method: toy\nsummary: !!python/object/apply:os.system ['touch {marker}']\nsteps:\n  - stage: train"
    )
    with pytest.raises(UsageError, match="not valid YAML"):
        recipe.load(write(tmp_path / "r.yaml", text), toy_plugins)
    assert not marker.exists()


def test_extends_merges_steps_by_id(tmp_path: Path, toy_plugins: Plugins, toy_recipe: Path) -> None:
    child = write(
        tmp_path / "child.yaml",
        "extends: toy.yaml\nsteps:\n  - {id: synth, rate: 0.25}\n  - {id: again, stage: eval}",
    )
    found = recipe.load(child, toy_plugins)
    assert found.name == "child"
    assert found.method == "toy"
    assert [step.id for step in found.steps] == ["synth", "train", "eval", "again"]
    assert found.steps[0].settings == {"examples": 5, "rate": 0.25}
    assert found.steps[0].origins == {"examples": "recipe toy.yaml", "rate": "recipe child.yaml"}


def test_extends_in_a_circle(tmp_path: Path, toy_plugins: Plugins) -> None:
    first = write(tmp_path / "a.yaml", "extends: b.yaml\nsteps: []")
    write(tmp_path / "b.yaml", "extends: a.yaml\nsteps: []")
    with pytest.raises(UsageError, match="circle"):
        recipe.load(first, toy_plugins)


def test_extending_file_may_repeat_no_id_of_its_own(
    tmp_path: Path, toy_plugins: Plugins, toy_recipe: Path
) -> None:
    child = write(tmp_path / "child.yaml", "extends: toy.yaml\nsteps:\n  - {id: synth}\n  - {id: synth}")
    with pytest.raises(UsageError, match="two steps have the id 'synth'"):
        recipe.load(child, toy_plugins)


def test_two_plugins_claim_one_recipe(tmp_path: Path, toy_recipe: Path) -> None:
    class Folder:
        def __init__(self, place: Path) -> None:
            self.place = place

        @hookimpl
        def lcx_register_recipes(self, register) -> None:  # type: ignore[no-untyped-def]
            register(self.place)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "same.yaml", toy_recipe.read_text())
    loaded = plugins.load(extra={"first": Folder(tmp_path / "one"), "second": Folder(tmp_path / "two")})
    with pytest.raises(PluginError) as bad:
        recipe.load("same", loaded)
    assert "'first'" in bad.value.what
    assert "'second'" in bad.value.what
    assert recipe.load("in2-tiny", loaded).name == "in2-tiny"


def test_folder_in_place_of_a_file_is_a_user_error(tmp_path: Path, toy_plugins: Plugins) -> None:
    with pytest.raises(LcxError):
        recipe.load(str(tmp_path) + "/", toy_plugins)


@pytest.mark.parametrize("name", ["a" * 300, "~no such user/a.yaml"])
def test_a_name_that_no_file_can_have_is_no_recipe(name: str, toy_plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=r"unknown recipe|no recipe file"):
        recipe.find(name, toy_plugins)


CASES_OF_RECIPES = {
    "bigint": "line 6: a number of 5,000 digits",
    "deep": "line 7: values nested deeper than 40",
    "dup": "line 6: 'corpus' is given again",
    "dup_steps": "line 6: 'steps' is given again",
    "empty": "a recipe is a YAML mapping",
    **{f"id{number}": "a step's id cannot be" for number in range(0, 18, 2)},
    "inf": "line 7: .inf is no number",
    "laughs_value": "more than 20,000 values",
    "laughs_value6": "more than 20,000 values",
    **{f"name{number}": "the recipe's name cannot be" for number in range(0, 18, 2)},
    "norway": ["no", "yes", "no"],
    "nul": "not valid YAML",
    "octal": "not '1:30'",
    "selfref": "line 8: *s holds itself",
    "surrogate": "line 1: not valid YAML",
    **{f"tag{part}{number}": "not valid YAML" for part in ("", "id") for number in (2, 4, 6)},
    "tag8": ["x", "synth", "5"],
    "tagid8": ["x", "5", "stdlib"],
    "utf16": "not valid YAML",
}
"""Of each file its reason, or the name, the step's id and the corpus that it gives: words as they stand there."""


def test_the_cases_of_recipes(cli: Callable[..., Ran]) -> None:
    folder = shared_folder("cases") / "recipes"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    ran = cli("recipes", "validate", str(folder), "--json")
    assert ran.code == 2
    told = {Path(one["recipe"]).stem: one for one in ran.json["recipes"]}
    loaded = plugins.load()
    assert set(told) == set(CASES_OF_RECIPES)
    for name, expected in CASES_OF_RECIPES.items():
        if isinstance(expected, str):
            assert not told[name]["ok"], name
            assert expected in told[name]["error"]
        else:
            assert told[name]["ok"], told[name]
            found = recipe.load(str(folder / f"{name}.yaml"), loaded)
            [step] = recipe.resolve(found, loaded, project={})
            assert [found.name, step.id, getattr(step.settings, "corpus", None)] == expected
