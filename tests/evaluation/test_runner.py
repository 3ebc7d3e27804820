"""A whole evaluation of a tiny model on a CPU: what is written, what a kill leaves, what is too long."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from lcx.context import Context
from lcx.data.stdlib import catalogue_documents, load_entities, vocabulary
from lcx.data.templates import load_template
from lcx.errors import UsageError
from lcx.evaluation.local_model import LocalModel
from lcx.evaluation.runner import run_tasks
from lcx.evaluation.samples import TaskData, stop_ids, with_items
from lcx.evaluation.settings import EvalSettings
from lcx.modeling.tiny import build_tokenizer, new_model
from lcx.records import Bundle, Document
from tests.evaluation.tasks import build, score_predictions, task

NAME = "val:database"


def varied(seed: int, vocabulary: int) -> Any:
    """A model with large random weights: its answers differ from question to question."""
    made = new_model(seed, vocabulary)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.24, generator=draw)
    return made


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(vocabulary(load_entities()))


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Any:
    return varied(0, len(tokenizer))


@pytest.fixture(scope="module")
def bundles() -> list[Bundle]:
    documents = [Document(**row) for row in catalogue_documents(20, 1)]
    return build(NAME, documents, size=12, sets=3, style="bare")


def context() -> tuple[Context, io.StringIO]:
    said = io.StringIO()
    return Context(console=Console(file=said, width=200)), said


def settings(**more: Any) -> EvalSettings:
    return EvalSettings(**{"tasks": (NAME,), "span": 4, "max_new_tokens": 3, "model": "tiny", **more})


def run(
    bundles: list[Bundle], model: Any, tokenizer: Any, folder: Path, ctx: Context | None = None, **more: Any
) -> dict[str, Any]:
    """The scores of one probe's bundles."""
    given = settings(**more)
    ctx = ctx or context()[0]
    one = TaskData(
        NAME, task(NAME), given, load_template("tiny"), 3, given.too_long or "error", with_items(bundles)
    )
    scores, _ = run_tasks([one], LocalModel.of(model, tokenizer, given, ctx), folder, ctx)
    return scores[NAME]


def prompt_of(tokenizer: Any, bundle: Bundle, number: int) -> list[int]:
    """The whole prompt of one question, tokenised at once."""
    text = f"{bundle.context}\n? {bundle.branches[number].question} ="
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions-val-database.jsonl").read_text().splitlines()]


