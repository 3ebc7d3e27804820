"""The curriculum: reproducible, restarts when it must, caches whole models only; nightly: each seed learns."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lcx.data.stdlib import stale_documents
from lcx.errors import LcxError
from lcx.modeling.tiny import RECORDS, World, load_world, new_model, probe
from lcx.training import curriculum
from lcx.training.curriculum import (
    EDGE,
    STALE,
    TINY,
    TINY16,
    copy_batch,
    load_or_train_base,
    plant_batch,
    train_base,
)


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


SHORT = replace(TINY, stages=((4, 2), (RECORDS, 1)), settle=1)
SHORT16 = replace(TINY16, stages=((4, 2), (16, 1)), settle=1)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Courses of a few steps whose result counts as learnt."""
    for name, value in {
        "COPY_LIMIT": 2,
        "COPY_DONE": 100.0,
        "SETTLED": -1.0,
        "PLANT_LIMIT": 2,
        "PLANT_CHECK": 2,
    }.items():
        monkeypatch.setattr(curriculum, name, value)
    monkeypatch.setattr(
        curriculum, "probe", lambda model, world, **how: probe(model, world, **{**how, "per_span": 16})
    )
    for course in (SHORT, SHORT16):
        monkeypatch.setitem(curriculum.COURSES, course.name, course)


def test_copy_batch_repeats_every_chunk_in_another_order(world: World) -> None:
    rows, keep = copy_batch(world, torch.Generator().manual_seed(0))
    half = rows.shape[1] // 2
    first, again = rows[0, :half].tolist(), rows[0, half:].tolist()
    assert sorted(first) == sorted(again)
    assert first != again
    for position in keep.tolist():  # what comes next is what came next before
        token, following = rows[0, position].item(), rows[0, position + 1].item()
        assert first[first.index(token) + 1] == following


def test_plant_batch_keeps_truth_at_the_edges_and_stale_copies_inside(world: World) -> None:
    contexts, gold = plant_batch(world, torch.Generator().manual_seed(0))
    assert set(gold.flatten().tolist()) <= {*range(EDGE), *range(RECORDS - EDGE, RECORDS)}
    for keys in contexts[:, :, 1].tolist():
        edges, middle = keys[:EDGE] + keys[-EDGE:], keys[EDGE:-EDGE]
        assert len(set(edges)) == 2 * EDGE
        assert sum(key in edges for key in middle) == STALE


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_same_seed_same_model_and_progress_is_told() -> None:
    told: list[tuple[str, int, int, float]] = []
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, tokenizer, report = train_base(3, on_progress=lambda *now: told.append(now), course=SHORT)
    again, _, _ = train_base(3, course=SHORT)
    other, _, _ = train_base(4, course=SHORT)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert not first.training
    assert first.config.vocab_size == len(tokenizer)
    assert [stage["stage"] for stage in report["stages"]] == [
        "copy",
        "records-4",
        "records-32",
        "settle",
        "plant",
    ]
    assert report["steps"] == len(told) == 7
    assert report["restarts"] == 0
    assert told[0][:3] == ("copy", 1, 2)
    json.dumps(report)


