"""Running steps: fingerprints, what is run again and what is not, and how failures are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcx import recipe
from lcx.context import Context
from lcx.errors import MissingError, PluginError, UsageError
from lcx.plugins import Plugins
from lcx.recipe import Step
from lcx.run import Run, identity
from lcx.steps import execute, fingerprint, forecast
from tests.toy import Toy


class Bench:
    """A toy recipe and its run."""

    def __init__(self, plugins: Plugins, path: Path, toy: Toy) -> None:
        self.plugins, self.path, self.toy = plugins, path, toy
        self.folder = path.parent / "run"

    def step(self, step_id: str, *sets: str) -> Step:
        found = recipe.load(str(self.path), self.plugins)
        parsed = [recipe.parse_set(text, ["synth", "train", "eval"], step_id) for text in sets]
        steps = recipe.resolve(found, self.plugins, sets=parsed, project={})
        return next(step for step in steps if step.id == step_id)

    def do(self, step_id: str, *sets: str, force: bool = False, rank: int = 0):  # type: ignore[no-untyped-def]
        run = Run(self.folder, "toy")
        return execute(self.step(step_id, *sets), run, Context(force=force, rank=rank), self.plugins)

    def state(self, key: str) -> str:
        return Run(self.folder, "toy").state(key)


@pytest.fixture
def bench(toy_plugins: Plugins, toy_recipe: Path, toy: Toy) -> Bench:
    return Bench(toy_plugins, toy_recipe, toy)


def test_a_done_step_is_not_run_again(bench: Bench) -> None:
    first = bench.do("synth")
    assert bench.do("synth") == first
    assert bench.toy.calls == ["synth"]
    bench.do("synth", force=True)
    assert bench.toy.calls == ["synth", "synth"]


def test_volatile_settings_do_not_matter_and_others_do(bench: Bench) -> None:
    bench.do("synth")
    bench.do("synth", "threads=8")
    assert bench.toy.calls == ["synth"]
    with pytest.raises(UsageError) as bad:
        bench.do("synth", "examples=6")
    assert bad.value.why == "settings.examples: was 5, now 6"


def test_what_trackers_are_told_follows_settings_and_data(bench: Bench) -> None:
    def told(*sets: str) -> dict[str, str]:
        step, run = bench.step("train", *sets), Run(bench.folder, "toy")
        return identity(step, run, fingerprint(step, run))

    bench.do("synth")
    first = told()
    assert (first["lcx_recipe"], first["lcx_step"], first["lcx_run"]) == ("toy", "train", str(bench.folder))
    assert told() == first
    other = told("batch=9")
    assert other["lcx_recipe_fingerprint"] != first["lcx_recipe_fingerprint"]
    assert other["lcx_data_fingerprint"] == first["lcx_data_fingerprint"]
    bench.do("synth", "examples=6", force=True)
    again = told()
    assert again["lcx_recipe_fingerprint"] == first["lcx_recipe_fingerprint"]
    assert again["lcx_data_fingerprint"] != first["lcx_data_fingerprint"]


def test_a_step_follows_its_inputs(bench: Bench) -> None:
    with pytest.raises(MissingError, match="needs the data of step 'synth'"):
        bench.do("train")
    assert not (bench.folder / "manifest.json").exists()
    bench.do("synth")
    bench.do("train")
    bench.do("synth", "examples=6", force=True)
    with pytest.raises(UsageError) as bad:
        bench.do("train")
    assert bad.value.why.startswith("inputs.input: was ")


def test_a_file_given_as_input_enters_the_fingerprint(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("one")
    step, run = bench.step("train", f"input={data}"), Run(bench.folder, "toy")
    before = fingerprint(step, run)
    assert before["inputs"]["input"]
    data.write_text("another")
    assert fingerprint(step, run) != before


@pytest.mark.parametrize(
    ("failure", "state"), [(KeyboardInterrupt(), "interrupted"), (ValueError("bad row"), "failed")], ids=repr
)
def test_failures_are_recorded_and_resumed(bench: Bench, failure: BaseException, state: str) -> None:
    bench.toy.fail = failure
    with pytest.raises(type(failure)):
        bench.do("synth")
    assert bench.state("synth") == state
    bench.toy.fail = None
    bench.do("synth")
    assert bench.state("synth") == "done"


def test_other_ranks_write_no_manifest(bench: Bench) -> None:
    bench.do("synth", rank=1)
    assert not (bench.folder / "manifest.json").exists()


def test_a_stage_that_nobody_runs(bench: Bench) -> None:
    bench.plugins.manager.unregister(bench.toy)
    with pytest.raises(PluginError, match="no plugin ran the step 'synth'"):
        bench.do("synth")


def test_forecast(bench: Bench) -> None:
    run = Run(bench.folder, "toy")
    assert forecast(bench.step("train"), run, Context(dry_run=True), bench.plugins) == {"calls": 7}
    assert not bench.folder.exists()


def test_the_contents_of_named_files_enter_the_fingerprint(tmp_path: Path) -> None:
    from lcx import plugins, recipe

    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "fine.txt").write_text("{segment}")
    flags = {"synth": {"prompts": str(prompts), "llm": f"local:{tmp_path / 'writer'}"}}
    loaded = plugins.load()
    step = recipe.resolve(recipe.load("in2", loaded), loaded, flags=flags, project={})[0]
    run = Run(tmp_path / "run", "in2")
    before = fingerprint(step, run)
    assert fingerprint(step, run) == before
    (prompts / "fine.txt").write_text("other words, {segment}")
    changed = fingerprint(step, run)
    assert changed != before
    (tmp_path / "writer").mkdir()
    (tmp_path / "writer" / "config.json").write_text("{}")
    assert fingerprint(step, run) != changed


def test_steps_that_settings_name_enter_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made again, a step has the same name and place: only what it was made of tells."""
    from lcx import plugins, recipe

    loaded = plugins.load()
    run = Run(tmp_path / "run", "longreward")
    for name, what in (("sft", "model"), ("synth", "data")):
        (run.folder(name) / what).mkdir(parents=True)
        run.manifest["steps"][name] = {"state": "done", "fingerprint": {}, "made": 1}

    def prints(**settings: Any) -> dict[str, Any]:
        flags = {"eval": {"model": "builtin", **settings}}
        steps = recipe.resolve(recipe.load("longreward", loaded), loaded, flags=flags, project={})
        return fingerprint(next(step for step in steps if step.id == "eval"), run)

    named: list[tuple[dict[str, Any], str]] = [
        ({"against": "step:sft"}, "sft"),
        ({"against": "local:step:sft"}, "sft"),
        ({"data": {"reward": "step:synth"}}, "synth"),
        ({"judge": "local:step:sft"}, "sft"),
        ({"model": "local:step:sft"}, "sft"),
        ({"model": "step:sft"}, "sft"),
        ({"data": {"qa": ["step:synth", "step:sft"]}}, "sft"),
        ({"data": {"qa": ["step:synth", "step:sft"]}}, "synth"),
    ]
    plain = prints()
    monkeypatch.chdir(tmp_path)
    for settings, step_id in named:
        before = prints(**settings)
        (tmp_path / step_id).mkdir()  # a folder of that name here has nothing to do with it
        (tmp_path / step_id / "file").touch()
        assert prints(**settings) == before
        (tmp_path / step_id / "file").unlink()
        (tmp_path / step_id).rmdir()
        run.manifest["steps"][step_id]["made"] += 1
        assert prints(**settings)["inputs"] != before["inputs"], settings
        assert prints() == plain
    # As runs of earlier versions have it.
    assert prints(judge="local:step:sft")["inputs"]["judge"] == run.digest_of("sft")
