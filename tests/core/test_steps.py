"""The frame of steps: items with a journal, what is counted and written, and hooks that go before the core's."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lcx import hookimpl, plugins
from lcx.context import Context
from lcx.errors import LcxError, PluginError
from lcx.llm.settings import Calling
from lcx.plugins import Method, Stage
from lcx.recipe import Step
from lcx.records import Branch, Bundle
from lcx.run import Run
from lcx.settings import Settings, setting
from lcx.steps import SetAside, StepResult, StepWork, execute, forecast


class Count(Settings):
    """A step that counts."""

    upto: int = 3
    shards: int = setting(1, ge=1, description="files")


class Ask(Calling):
    """A step that asks a model."""

    llm: str = "builtin"
    llm_options: dict[str, Any] = setting({}, description="options")


STOP_AT: list[int] = []


def count(work: StepWork[Count]) -> StepResult:
    for shard in work.shards(work.settings.upto):
        shard.write(Bundle(f"b{place}", (Branch("q", "a"),), context=str(place)) for place in shard.places)
    work.write("numbers", ({"n": n} for n in range(work.settings.upto)))
    work.write_text("preview.md", "numbers\n")
    work.counts["numbers"] = work.settings.upto
    return work.done({"most": work.settings.upto - 1}, notes=["counted"])


async def ask(work: StepWork[Ask]) -> StepResult:
    client = work.llm()

    async def one(number: int) -> Mapping[str, Any]:
        if number in STOP_AT:
            raise LcxError("stopped")
        if number % 5 == 4:
            raise SetAside("a multiple", f"{number} + 1")
        await asyncio.sleep(0)
        return {"twice": 2 * number}

    found = await work.each(range(10), one, key=lambda number: f"n{number}", most=2)
    work.write("found", found.values())
    return work.done(extra={"model": client.describe()})


def costs(work: StepWork[Count]) -> dict[str, Any]:
    return {"numbers": work.settings.upto}


class Counting:
    """A method whose stages are functions of this module, and one that a hook runs."""

    @hookimpl
    def lcx_register_methods(self, register: Callable[..., None]) -> None:
        here = "tests.core.test_steps"
        stages = {
            "synth": Stage(Count, f"{here}:count", f"{here}:costs"),
            "score": Stage(Ask, f"{here}:ask"),
            "eval": Count,
        }
        register(Method("counting", "counts", stages))


class Override:
    """Runs one step by itself, and wraps all others."""

    def __init__(self) -> None:
        self.wrapped: list[str] = []

    @hookimpl(tryfirst=True)
    def lcx_synth(self, step: Step) -> StepResult | None:
        return StepResult(notes=["mine"]) if step.id == "mine" else None

    @hookimpl(wrapper=True)
    def lcx_score(self, step: Step) -> Any:
        self.wrapped.append(step.id)
        return (yield)


def step(stage: str, settings: Settings, step_id: str = "") -> Step:
    return Step(step_id or stage, stage, "counting", "r", settings)


@pytest.fixture
def loaded() -> plugins.Plugins:
    return plugins.load(extra={"counting": Counting()})


def done(one: Step, folder: Path, loaded: plugins.Plugins) -> StepResult:
    return execute(one, Run(folder, "r"), Context(), loaded)


def test_what_a_function_writes_and_counts_is_the_result(tmp_path: Path, loaded: plugins.Plugins) -> None:
    result = done(step("synth", Count(upto=5, shards=2)), tmp_path, loaded)
    assert result.counts == {"numbers": 5}
    assert result.metrics == {"most": 4}
    assert result.notes == ["counted"]
    assert result.files == {"data": "data", "numbers": "numbers.jsonl", "preview": "preview.md"}
    names = sorted(path.name for path in (tmp_path / "synth" / "data").iterdir())
    assert names == ["bundles-00000-of-00002.parquet", "bundles-00001-of-00002.parquet"]
    assert forecast(step("synth", Count(upto=7)), Run(tmp_path, "r"), Context(), loaded) == {"numbers": 7}


def test_items_are_journalled_and_rejects_counted_once(tmp_path: Path, loaded: plugins.Plugins) -> None:
    STOP_AT[:] = [7]
    with pytest.raises(LcxError, match="stopped"):
        done(step("score", Ask()), tmp_path, loaded)
    journal = [json.loads(line) for line in (tmp_path / "score" / "journal.jsonl").read_text().splitlines()]
    assert {row["unit"] for row in journal} >= {f"n{n}" for n in (0, 1, 2, 3, 5)}
    STOP_AT[:] = [0, 1, 2, 3, 5]  # those are in the journal, and are not done again
    result = done(step("score", Ask()), tmp_path, loaded)
    STOP_AT.clear()
    rows = [json.loads(line) for line in (tmp_path / "score" / "found.jsonl").read_text().splitlines()]
    assert [row["twice"] for row in rows] == [0, 2, 4, 6, 10, 12, 14, 16]
    assert result.counts["set aside: a multiple"] == 2
    assert result.files["rejected"] == "rejected.jsonl"
    rejected = [json.loads(line) for line in (tmp_path / "score" / "rejected.jsonl").read_text().splitlines()]
    assert [(row["where"], row["detail"]) for row in rejected] == [("n4", "4 + 1"), ("n9", "9 + 1")]
    assert Run(tmp_path, "r").manifest["steps"]["score"]["extra"]["model"]["backend"] == "builtin"


def test_plugins_override_and_wrap_the_core(tmp_path: Path) -> None:
    override = Override()
    loaded = plugins.load(extra={"counting": Counting(), "override": override})
    assert done(step("synth", Count(), "mine"), tmp_path, loaded).notes == ["mine"]
    assert done(step("synth", Count()), tmp_path, loaded).notes == ["counted"]
    done(step("score", Ask()), tmp_path, loaded)
    assert override.wrapped == ["score"]


def test_a_stage_that_nobody_runs_is_said(tmp_path: Path, loaded: plugins.Plugins) -> None:
    with pytest.raises(PluginError, match="no plugin ran the step 'eval'"):
        done(step("eval", Count()), tmp_path, loaded)


def test_settings_without_models_ask_none(tmp_path: Path) -> None:
    work: StepWork[Any] = StepWork(step("synth", Count()), Run(tmp_path, "r"), Context())
    with pytest.raises(TypeError, match="Count asks a model, and does not inherit from Calling"):
        work.llm("upto")


def test_what_a_corpus_and_what_a_step_set_aside_are_both_kept(tmp_path: Path) -> None:
    from lcx.data.settings import CorpusSettings

    def cut(work: StepWork[CorpusSettings]) -> StepResult:
        work.table(min_tokens=4, mode="lines")
        work.rejects.add("cut", "an item that failed", where="n1")
        return work.done()

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good.txt").write_text("a line of a few plain words\n" * 9)
    (corpus / "bad.txt").write_bytes(b"\x00\x01\x02" * 99)
    work: StepWork[CorpusSettings] = StepWork(
        step("synth", CorpusSettings(corpus=str(corpus))), Run(tmp_path / "run", "r"), Context()
    )
    work.folder.mkdir(parents=True)
    result = cut(work)
    kept = {path.name: path.read_text() for path in work.folder.glob("rejected*.jsonl")}
    assert "bad.txt" in kept["rejected.jsonl"]
    assert "an item that failed" in kept[result.files["rejected"]]
    assert result.counts["set aside: an item that failed"] == 1


def test_the_rows_of_items_are_read_from_the_journal(tmp_path: Path) -> None:
    """Of many items the names are in memory, and a row that the journal does not keep."""
    work: StepWork[Any] = StepWork(step("score", Ask()), Run(tmp_path, "r"), Context())

    async def one(number: int) -> dict[str, Any]:
        return {"text": f"{number}" * 3000}

    async def all_of_it() -> Any:
        return await work.each(range(300), one, key=str, keep=lambda row: row["unit"] != "7")

    tracemalloc.start()
    found = asyncio.run(all_of_it())
    assert tracemalloc.get_traced_memory()[0] < 150_000
    tracemalloc.stop()
    work.close()
    assert [row["text"] for row in found.values()] == [f"{number}" * 3000 for number in range(300)]
    assert found["7"] == {"unit": "7", "text": "7" * 3000}
    assert found.get("300") is None
