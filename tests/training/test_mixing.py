"""Short pairs mixed into long ones: all of both are trained on, in one seeded order, over a resume too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.context import Context, StepResult
from lcx.data.bundles import write_bundles
from lcx.data.files import Rejects
from lcx.errors import MissingError
from lcx.plugins import loaded
from lcx.recipe import load, resolve
from lcx.records import Branch, Bundle
from lcx.run import Run
from lcx.steps import execute
from lcx.training import collate, runner
from lcx.training.data import with_short
from tests.training.preference_data import small_model

RECIPE = "name: mixed\nmethod: preference\nsteps:\n  - stage: train\n    loss: dpo\n    template: plain\n"


def long_bundles(count: int = 6) -> list[Bundle]:
    return [
        Bundle(
            f"long-{i}",
            (Branch("w1 w2", f"w{i} w3", "chosen"), Branch("w1 w2", f"w{i} w4", "rejected")),
            context=" ".join(f"w{(i + k) % 50}" for k in range(20)),
        )
        for i in range(count)
    ]


def write_short(path: Path, count: int = 4) -> Path:
    rows: list[dict[str, Any]] = [
        {"prompt": f"w{i + 10}", "chosen": f"w{i} w6", "rejected": f"w{i} w7"} for i in range(count)
    ]
    rows.append({"prompt": "w1", "chosen": "w2"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_sequences_as_one(tmp_path: Path) -> None:
    long = long_bundles(3)
    rejects = Rejects()
    found, counts = with_short(long, str(write_short(tmp_path / "short.jsonl", 2)), rejects)
    assert len(found) == 5
    assert [bundle.id for bundle in found[1:4]] == [long[1].id, long[2].id, "short-0000001"]
    assert found[-1].branches[0].answer == "w1 w6"
    assert next(iter(found)) is long[0]
    with pytest.raises(IndexError):
        found[5]
    assert counts == {
        "long bundles": 3,
        "short bundles mixed in": 2,
        "short rows set aside: no rejected answer": 1,
    }
    with pytest.raises(MissingError, match="short pairs"):
        with_short(long, str(tmp_path / "nothing.jsonl"), Rejects())


def train(tmp_path: Path, name: str, model: Path, **settings: Any) -> StepResult:
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(RECIPE)
    data = tmp_path / "data"
    if not data.exists():
        write_bundles(data, long_bundles())
    values = {
        "model": str(model),
        "input": str(data),
        "batch": 2,
        "learning_rate": 0.01,
        "gradient_checkpointing": False,
        "save_steps": 2,
        **settings,
    }
    [step] = resolve(load(str(recipe), loaded()), loaded(), flags={"train": values}, project={})
    return execute(step, Run(tmp_path / name, "mixed"), Context(device="cpu"), loaded())


def test_both_kinds_are_trained_on_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = collate.collate

    def watched(items: Any) -> Any:
        seen.extend(item.bundle.id for item in items if item.weight)
        return whole(items)

    monkeypatch.setattr("lcx.training.runner.collate", watched)
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    model = small_model(tmp_path / "model")
    short = write_short(tmp_path / "short.jsonl")
    result = train(tmp_path, "a", model, short=str(short))
    assert result.counts["long bundles"] == 6
    assert result.counts["short bundles mixed in"] == 4
    assert result.counts["short rows set aside: no rejected answer"] == 1
    assert result.counts["bundles"] == 10
    order = seen[-10:]
    assert sorted(order) == sorted(
        [*(f"long-{i}" for i in range(6)), *(f"short-000000{i}" for i in range(1, 5))]
    )
    kinds = "".join(name[0] for name in order)
    assert kinds not in ("llllllssss", "ssssllllll")
    weights = (tmp_path / "a" / "train" / "model" / "model.safetensors").read_bytes()

    class Killed(BaseException):
        pass

    def kill(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runner.Interrupt, "on_step_end", kill)
        with pytest.raises(Killed):
            train(tmp_path, "b", model, short=str(short))
    train(tmp_path, "b", model, short=str(short))
    assert (tmp_path / "b" / "train" / "model" / "model.safetensors").read_bytes() == weights