def test_what_is_written(tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]) -> None:
    ctx, said = context()
    folder = tmp_path / "out"
    task = run(bundles, model, tokenizer, folder, ctx)
    assert {path.name for path in folder.iterdir()} == {"predictions-val-database.jsonl", "journal.jsonl"}
    assert (task["n"], task["nulls"], task["contexts"], len(task["spans"])) == (36, 0, 3, 3)
    assert len(task["intervals"]) == 3
    assert {"gap_test", "u_shape", "estimate", "material", "refused", "duplicates", "prompt"} <= task.keys()
    rows = rows_of(folder)
    assert [(row["set_id"], row["position_id"]) for row in rows] == [
        (s, p) for s in range(3) for p in range(12)
    ]
    # Predictions are those of the library's own generation on the whole prompt.
    for number in (0, 17, 35):
        ids = torch.tensor([prompt_of(tokenizer, bundles[number // 12], number % 12)])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        assert rows[number]["pred"] == tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert len({row["pred"] for row in rows}) > 5
    assert "36 of 36 answers, 3/3 contexts" in said.getvalue()
    assert len({row["item"] for row in rows}) == 36
    assert rows[13]["item"] == f"{bundles[1].id}#1"
    assert {row["context"] for row in rows} == {bundle.id for bundle in bundles}
    assert {row["finish"] for row in rows} <= {"stop", "length"}
    assert all(row["question"] and "«" in row["excerpt"] for row in rows)
    assert task["average"] == pytest.approx(sum(row["score"] for row in rows) / 36)
    # The rows carry all that scoring needs.

    again = score_predictions(NAME, folder / "predictions-val-database.jsonl", span=4)
    for key in ("average", "spans", "intervals", "estimate", "gap_test", "u_shape", "data"):
        assert again[key] == task[key], key


class Stops:
    """An answerer that is interrupted when it has given so many answers."""

    def __init__(self, inner: Any, after: int | None) -> None:
        self.inner, self.after, self.given = inner, after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def answer(self, jobs: Any, *, max_new_tokens: int, on_answer: Any) -> Any:
        def told(job: int, place: int, answer: Any) -> None:
            on_answer(job, place, answer)
            self.given += 1
            if self.given == self.after:
                raise KeyboardInterrupt

        return self.inner.answer(jobs, max_new_tokens=max_new_tokens, on_answer=told)


def test_a_killed_run_goes_on_inside_a_context(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = LocalModel.answerer, []

    def answerer(after: int | None) -> Any:
        def get(self: LocalModel, template: Any, *_: Any) -> Any:
            if not made:
                made.append(Stops(real(self, template), after))
            return made[0]

        return get

    monkeypatch.setattr(LocalModel, "answerer", answerer(17))
    with pytest.raises(KeyboardInterrupt):
        run(bundles, model, tokenizer, tmp_path / "a", batch=5)
    journal = tmp_path / "a" / "journal.jsonl"
    kept = journal.read_bytes().count(b"\n")
    assert kept == 17, "those that were answered, and some are of a context that is not done"
    journal.write_bytes(journal.read_bytes() + b'{"unit": "torn')
    made.clear()
    monkeypatch.setattr(LocalModel, "answerer", answerer(None))
    run(bundles, model, tokenizer, tmp_path / "a", batch=5)
    assert made[0].given == 36 - 17
    made.clear()
    run(bundles, model, tokenizer, tmp_path / "b", batch=5)
    assert made[0].given == 36
    name = "predictions-val-database.jsonl"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_journal_of_another_model_is_not_used(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]
) -> None:
    other = varied(1, len(tokenizer))
    run(bundles, model, tokenizer, tmp_path / "a")
    first = rows_of(tmp_path / "a")
    run(bundles, other, tokenizer, tmp_path / "a")
    run(bundles, other, tokenizer, tmp_path / "b")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") != first


def test_without_reuse_the_answers_are_the_same(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]
) -> None:
    ctx, said = context()
    run(bundles, model, tokenizer, tmp_path / "a", check=3)
    run(bundles, model, tokenizer, tmp_path / "b", ctx, reuse=False)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert "every question reads its context anew" in said.getvalue()


def test_the_self_check_is_reported_and_not_done_twice(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcx.evaluation import runner

    asked = []
    real = runner.self_check
    monkeypatch.setattr(
        runner, "self_check", lambda *args, **more: (asked.append(args[2]), real(*args, **more))[1]
    )
    given, ctx = settings(check=3), context()[0]
    one = TaskData(NAME, task(NAME), given, load_template("tiny"), 3, "error", with_items(bundles))
    for _ in range(2):
        _, how = run_tasks([one], LocalModel.of(model, tokenizer, given, ctx), tmp_path, ctx)
        assert (how["reuse"], how["check"]["checked"]) == (True, 3)
        assert how["check"]["equal"] + how["check"]["ties"] == 3
    assert asked == [3]


def test_too_long_contexts(tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle]) -> None:
    longest = {len(tokenizer.encode(bundle.context or "", add_special_tokens=False)) for bundle in bundles}
    assert longest == {155}, "twelve records of 12 tokens, and newlines"
    with pytest.raises(UsageError) as error:
        run(bundles, model, tokenizer, tmp_path / "e", window=100)
    words = error.value.what + error.value.hint
    assert "162" in error.value.what  # 155, a question of 4, an answer of 3
    assert "100" in error.value.what
    assert "options.val:database.size" in words
    assert not (tmp_path / "e").exists()
    assert run(bundles, model, tokenizer, tmp_path / "x", window=162)["n"] == 36

    task = run(bundles, model, tokenizer, tmp_path / "d", window=100, too_long="drop")
    # What was never asked is no wrong answer: dropped contexts leave the score alone.
    assert (task["dropped"], task["skipped"], task["average"], task["truncated"]) == (3, 36, None, 0)
    assert task["nulls"] == 0
    assert {row["pred"] for row in rows_of(tmp_path / "d")} == {None}

    task = run(bundles, model, tokenizer, tmp_path / "t", window=100, too_long="truncate-middle")
    assert (task["dropped"], task["nulls"], task["truncated"]) == (0, 0, 3)
    subject = LocalModel.of(model, tokenizer, settings(window=100), context()[0])
    job = subject.encode(bundles[0], load_template("tiny"), 3, "truncate-middle")
    assert job.encoded is not None
    assert len(job.encoded.prefix) + job.encoded.branches[0].answer_start + 3 == 100
    whole = prompt_of(tokenizer, bundles[0], 0)
    row = [*job.encoded.prefix.tolist(), *job.encoded.branches[0].ids]
    assert row[:40] == whole[:40]
    assert row[-40:] == whole[-40:]
    assert job.cut == len(whole) - 97
    subject.window = 7
    with pytest.raises(UsageError):
        subject.encode(bundles[0], load_template("tiny"), 3, "truncate-middle")


def test_the_models_own_window_counts(
    tmp_path: Path, model: Any, tokenizer: Any, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.config, "max_position_embeddings", 128)
    with pytest.raises(UsageError, match="window is 128"):
        run(bundles, model, tokenizer, tmp_path)
    run(bundles, model, tokenizer, tmp_path, window=500)


def test_end_tokens(model: Any, tokenizer: Any) -> None:
    assert stop_ids(model, tokenizer) == {2}
    assert stop_ids(model, tokenizer, " ;") == {2, tokenizer.convert_tokens_to_ids(" ;")}
    assert stop_ids(model, tokenizer, " ; ;") == {2}
