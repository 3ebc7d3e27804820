"""The demos: which steps they run with which seed, what they tell, and LOGO's whole path at toy size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lcx.context import StepResult
from lcx.demo import DEMOS, Show, run_demo, story
from lcx.demo.logo import effects
from lcx.errors import UsageError
from lcx.storage import write_json

GRID = {
    "view": "grid",
    "unit": "records",
    "lengths": [16, 64],
    "depths": [0.25, 0.75],
    "cells": [[1.0, 0.9], [0.1, 0.5]],
    "by_length": [0.95, 0.3],
    "average": 0.625,
    "gap": 0.9,
    "worst": {"score": 0.1, "length": 64, "depth": 0.25},
    "n": 8,
}
REWARDS = {
    "mean": 7.5,
    "low": 7.0,
    "high": 8.0,
    "n": 8,
    "scale": [0.0, 10.0],
    "histogram": [0] * 10 + [4] + [0] * 8 + [4],
    "right": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 8},
}
CURVE = {"spans": [1.0, 0.5], "average": 0.75, "gap": 0.5, "counts": [4, 4], "n": 8, "worst": 0.5, "span": 1}


def test_an_unknown_demo_is_refused() -> None:
    with pytest.raises(UsageError, match="no demo"):
        run_demo("longalign")


@pytest.mark.parametrize("name", DEMOS)
def test_every_step_is_given_the_seed_and_its_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    bases: list[str] = []

    def do(self: Show, step: Any) -> StepResult:
        done.append(step)
        if name == "longreward":
            more = {"mean": 8.5, "right": {"mean": 0.75}} if step.id == "eval" else {}
            write_json(self.run.folder(step) / "scores.json", {"tasks": {"reward": {**REWARDS, **more}}})
            return StepResult(counts={"pairs": 5})
        curves = {task: CURVE for task in ("val:document", "val:code", "val:database")}
        grid = {"needle": {**GRID, "decoys": 0.25 if step.id.startswith("stale") else None}}
        return StepResult(metrics={"tasks": curves if name == "in2" else grid})

    monkeypatch.setattr(Show, "do", do)
    monkeypatch.setattr(Show, "base", lambda self, tiny: bases.append(tiny))
    result = run_demo(name, seed=7, out=tmp_path / "run")
    base = {"in2": "tiny:7", "logo": "tiny16:7", "longreward": "tiny8:7"}[name]
    assert bases == [base.partition(":")[0]]
    assert {step.settings.seed for step in done} == {7}
    trained = next(step for step in done if step.stage == "train")
    assert trained.settings.model == base
    probed = [step.settings.model for step in done if step.stage == "eval"]
    assert probed == {
        "in2": [base, "step:train"],
        "logo": [base, base, "step:train", "step:train"],
        "longreward": ["step:sft", "step:dpo"],
    }.get(name)
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    text = story(result)
    assert "next: lcx recipes show" in text
    if name == "longreward":  # the others' made-up steps leave no scores to report
        assert Path(result["report"]) == tmp_path / "run" / "report.html"
        assert f"report  {result['report']}" in text
    else:
        assert result["report"] is None
    if name == "logo":
        assert [step.settings.llm for step in done if step.stage == "synth"] == ["local:tiny16:7"]
        assert result["effects"]["before"] == {"window": 0.95, "beyond": 0.3, "earliest": 0.1, "decoys": 0.25}
        assert "0.25" in text
    if name == "longreward":
        assert [step.id for step in done] == ["sft-data", "sft", "before", "synth", "score", "dpo", "eval"]
        assert [step.settings.llm for step in done if step.id == "synth"] == ["local:step:sft"]
        assert result["effects"] == {
            "before": {"right": 0.5, "reward": 7.5},
            "after": {"right": 0.75, "reward": 8.5},
        }
        assert "4 to 6" in text
        assert "5 pairs" in text


def test_effects_are_read_off_the_right_cells() -> None:
    other = {**GRID, "cells": [[0.7, 0.8], [0.2, 0.3]], "by_length": [0.75, 0.25]}
    found = effects(other, {"decoys": 0.4})
    assert found == {"window": 0.75, "beyond": 0.25, "earliest": 0.2, "decoys": 0.4}


@pytest.mark.slow
def test_logo_tiny_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of the recipe as it stands, but for sizes and a base that was hardly trained."""
    from lcx.context import Context
    from lcx.plugins import loaded
    from lcx.recipe import load, resolve
    from lcx.run import Run
    from lcx.steps import execute
    from lcx.training import curriculum

    for key, value in {"COPY_LIMIT": 2, "COPY_DONE": 100.0, "SETTLED": -1.0}.items():
        monkeypatch.setattr(curriculum, key, value)
    short = replace(curriculum.TINY16, stages=((4, 2), (16, 1)), settle=1)
    monkeypatch.setitem(curriculum.COURSES, "tiny16", short)
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    recipe = load("logo-tiny", loaded())
    small = {"records": [16], "sets": 1, "corpus": "stdlib:stale:2@1"}
    flags = {step.id: small for step in recipe.steps if step.stage == "eval"}
    # What a base without training answers is nonsense, which the filter drops: rules answer in its place.
    flags["synth"] = {"examples": 12, "corpus": "stdlib:stale:2", "llm": "builtin"}
    flags["train"] = {"batch": 4, "micro_batch": 4, "max_steps": 2}
    run = Run(tmp_path / "run", recipe.name)
    results = {
        step.id: execute(step, run, Context(device="cpu"), loaded())
        for step in resolve(recipe, loaded(), flags=flags, project={})
    }
    assert set(results) == {"before", "stale-before", "synth", "train", "eval", "stale"}
    for name in ("before", "eval", "stale"):
        assert results[name].metrics["tasks"]["needle"]["lengths"] == [16]
    assert results["stale"].metrics["tasks"]["needle"]["decoy_rows"] > 0
    preview = (tmp_path / "run" / "synth" / "preview.md").read_text()
    assert "* " in preview
    assert (tmp_path / "run" / "train" / "model" / "config.json").is_file()
