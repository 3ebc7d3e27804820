"""LongReward's recipe: the paper's values, what a bare machine is told, and the whole of it at toy size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcx.plugins import load as load_plugins
from lcx.recipe import load, resolve
from lcx.training.settings import PreferenceSettings
from tests.conftest import Ran

PLUGINS = load_plugins()


def values(recipe: str, step: str, **sets: Any) -> dict[str, Any]:
    steps = resolve(load(recipe, PLUGINS), PLUGINS, flags={step: sets}, project={})
    return {s.id: s.values() for s in steps}[step]


def test_the_papers_values() -> None:
    sft = values("longreward", "sft")
    assert (sft["learning_rate"], sft["batch"], sft["max_steps"]) == (1e-5, 8, 1800)
    assert sft["loss_weighting"] == "branch"
    assert sft["input"] is None
    synth = values("longreward", "synth")
    assert (synth["candidates"], synth["temperature"], synth["llm"]) == (10, 1.0, "local:step:sft")
    assert synth["template"] == sft["template"] == "in2"  # the model answers as it is trained
    score = values("longreward", "score")
    assert (score["input"], score["least_scored"], score["rejected"]) == ("step:synth", 5, 1)
    dpo = values("longreward", "dpo")
    assert (dpo["loss"], dpo["beta"], dpo["sft_weight"]) == ("dpo", 0.15, 0.1)
    assert (dpo["learning_rate"], dpo["batch"], dpo["max_steps"]) == (1e-6, 16, 800)
    assert (dpo["model"], dpo["input"]) == ("step:sft", "step:score")
    assert values("longreward", "eval")["model"] == "step:dpo"
    steps = {s.id: s for s in resolve(load("longreward", PLUGINS), PLUGINS, project={})}
    assert isinstance(steps["dpo"].settings, PreferenceSettings)
    assert [s.stage for s in steps.values()] == ["train", "synth", "score", "train", "eval"]


@pytest.mark.parametrize(
    ("words", "missing", "command"),
    [
        (
            ["train", "--step", "sft"],
            "step 'sft' needs data",
            "lcx train --recipe longreward --step sft --run runs/longreward --input PATH",
        ),
        (["synth"], "model of step 'sft'", "lcx train --recipe longreward --step sft --run runs/longreward"),
        (["score"], "data of step 'synth'", "lcx synth --recipe longreward --run runs/longreward"),
        (
            ["train", "--step", "dpo"],
            "data of step 'score'",
            "lcx score --recipe longreward --run runs/longreward",
        ),
        (["eval"], "model of step 'dpo'", "lcx train --recipe longreward --step dpo --run runs/longreward"),
    ],
)
def test_a_bare_machine_is_told_what_is_missing_and_the_next_command(
    words: list[str],
    missing: str,
    command: str,
    cli: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli(words[0], "--recipe", "longreward", *words[1:])
    assert ran.code == 4, ran.err
    assert missing in ran.err
    assert command in ran.err


def test_train_asks_which_of_two_steps(
    cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("train", "--recipe", "longreward")
    assert ran.code == 2
    assert "sft, dpo" in ran.err
    assert "--step sft" in ran.err


def test_a_dry_run_counts_calls_and_cost_before_the_first_call(
    cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["synth", "--recipe", "longreward", "--llm", "openai:policy", "--dry-run", "--json"]
    sets = ["writer=openai:big", "examples=100", "context_tokens=[1000, 3000]", "answer_tokens=200"]
    sets.append("prices={big: [1, 2], policy: [0.5, 1]}")
    ran = cli(*words, *(word for text in sets for word in ("--set", f"synth.{text}")))
    assert ran.code == 0, ran.err
    found = ran.json["steps"][0]["forecast"]
    assert found["calls"] == {"writer": 100, "policy": 100}
    assert found["candidates"] == 1000
    assert found["answer_tokens"]["policy"] == 100 * 10 * 200
    assert 200_000 < found["prompt_tokens"]["writer"] < 250_000
    assert found["prompt_tokens"]["policy"] > 200_000
    for part, (sent, made) in {"writer": (1, 2), "policy": (0.5, 1)}.items():
        cost = (found["prompt_tokens"][part] * sent + found["answer_tokens"][part] * made) / 1e6
        assert found["cost"][part] == pytest.approx(cost, abs=0.01)
    assert not Path("runs").exists()


def test_the_tiny_recipe_asks_at_twice_the_window() -> None:
    from lcx.training.curriculum import COURSES

    synth = values("longreward-tiny", "synth")
    records = COURSES["tiny8"].records
    assert synth["context_tokens"] == [2 * records * 12] * 2
    assert synth["candidates"] == 10
    assert synth["temperature"] == 1.0
    dpo = values("longreward-tiny", "dpo")
    assert (dpo["loss"], dpo["beta"], dpo["sft_weight"]) == ("dpo", 0.15, 0.1)
    before, after = values("longreward-tiny", "before"), values("longreward-tiny", "eval")
    assert {key for key in before if before[key] != after[key]} == {"model"}
    assert before["corpus"] != synth["corpus"]


@pytest.mark.slow
def test_the_tiny_recipe_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step as it stands, but for sizes, a base that was hardly trained, and rules that answer in its place."""
    from lcx.context import Context
    from lcx.run import Run
    from lcx.steps import execute
    from lcx.training import curriculum

    for key, value in {"COPY_LIMIT": 2, "COPY_DONE": 100.0, "SETTLED": -1.0}.items():
        monkeypatch.setattr(curriculum, key, value)
    monkeypatch.setitem(
        curriculum.COURSES, "tiny8", replace(curriculum.TINY8, stages=((4, 2), (8, 1)), settle=0)
    )
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    recipe = load("longreward-tiny", PLUGINS)
    small = {"questions": 4, "corpus": "stdlib:records:2@1"}
    flags: dict[str, dict[str, Any]] = {
        "sft-data": {"examples": 16, "corpus": "stdlib:records:2"},
        "sft": {"batch": 8},
        "synth": {"examples": 24, "corpus": "stdlib:records:6", "llm": "builtin"},
        "dpo": {"max_steps": 2, "batch": 4},
        "before": small,
        "eval": small,
    }
    run = Run(tmp_path / "run", recipe.name)
    results = {
        step.id: execute(step, run, Context(device="cpu"), PLUGINS)
        for step in resolve(recipe, PLUGINS, flags=flags, project={})
    }
    assert list(results) == ["sft-data", "sft", "synth", "score", "dpo", "before", "eval"]
    pairs = results["score"].counts["pairs"]
    assert 5 < pairs <= 24
    trained = results["dpo"].counts
    assert trained["bundles"] == 8
    assert trained["bundles"] + trained["bundles not trained"] == pairs
    for name, folder in (("before", "before/sft"), ("eval", "eval/dpo")):
        scores = json.loads((tmp_path / "run" / folder / "scores.json").read_text())["tasks"]["reward"]
        assert scores["n"] == 16
        assert 0 <= scores["right"]["mean"] <= 1
        assert results[name].metrics["reward"] is not None
