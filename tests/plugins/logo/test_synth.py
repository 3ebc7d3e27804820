"""LOGO's synth step as a user runs it: from texts to filtered bundles, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lcx_logo.importance import Builtin, score

from lcx.data.bundles import read_bundles
from lcx.data.table import load_table
from lcx.errors import LcxError, MissingError, UsageError
from lcx.llm import open_llm
from lcx.llm.protocol import Completion, Request, Response
from lcx.records import Bundle
from lcx.run import Run
from tests.plugins.logo.corpora import Scripted, digests, synth, write_corpus, write_rows

ANSWER, JUDGE = "answer_question", "judge_overlap"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def bundles_of(run: Path, name: str = "bundles") -> list[Bundle]:
    return list(read_bundles(run / "synth" / "data", name))


def scripted(monkeypatch: pytest.MonkeyPatch, reply: Any) -> Scripted:
    """Answers by `reply` where it gives something, else by the builtin rules."""
    builtin = open_llm("builtin")
    found = Scripted(lambda request: reply(request) or builtin.generate([request])[0])
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: found)
    return found


@pytest.mark.parametrize("rejected", [1, 2, 4])
def test_bundles_hold_one_chosen_answer_and_worse_ones(tmp_path: Path, corpus: Path, rejected: int) -> None:
    result = synth(tmp_path / "run", corpus=str(corpus), rejected=rejected)
    found = bundles_of(tmp_path / "run")
    table = load_table(tmp_path / "run" / "synth" / "data")
    assert len(found) == result.metrics["contexts"] > 25
    assert len(bundles_of(tmp_path / "run", "candidates")) == 40
    for bundle in found:
        chosen, *others = bundle.branches
        assert chosen.role == "chosen"
        assert 1 <= len(others) <= rejected
        assert {branch.role for branch in others} == {"rejected"}
        assert len({branch.question for branch in bundle.branches}) == 1
        assert len({branch.answer for branch in bundle.branches}) == len(bundle.branches)
        assert all(chosen.meta["rating"] - branch.meta["rating"] >= 0.1 - 1e-9 for branch in others)
        assert bundle.plan is not None
        evidence = "\n".join(table.text(bundle.plan[place]) for place in chosen.gold)
        assert "____" not in chosen.answer
        if "gap" in chosen.question and bundle.kind == "written":
            assert chosen.answer.split("“")[1].split("”")[0] in evidence
    assert {b.kind for b in found} == {"written", "joint"}


@pytest.mark.parametrize("lines", [40, 5])
def test_all_provenance_is_kept(tmp_path: Path, lines: int) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=12, lines=lines)  # with 5 lines, other documents fill up
    synth(tmp_path / "run", corpus=str(corpus), rejected=4)
    table = load_table(tmp_path / "run" / "synth" / "data")
    mixtures = 0
    for bundle in bundles_of(tmp_path / "run", "candidates"):
        meta, plan = bundle.meta, bundle.plan
        assert plan is not None
        extractor = Builtin()
        items = [tuple(item.split()) for item in meta["items"]]
        scores = {c: score(items, extractor.chunk(table.text(c))) for c in range(len(table))}
        assert meta["scores"] == [scores[c] for c in plan]
        assert meta["threshold"] == len(items) / 2
        assert meta["document"] == table.document(table.document_of(meta["source"][0])).id
        assert set(meta["source"]) <= set(meta["critical"]) <= set(plan)
        assert {plan[place] for place in bundle.branches[0].gold} == set(meta["critical"])
        assert meta["tokens"] == sum(int(table.tokens[c]) for c in plan) + len(plan) - 1
        assert meta["filled"] == sum(
            table.document(table.document_of(c)).id != meta["document"] for c in plan
        )
        assert bool(meta["filled"]) == (lines == 5)
        assert meta["reference"]
        assert bundle.branches[0].meta["from"] == "critical"
        assert len(bundle.branches) == 5
        for place, branch in enumerate(bundle.branches):
            assert branch.meta["scores"] == [scores[c] for c in branch.meta["chunks"]]
            held = set(branch.meta["chunks"]) & set(meta["critical"])
            if branch.meta["from"] == "irrelevant":
                assert not held
                assert all(scores[c] < meta["threshold"] for c in branch.meta["chunks"])
            elif branch.meta["from"] == "mixture":
                mixtures += 1
                assert place in (2, 4)
                assert 0 < len(held) <= len(meta["critical"]) / 2
            else:
                assert held == set(branch.meta["chunks"]) == set(meta["critical"])
    assert mixtures > 5
    assert "critical" in (tmp_path / "run" / "synth" / "preview.md").read_text()


def test_the_policy_is_asked_without_the_answer_and_the_judge_with_it(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = scripted(monkeypatch, lambda request: None).seen
    synth(tmp_path / "run", corpus=str(corpus), examples=8, temperature=0.6, top_p=0.9, answer_tokens=99)
    asked = [r for r in seen if r.task == ANSWER]
    assert len(asked) == 24
    for request in asked:
        assert (request.temperature, request.top_p, request.max_tokens, request.stop) == (0.6, 0.9, 99, ())
        assert request.fields["question"] in request.messages[0]["content"]
        assert "\n".join(request.fields["context"]) in request.messages[0]["content"]
        assert set(request.fields) == {"question", "context"}
    assert len({r.seed for r in asked}) == 24
    judged = [r for r in seen if r.task == JUDGE]
    assert judged
    assert all(r.fields["answer"] in r.messages[0]["content"] for r in judged)
    assert all(r.temperature == 0 for r in judged)
    for request in judged:
        assert request.fields["evidence"]
        assert "\n\n".join(request.fields["evidence"]) in request.messages[0]["content"]
    again = scripted(monkeypatch, lambda request: None).seen
    synth(tmp_path / "again", corpus=str(corpus), examples=8, temperature=0.6, top_p=0.9, answer_tokens=99)
    assert again == seen


def test_answers_keep_their_newlines(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "First line\n\n- a point\n\tindented; done"
    turn = iter(range(10**6))

    def reply(request: Request) -> str | None:
        return f"  {text} {next(turn)}\n" if request.task == ANSWER else None

    scripted(monkeypatch, reply)
    synth(tmp_path / "run", corpus=str(corpus), filter=False)
    found = {branch.answer for bundle in bundles_of(tmp_path / "run") for branch in bundle.branches}
    assert found == {f"{text} {number}" for number in range(120)}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path, corpus: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synth(tmp_path / name, corpus=str(corpus), seed=seed, shards=3)
    a, b, c = (digests(tmp_path / name / "synth" / "data") for name in "abc")
    assert a == b
    assert sum(name.startswith("bundles") for name in a) == 3
    assert a["bundles-00000-of-00003.parquet"] != c["bundles-00000-of-00003.parquet"]
    assert a["table.json"] == c["table.json"]


@pytest.mark.parametrize(
    "stop_after", [11, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 2, 7, 14))]
)
def test_a_step_stopped_between_batches_resumes_to_the_same_bytes(
    tmp_path: Path, corpus: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = synth(tmp_path / "whole", corpus=str(corpus), shards=2)
    real, calls = open_llm, [0]
    monkeypatch.setattr("lcx.llm.check_llm", lambda *_: None)

    class Stops:
        def __init__(self, *args: Any) -> None:
            self.inner = real("builtin")

        def generate(self, requests: Sequence[Request]) -> list[Response]:
            if calls[0] == stop_after:
                raise KeyboardInterrupt
            calls[0] += 1
            return self.inner.generate(requests)

        def describe(self) -> dict[str, Any]:
            return self.inner.describe()

        def close(self) -> None: ...

    monkeypatch.setattr("lcx.llm.open_llm", Stops)
    with pytest.raises(KeyboardInterrupt):
        synth(tmp_path / "cut", corpus=str(corpus), shards=2, llm="local:rules", judge="local:rules")
    assert Run(tmp_path / "cut", "logo").state("synth") == "interrupted"
    before, calls[0] = calls[0], 100
    result = synth(tmp_path / "cut", corpus=str(corpus), shards=2, llm="local:rules", judge="local:rules")
    assert digests(tmp_path / "cut" / "synth" / "data") == digests(tmp_path / "whole" / "synth" / "data")
    known = result.counts.pop("calls from the journal", 0)
    assert result.counts == whole.counts
    assert (known > 0) == (before > 0)
    assert before + (calls[0] - 100) == 16  # no batch was asked twice


def test_a_kill_between_shards_loses_nothing(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lcx.data.bundles as module

    synth(tmp_path / "whole", corpus=str(corpus), shards=4)
    real, written = module.write_bundles, []

    def stops(*args: Any, **options: Any) -> Any:
        if len(written) == 3:  # the second shard's candidates are there, its bundles are not
            raise KeyboardInterrupt
        written.append(options)
        return real(*args, **options)

    monkeypatch.setattr(module, "write_bundles", stops)
    with pytest.raises(KeyboardInterrupt):
        synth(tmp_path / "cut", corpus=str(corpus), shards=4)
    monkeypatch.setattr(module, "write_bundles", real)
    synth(tmp_path / "cut", corpus=str(corpus), shards=4)
    assert digests(tmp_path / "cut" / "synth" / "data") == digests(tmp_path / "whole" / "synth" / "data")


def test_what_the_filter_drops_is_counted_and_kept_aside(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = [0]

    def reply(request: Request) -> Response | None:
        if request.task != ANSWER:
            return None
        turn[0] += 1
        number, which = divmod(turn[0] - 1, 3)
        case = number % 5
        if case == 0:
            return Response((Completion("all alike"),))
        if case == 1 and which == 0:
            return Response((Completion(" \n "),))
        if case == 2 and which == 1:
            return Response((), error="the server hung up")
        if case == 3 and which == 0:
            return Response((Completion("on and on", "length"),))
        return None

    scripted(monkeypatch, reply)
    result = synth(tmp_path / "run", corpus=str(corpus), joint=0)
    assert result.counts["rejected answer dropped: the same as the chosen answer"] >= 16
    assert result.counts["example dropped: no rejected answer is left"] >= 8
    assert result.counts["example dropped: chosen answer: empty"] == 8
    assert result.counts["example dropped: chosen answer: cut at answer_tokens"] == 8
    assert result.counts["rejected answer dropped: the request failed"] == 8
    kept = bundles_of(tmp_path / "run")
    rows = [json.loads(x) for x in (tmp_path / "run" / "synth" / "dropped.jsonl").read_text().splitlines()]
    gone = {row["id"] for row in rows if not row["kept"]}
    assert len(gone) + len(kept) == 40
    assert not gone & {b.id for b in kept}
    assert all(row["reason"] or any(a["reason"] for a in row["answers"]) for row in rows)
    assert any(a["error"] == "the server hung up" for row in rows for a in row["answers"])
    assert any("the filter kept" in note for note in result.notes)


def test_without_the_filter_the_judge_is_not_asked(tmp_path: Path, corpus: Path) -> None:
    result = synth(tmp_path / "run", corpus=str(corpus), filter=False)
    assert result.counts.get("judge calls", 0) == 0
    assert all("rating" not in b.meta for bundle in bundles_of(tmp_path / "run") for b in bundle.branches)


def test_a_policy_that_always_says_the_same_is_an_error_with_the_reason(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, lambda r: Response((Completion("I do not know."),)) if r.task == ANSWER else None)
    with pytest.raises(LcxError, match="dropped all 40 examples") as caught:
        synth(tmp_path / "run", corpus=str(corpus))
    assert "no rejected answer is left (40)" in caught.value.why


ROWS = [
    {
        "id": f"row{n}",
        "context": "\n".join(
            [
                f"In {1800 + n * 7 + k} the harbour of Port {name}ville sent {k + 30} ships with tea."
                for k in range(6)
            ]
            + [f"The mayor of {name}ville was Sir Hugo {name}son."]
            + [f"Fishing near {k} reefs was forbidden by night." for k in range(12)]
        ),
        "question": f"Who was the mayor of {name}ville?",
        "answer": f"Sir Hugo {name}son",
    }
    for n, name in enumerate(("Skua", "Tern", "Fulmar", "Gannet", "Puffin", "Razorbill", "Petrel", "Dunlin"))
]


def test_the_corpus_own_questions_come_first(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, files=4)
    write_rows(corpus / "rows.jsonl", ROWS)
    result = synth(tmp_path / "run", corpus=str(corpus), examples=20, segment_tokens=20)
    assert result.counts["questions of the corpus"] == 8
    assert result.counts["questions written"] == 12
    own = [b for b in bundles_of(tmp_path / "run", "candidates") if b.kind == "corpus"]
    assert {b.branches[0].question for b in own} == {row["question"] for row in ROWS}
    for bundle in own:
        assert bundle.meta["source"] == []
        assert bundle.meta["critical"]
        assert bundle.meta["reference"].startswith("Sir Hugo")
        assert bundle.branches[0].meta["rating"] > 0.4
    written = [b for b in bundles_of(tmp_path / "run", "candidates") if b.kind != "corpus"]
    assert all(b.meta["document"].startswith("log") for b in written)  # rows that ask are not asked about


def test_corpus_answers_may_be_the_chosen_ones(tmp_path: Path) -> None:
    corpus = write_rows(
        tmp_path / "rows.jsonl", [*ROWS, {**ROWS[0], "context": ROWS[1]["context"], "answer": ""}]
    )
    result = synth(
        tmp_path / "run", corpus=str(corpus), qa="corpus", answers="corpus", repeats=1, segment_tokens=20
    )
    assert result.counts["question skipped: the corpus gives no answer to it"] == 1
    assert result.counts["policy calls"] == 16
    found = bundles_of(tmp_path / "run")
    assert {b.branches[0].answer for b in found} <= {str(row["answer"]) for row in ROWS}
    assert {b.branches[0].meta["from"] for b in found} == {"corpus"}


def test_too_few_questions_serve_several_examples_with_other_chunks(tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.jsonl", ROWS)
    result = synth(tmp_path / "run", corpus=str(corpus), qa="corpus", repeats=3, segment_tokens=20)
    assert any("8 different questions serve 24 examples of the 40 wanted" in note for note in result.notes)
    found = bundles_of(tmp_path / "run", "candidates")
    assert len(found) == 24
    same = [b.plan for b in found if b.branches[0].question == ROWS[0]["question"]]
    assert len(same) == len(set(same)) == 3


def test_questions_in_chinese(tmp_path: Path) -> None:
    names = "东南西北中山水火"
    rows = [
        {
            "context": "".join(f"第{k}天，{name}岛的渔船运来{k + 20}箱茶叶。" for k in range(20))
            + f"{name}岛灯塔的看守人叫作小{name}。"
            + "".join(f"夜里禁止在第{k}号礁石附近捕鱼。" for k in range(20)),
            "question": f"{name}岛灯塔的看守人是谁？",
            "answer": f"小{name}",
        }
        for name in names
    ]
    corpus = write_rows(tmp_path / "rows.jsonl", rows)
    synth(tmp_path / "run", corpus=str(corpus), qa="corpus", repeats=1, segment_tokens=40)
    table = load_table(tmp_path / "run" / "synth" / "data")
    found = bundles_of(tmp_path / "run", "candidates")
    assert len(found) == 8
    for bundle in found:
        assert all("看守人" in table.text(c) for c in bundle.meta["critical"])
        assert bundle.branches[0].answer.endswith(f"{bundle.meta['reference']}。")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": "high"}, "a number, or auto"),
        ({"context_tokens": 30}, "smaller than a chunk"),
        ({"importance": "spacey"}, "unknown importance"),
        ({"llm": "bultin"}, "Did you mean 'builtin'"),
        ({"writer": "bultin"}, "Did you mean 'builtin'"),
        ({"judge": "local:/no/such/model"}, "/no/such/model"),
        ({"rejcted": 3}, "Did you mean 'rejected'"),
        ({"template": "in3"}, "there is no template"),
        ({"qa": "corpus"}, "asks a question"),
        ({"threshold": 0}, "no question is left"),
    ],
)
def test_wrong_settings_are_refused(
    tmp_path: Path, corpus: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(LcxError, match=words):
        synth(tmp_path / "run", corpus=str(corpus), **settings)


@pytest.mark.parametrize("part", ["llm", "writer", "judge"])
def test_models_are_looked_for_before_the_corpus_is_read(tmp_path: Path, corpus: Path, part: str) -> None:
    with pytest.raises(MissingError, match="/no/such/model"):
        synth(tmp_path / "run", corpus=str(corpus), **{part: "local:/no/such/model"})
    assert not (tmp_path / "run" / "synth" / "data").exists()


def test_the_users_prompts_are_used(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "answer.txt").write_text("Mine: {question} of {context}")
    (folder / "judge.txt").write_text("Rate {answer} to {question}")
    seen = scripted(monkeypatch, lambda request: None).seen
    synth(tmp_path / "run", corpus=str(corpus), prompts=str(folder), examples=8)
    texts = {task: [r.messages[0]["content"] for r in seen if r.task == task] for task in (ANSWER, JUDGE)}
    assert all(text.startswith("Mine: ") for text in texts[ANSWER])
    assert all(text.startswith("Rate ") for text in texts[JUDGE])
    (folder / "answer.txt").write_text("no {question}")
    with pytest.raises(UsageError, match=r"has no \{context\}"):
        synth(tmp_path / "other", corpus=str(corpus), prompts=str(folder))


THOUGHTS = {
    "tags": lambda said: f"<think>I look for it.</think>\n{said}",
    "the template opened it": lambda said: f"I look for it.</think>{said}",
    "channels": lambda said: (
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{FINAL}{said}<|return|>"
    ),
}
FINAL = "<|channel|>final<|message|>"


@pytest.mark.parametrize("how", THOUGHTS)
@pytest.mark.parametrize("thoughts", ["strip", "keep"])
def test_thoughts_are_no_part_of_questions_answers_and_ratings(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, how: str, thoughts: str
) -> None:
    synth(tmp_path / "plain", corpus=str(corpus), examples=4)
    builtin, judged = open_llm("builtin"), []

    def reply(request: Request) -> Response:
        if request.task == JUDGE:
            judged.append(request.messages[0]["content"])
        [found] = builtin.generate([request])
        return replace(found, completions=(Completion(THOUGHTS[how](found.text)),))

    scripted(monkeypatch, reply)
    monkeypatch.setattr("lcx.llm.check_llm", lambda *_: None)
    result = synth(tmp_path / "run", corpus=str(corpus), examples=4, llm="local:x", thoughts=thoughts)
    assert not any("hm" in text.split() or "look for it" in text for text in judged)
    assert result.counts["answers with thoughts"] == 12
    assert result.counts["replies with thoughts"] == 12 + 4  # those of rules, the judge, are not counted
    plain, found = (bundles_of(tmp_path / run, "candidates") for run in ("plain", "run"))
    for one, other in zip(plain, found, strict=True):
        assert [b.question for b in one.branches] == [b.question for b in other.branches]
        raw = [THOUGHTS[how](b.answer) for b in one.branches]
        if thoughts == "strip":
            assert [b.answer for b in one.branches] == [b.answer for b in other.branches]
            assert [b.meta["raw"] for b in other.branches] == raw
        else:
            assert [b.answer for b in other.branches] == raw
        assert [b.meta.get("rating") for b in one.branches] == [b.meta.get("rating") for b in other.branches]


def test_an_unfinished_thought_is_no_answer(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its mark or, where the prompt has opened it and the limit cut it, without."""
    count = iter(range(99))

    def reply(request: Request) -> Response | None:
        if request.task != ANSWER:
            return None
        cut = [
            ("<think>The needle is 7", "length"),
            ("I think that", "length"),
            ("hm</think>It is 7.", "stop"),
        ]
        return Response((Completion(*cut[next(count) % 3]),))

    scripted(monkeypatch, reply)
    with pytest.raises(LcxError, match="the filter dropped all") as caught:
        synth(tmp_path / "run", corpus=str(corpus), examples=4)
    assert "chosen answer: only a thought that never ends (4)" in caught.value.why
    for bundle in bundles_of(tmp_path / "run", "candidates"):
        assert [branch.answer for branch in bundle.branches] == ["", "", "It is 7."]
        assert bundle.branches[1].meta["error"] == "only a thought that never ends"
        assert bundle.branches[1].meta["raw"] == "I think that"