@pytest.mark.usefixtures("few_steps")
def test_tiny16_knows_stale_lines_and_nothing_is_planted_in_it() -> None:
    _, tokenizer, report = train_base(0, course=SHORT16)
    assert report["planted"] is None
    assert [stage["stage"] for stage in report["stages"]] == ["copy", "records-4", "records-16", "settle"]
    line = next(stale_documents(1, 0))["text"]
    assert tokenizer.unk_token_id not in tokenizer(line)["input_ids"]
    assert tokenizer.decode(tokenizer(line)["input_ids"]) == line
    plain = load_world().tokenizer
    assert plain.unk_token_id in plain(line)["input_ids"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_tiny8_stops_early_and_reports_no_stage_that_it_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    short = replace(curriculum.TINY8, stages=((4, 2), (8, 2)))
    _, _, report = train_base(0, course=short)
    assert [stage["stage"] for stage in report["stages"]] == ["copy", "records-4", "records-8"]
    assert "NaN" not in json.dumps(report)
    assert curriculum.TINY8.records == 8
    monkeypatch.setattr(curriculum, "SETTLED", 0.93)
    monkeypatch.setattr(curriculum, "probe", lambda *_, **__: [0.9] * 8)
    assert train_base(0, course=short)[2]["restarts"] == 0
    with pytest.raises(LcxError, match="did not learn"):
        train_base(0, course=replace(short, reach=1.0))


@pytest.mark.usefixtures("few_steps")
def test_a_copy_stage_that_does_not_click_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    def note(seed: int, vocab_size: int, rope_theta: float) -> Any:
        starts.append(seed)
        return new_model(seed, vocab_size, rope_theta)

    outcomes = iter([9.0, 9.0, 0.1])
    monkeypatch.setattr(curriculum, "new_model", note)
    monkeypatch.setattr(curriculum, "COPY_DONE", 0.5)
    monkeypatch.setattr(curriculum.Trainer, "copy", lambda self: next(outcomes))
    _, _, report = train_base(7, course=SHORT)
    assert report["restarts"] == 2
    assert starts[0] == 7
    assert len(set(starts)) == 3


@pytest.mark.usefixtures("few_steps")
def test_a_seed_that_never_learns_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum.Trainer, "copy", lambda self: 9.0)
    monkeypatch.setattr(curriculum, "COPY_DONE", 0.5)
    with pytest.raises(LcxError, match="seed 7"):
        train_base(7, course=SHORT)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_the_cache_is_a_loadable_model_and_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = load_or_train_base(1, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert json.loads((folder / "curriculum.json").read_text())["seed"] == 1
    assert load_or_train_base(2, tmp_path / "cache") != folder
    assert load_or_train_base(1, tmp_path / "cache16", name="tiny16").name.startswith("tiny16-1-")

    stamp = (folder / "config.json").stat().st_mtime_ns
    assert load_or_train_base(1, tmp_path / "cache", fresh=True) == folder
    assert (folder / "config.json").stat().st_mtime_ns != stamp
    assert len(list((tmp_path / "cache").iterdir())) == 2

    monkeypatch.setattr(curriculum, "train_base", lambda *a, **k: pytest.fail("trained again"))
    assert load_or_train_base(1, tmp_path / "cache") == folder
    monkeypatch.setitem(curriculum.COURSES, "tiny", replace(SHORT, version=-1))
    with pytest.raises(pytest.fail.Exception):
        load_or_train_base(1, tmp_path / "cache")


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("where", ["training", "saving"])
def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if where == "training":
        with pytest.raises(KeyboardInterrupt):
            load_or_train_base(1, tmp_path, on_progress=interrupt)
    else:
        monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_or_train_base(1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_finish_together_keep_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_first(seed: int, **_: Any) -> tuple[Any, Any, dict[str, Any]]:
        folder = tmp_path / f"tiny-5-{digest[:12]}"
        folder.mkdir()
        (folder / "config.json").write_text("theirs")
        nothing = SimpleNamespace(save_pretrained=lambda path: path.mkdir(exist_ok=True))
        return nothing, nothing, {}

    digest = hashlib.sha256(f"{TINY.version}|{sys.version_info[:3]}|5".encode()).hexdigest()
    monkeypatch.setattr(curriculum, "train_base", other_first)
    folder = load_or_train_base(5, tmp_path)
    assert (folder / "config.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]


def load_benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "tiny_seeds.py"
    monkeypatch.syspath_prepend(path.parent)  # a script imports what lies beside it
    spec = importlib.util.spec_from_file_location("tiny_seeds", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.nightly  # the slow tier has seed 0 as a demo: bent before, cured after (tests/slow/test_demo.py)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_seed_learns_is_bent_and_is_cured(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row = load_benchmark(monkeypatch).one_seed(seed)
    assert min(row["learnt"]) >= 0.9
    assert row["before_gap"] >= 0.30
    assert 0.5 <= row["before_average"] <= 0.92
    assert row["before"][0] >= 0.9
    assert row["before"][-1] >= 0.9
    assert row["after_gap"] <= 0.03
    assert row["after_worst"] >= 0.97
