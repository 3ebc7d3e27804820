"""IN2's synth step as a user runs it: from files to bundles, the same bytes every time, nothing lost in silence."""

from __future__ import annotations

import hashlib
import json
import random
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lcx.context import Context, StepResult
from lcx.data.bundles import read_bundles
from lcx.data.table import load_table
from lcx.errors import LcxError, UsageError
from lcx.llm.protocol import Completion, Request, Response, Usage
from lcx.plugins import load as load_plugins
from lcx.recipe import load, resolve
from lcx.run import Run
from lcx.steps import execute, forecast
from tests.data.tokenizers_for_tests import byte_level

PLUGINS = load_plugins()
SMALL = {"examples": 60, "context_tokens": [600, 1500], "segment_tokens": 40, "batch": 8}


def write_corpus(folder: Path, files: int = 40, seed: int = 0) -> Path:
    """Prose and code with distinct facts, several segments a file."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = [
            f"Keeper {number}-{k} of the lighthouse at Cape {rng.choice('ABCDEFG')}{number} counted "
            f"{rng.randrange(1000, 9999)} herring gulls on day {k}."
            for k in range(12)
        ]
        (folder / f"text{number}.md").write_text("\n".join(lines), encoding="utf-8")
        body = "\n".join(f"    step_{k} = compute_{rng.randrange(10**6)}(first, second)" for k in range(14))
        (folder / f"code{number}.py").write_text(
            f"def job_{number}(first, second):\n{body}\n", encoding="utf-8"
        )
    return folder


def synth(run_dir: Path, force: bool = False, **settings: Any) -> StepResult:
    recipe = load("in2", PLUGINS)
    step = resolve(recipe, PLUGINS, flags={"synth": {**SMALL, **settings}}, project={})[0]
    return execute(step, Run(run_dir, "in2"), Context(force=force), PLUGINS)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def test_questions_come_with_their_evidence_and_shares_hold(tmp_path: Path, corpus: Path) -> None:
    result = synth(tmp_path / "run", corpus=str(corpus))
    data = tmp_path / "run" / "synth" / "data"
    bundles, table = read_bundles(data), load_table(data)
    kinds = {kind: sum(b.kind == kind for b in bundles) for kind in ("fine", "integration", "short")}
    assert kinds == {"fine": 43, "integration": 11, "short": 6}  # 63:17:9 of 60, to the unit
    assert any("general share (11%) has no source" in note for note in result.notes)
    for bundle in bundles:
        assert bundle.plan is not None
        for branch in bundle.branches:
            evidence = " ".join(" ".join(table.text(bundle.plan[g]) for g in branch.gold).split())
            quoted = [part.split("`")[0] for part in branch.question.split("contains the line `")[1:]]
            assert all(line in evidence for line in quoted)
            gaps = [part.split("”")[0] for part in branch.question.split("gap in “")[1:]]
            assert all(max(gap.split("____"), key=len).strip() in evidence for gap in gaps)
            assert quoted or gaps or "What is given" in branch.question
    assert result.metrics["questions"] == 60
    assert (tmp_path / "run" / "synth" / "preview.md").read_text().count("**Q:**") >= 6


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path, corpus: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synth(tmp_path / name, corpus=str(corpus), seed=seed, shards=3)
    a, b, c = (digests(tmp_path / name / "synth" / "data") for name in "abc")
    assert a == b
    assert [name for name in a if name.startswith("bundles")] == [
        f"bundles-0000{i}-of-00003.parquet" for i in range(3)
    ]
    assert a["bundles-00000-of-00003.parquet"] != c["bundles-00000-of-00003.parquet"]
    assert a["documents-00000-of-00001.parquet"] == c["documents-00000-of-00001.parquet"]


@pytest.mark.parametrize("stop_after", [0, 1, 3, 5])
def test_a_step_stopped_between_batches_resumes_to_the_same_bytes(
    tmp_path: Path, corpus: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lcx.llm as module

    synth(tmp_path / "whole", corpus=str(corpus))
    real, calls = module.open_llm, [0]
    monkeypatch.setattr(module, "check_llm", lambda *_: None)

    class Stops:
        def __init__(self, *args: Any) -> None:
            self.inner = real("builtin")

        def generate(self, requests: Sequence[Request]) -> list[Response]:
            if calls[0] >= stop_after:
                raise KeyboardInterrupt
            calls[0] += 1
            return self.inner.generate(requests)

        def describe(self) -> dict[str, Any]:
            return self.inner.describe()

        def close(self) -> None: ...

    monkeypatch.setattr(module, "open_llm", Stops)
    with pytest.raises(KeyboardInterrupt):
        synth(tmp_path / "cut", corpus=str(corpus), llm="local:rules")
    assert Run(tmp_path / "cut", "in2").state("synth") == "interrupted"
    asked: list[int] = []

    def counting(*args: Any) -> Any:
        inner = real("builtin")
        generate = inner.generate
        inner.generate = lambda requests: asked.append(len(requests)) or generate(requests)
        return inner

    monkeypatch.setattr(module, "open_llm", counting)
    whole = Run(tmp_path / "whole", "in2").manifest["steps"]["synth"]
    synth(tmp_path / "cut", corpus=str(corpus), llm="local:rules")
    assert digests(tmp_path / "cut" / "synth" / "data") == digests(tmp_path / "whole" / "synth" / "data")
    known = stop_after * 8
    assert whole["counts"]["calls"] - sum(asked) == known  # what was answered is not asked again
    found = Run(tmp_path / "cut", "in2").manifest["steps"]["synth"]["counts"]
    assert found.pop("calls from the journal", 0) == known
    assert found == whole["counts"]


class Scripted:
    """Answers by a function of the request; every third reply is no use."""

    def __init__(self, reply: Callable[[int, Request], Response]) -> None:
        self.reply, self.seen = reply, 0

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        start, self.seen = self.seen, self.seen + len(requests)
        return [self.reply(start + i, request) for i, request in enumerate(requests)]

    def describe(self) -> dict[str, Any]:
        return {"backend": "scripted"}

    def close(self) -> None: ...


def test_useless_replies_are_skipped_and_counted_by_reason(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(number: int, request: Request) -> Response:
        if number % 3 == 0:
            return Response((Completion("I cannot do that."),), Usage(10, 5))
        if number % 3 == 1 and number % 2:
            return Response((), error="the server hung up")
        return Response((Completion(f"Question: q{number}?\nAnswer: a{number}"),), Usage(10, 5))

    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: Scripted(reply))
    result = synth(tmp_path / "run", corpus=str(corpus), mix={"fine": 1}, examples=40)
    assert result.metrics["questions"] == 40
    assert result.counts["segment skipped: no question and answer in the reply"] > 10
    assert result.counts["segment skipped: the server hung up"] > 5
    assert result.counts["completion_tokens"] > 0


def test_a_writer_without_a_single_usable_reply_is_an_error_with_the_reason(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: Scripted(lambda *_: Response((Completion("no"),))))
    with pytest.raises(UsageError, match="no usable fine question") as caught:
        synth(tmp_path / "run", corpus=str(corpus))
    assert "no question and answer in the reply" in caught.value.why


def test_the_users_prompts_reach_the_writer(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "fine.txt").write_text("Mine, for {segment} only")
    seen: list[str] = []

    def reply(number: int, request: Request) -> Response:
        seen.append(request.messages[0]["content"])
        return Response((Completion("Question: q?\nAnswer: a"),))

    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: Scripted(reply))
    synth(tmp_path / "run", corpus=str(corpus), prompts=str(folder), mix={"fine": 1}, examples=8)
    assert seen
    assert all(text.startswith("Mine, for ") and "{segment}" not in text for text in seen)
    (folder / "fine.txt").write_text("no place for the text")
    with pytest.raises(UsageError, match="never see the text"):
        synth(tmp_path / "other", corpus=str(corpus), prompts=str(folder))


def test_several_questions_share_a_context(tmp_path: Path, corpus: Path) -> None:
    synth(tmp_path / "run", corpus=str(corpus), questions_per_context=4, mix={"fine": 3, "integration": 1})
    bundles = read_bundles(tmp_path / "run" / "synth" / "data")
    assert sum(len(b.branches) for b in bundles) == 60
    assert len(bundles) == 15
    for bundle in bundles:
        gold = [g for branch in bundle.branches for g in branch.gold]
        assert len(gold) == len(set(gold))


def test_many_questions_never_make_a_context_longer_than_asked(tmp_path: Path, corpus: Path) -> None:
    settings = {"questions_per_context": 8, "mix": {"fine": 3, "integration": 1}, "segment_tokens": 80}
    result = synth(tmp_path / "run", corpus=str(corpus), context_tokens=[400, 900], **settings)
    bundles = read_bundles(tmp_path / "run" / "synth" / "data")
    assert all(300 < bundle.meta["tokens"] <= 900 for bundle in bundles)
    assert sum(len(bundle.branches) for bundle in bundles) == 60
    assert result.counts["contexts with fewer questions than asked"] > 5
    assert any("have fewer than 8 questions" in note for note in result.notes)


def test_evidence_that_fits_no_context_and_contexts_that_nothing_fills_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Response((Completion("Question: q?\nAnswer: a"),))
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: Scripted(lambda *_: good))
    folder = tmp_path / "long"
    folder.mkdir()
    for number in range(12):
        words = " ".join(f"word{number}x{k}" for k in range(150))
        (folder / f"{number}.txt").write_text(f"Keeper {number} counted {number + 1000} gulls, {words}")
    settings = {"corpus": str(folder), "mix": {"fine": 1}, "segment_by": "lines", "examples": 8}
    result = synth(
        tmp_path / "run", context_tokens=[415, 415], questions_per_context=8, tokenizer="words", **settings
    )
    [length] = {bundle.meta["tokens"] for bundle in read_bundles(tmp_path / "run" / "synth" / "data")}
    assert 300 < length <= 415
    assert result.counts["contexts shorter than asked: no segment fits into the rest"] == 8 // 2
    with pytest.raises(UsageError, match="no evidence fits into 60 tokens"):
        synth(tmp_path / "none", context_tokens=[50, 60], tokenizer="words", **settings)


def test_a_filler_never_says_what_the_evidence_says(tmp_path: Path) -> None:
    """A passage that stands in many files is in a context once, as evidence or not at all."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    shared = "The licence of the keepers allows them to count herring gulls on every day of the year but one."
    for number in range(12):
        own = f"Keeper {number} counted {number + 1000} gulls at Cape {number} before the storm of day {number * 7}."
        (folder / f"{number}.txt").write_text(f"{shared}\n{own}{chr(10) * (number % 2)}")
    settings = {"mix": {"fine": 1}, "segment_by": "lines", "examples": 24, "context_tokens": [150, 200]}
    synth(tmp_path / "run", corpus=str(folder), questions_per_context=3, segment_tokens=4, **settings)
    table = load_table(tmp_path / "run" / "synth" / "data")
    held = 0
    for bundle in read_bundles(tmp_path / "run" / "synth" / "data"):
        texts = [text.strip() for text in table.texts(bundle.plan)]
        for branch in bundle.branches:
            held += shared in texts
            assert all(texts.count(texts[place]) == 1 for place in branch.gold)
    assert held


def test_general_data_and_bad_rows(tmp_path: Path, corpus: Path) -> None:
    rows = [
        {"instruction": "Add 2 and 3.", "response": "5"},
        {"system_prompt": "Be brief.", "question": "Capital of France?", "response": "Paris"},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"nothing": "here"},
    ]
    file = tmp_path / "general.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n", encoding="utf-8")
    result = synth(tmp_path / "run", corpus=str(corpus), general=str(file))
    general = [b for b in read_bundles(tmp_path / "run" / "synth" / "data") if b.kind == "general"]
    assert {(b.branches[0].question, b.branches[0].answer, b.context) for b in general} == {
        ("Add 2 and 3.", "5", ""),
        ("Capital of France?", "Paris", ""),
        ("Hi", "Hello", ""),
    }
    turns = {b.branches[0].answer: b.meta.get("turns") for b in general}
    assert turns == {"5": None, "Paris": [["system", "Be brief."]], "Hello": None}
    assert result.counts["general row skipped: not JSON"] == 1
    assert result.counts["general row skipped: no question"] == 1
    assert any("3 usable rows of the 7 wanted" in note for note in result.notes)


def test_contaminated_documents_are_dropped_and_counted(tmp_path: Path, corpus: Path) -> None:
    leaked = (corpus / "text7.md").read_text().splitlines()[3]
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"question": "x", "context": leaked}) + "\n")
    result = synth(tmp_path / "run", corpus=str(corpus), decontaminate=[str(items)])
    assert result.counts["dropped: shares text with an evaluation item"] == 1
    table = load_table(tmp_path / "run" / "synth" / "data")
    ids = {table.document(d).id for d in range(table.document_count)}
    assert not any("text7.md" in name for name in ids)
    [row] = map(json.loads, (tmp_path / "run" / "synth" / "contaminated.jsonl").read_text().splitlines())
    assert "text7.md" in row["document"]


def test_bad_files_are_set_aside_and_the_rest_used(tmp_path: Path, corpus: Path) -> None:
    (corpus / "image.txt").write_bytes(b"\x00\x01\x02PNG" * 50)
    (corpus / "latin.md").write_bytes(b"caf\xe9 au lait\n" * 30)
    (corpus / "rows.jsonl").write_text('{"text": "a usable row of text"}\n{"text": broken\n{"other": 1}\n')
    (corpus / "tiny.txt").write_text("short")
    result = synth(tmp_path / "run", corpus=str(corpus))
    aside = [json.loads(x) for x in (tmp_path / "run" / "synth" / "rejected.jsonl").read_text().splitlines()]
    assert {Path(row["source"]).name for row in aside} == {"image.txt", "latin.md", "rows.jsonl"}
    assert sum(n for reason, n in result.counts.items() if reason.startswith("set aside")) == 4
    assert result.counts["documents"] == 82


def test_a_corpus_too_small_for_the_lengths_is_said(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "few", files=3)
    result = synth(tmp_path / "run", corpus=str(corpus), context_tokens=[4000, 8000], examples=120)
    assert result.counts["contexts the corpus could not fill"] > 0
    assert any("shorter than drawn" in note for note in result.notes)
    assert any("different fine questions serve" in note for note in result.notes)


def test_other_settings_in_the_same_run_are_refused_naming_what_differs(tmp_path: Path, corpus: Path) -> None:
    synth(tmp_path / "run", corpus=str(corpus))
    with pytest.raises(UsageError) as caught:
        synth(tmp_path / "run", corpus=str(corpus), seed=5)
    assert "settings.seed: was 0, now 5" in caught.value.why
    (corpus / "text0.md").write_text("changed " * 200)
    with pytest.raises(UsageError) as caught:
        synth(tmp_path / "run", corpus=str(corpus))
    assert "inputs.corpus" in caught.value.why
    assert synth(tmp_path / "run", corpus=str(corpus), seed=5, force=True).metrics["questions"] == 60


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mix": {"fin": 1}}, "unknown kind"),
        ({"context_tokens": [900, 100]}, "least, most"),
        ({"segment_tokens": 5000}, "larger than the shortest context"),
        ({"exampels": 3}, "Did you mean 'examples'"),
        ({"llm": "bultin"}, "Did you mean 'builtin'"),
    ],
)
def test_wrong_settings_are_refused(
    tmp_path: Path, corpus: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(LcxError, match=words):
        synth(tmp_path / "run", corpus=str(corpus), **settings)


@pytest.mark.parametrize(
    "reply",
    [
        Completion("<think>Question: no?\nAnswer: no</think>\nQuestion: q?\nAnswer: a"),
        Completion("Question: no?\nAnswer: no</think>Question: q?\nAnswer: a"),
        Completion("Question: q?\nAnswer: a", "stop", "Question: no?\nAnswer: no"),
        Completion(
            "<|channel|>analysis<|message|>Question: no?\nAnswer: no<|end|><|start|>assistant"
            "<|channel|>final<|message|>Question: q?\nAnswer: a<|return|>"
        ),
    ],
)
def test_thoughts_are_no_questions(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, reply: Completion
) -> None:
    lost = [
        Completion("<think>Question: no?\nAnswer: no"),
        Completion("", "length", "Question: no?\nAnswer: no"),
    ]

    def says(number: int, request: Request) -> Response:
        return Response((lost[number // 4 % 2] if number % 4 == 1 else reply,), Usage(1, 1))

    monkeypatch.setattr("lcx.llm.check_llm", lambda *_: None)
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: Scripted(says))
    result = synth(tmp_path / "run", corpus=str(corpus), mix={"fine": 1}, examples=16, llm="local:x")
    bundles = read_bundles(tmp_path / "run" / "synth" / "data")
    assert {(b.question, b.answer) for bundle in bundles for b in bundle.branches} == {("q?", "a")}
    alone = result.counts["segment skipped: only a thought that never ends"]
    assert alone == result.counts["replies of an unfinished thought only"] > 2
    assert result.counts["replies with thoughts"] == result.counts["calls"]


@pytest.mark.parametrize(("every", "calls"), [(0, 100), (30, 100), (4, 48)])
def test_a_writer_is_asked_no_more_than_it_takes(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, every: int, calls: int
) -> None:
    """One that gives next to nothing is stopped after a hundred replies, not after the whole corpus."""
    asked: list[int] = []

    def says(number: int, request: Request) -> Response:
        asked.append(number)
        good = every and number % every == every - 1
        return Response(
            (Completion(f"Question: q{number}?\nAnswer: a" if good else "I cannot."),), Usage(1, 1)
        )

    monkeypatch.setattr("lcx.llm.check_llm", lambda *_: None)
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: Scripted(says))
    settings = {"mix": {"fine": 1}, "examples": 12, "batch": 64, "llm": "local:x"}
    if calls == 48:
        result = synth(tmp_path / "run", corpus=str(corpus), **settings)
        assert result.metrics["questions"] == 12
    else:
        with pytest.raises(UsageError, match=r"usable fine questions? came out of 100 replies") as caught:
            synth(tmp_path / "run", corpus=str(corpus), **settings)
        assert "One reply: 'I cannot.'" in caught.value.why
        assert "synth.answer_tokens=1024" in caught.value.hint
    assert len(asked) == calls


def test_what_the_dry_run_says_is_what_is_called(tmp_path: Path, corpus: Path) -> None:
    for examples, calls in ((4, 4), (900, 567)):  # the corpus has no more segments and runs of them
        flags = {"synth": {**SMALL, "corpus": str(corpus), "examples": examples, "batch": 64}}
        step = resolve(load("in2", PLUGINS), PLUGINS, flags=flags, project={})[0]
        said = forecast(step, Run(tmp_path / "none", "in2"), Context(), PLUGINS)["calls"]
        result = synth(tmp_path / str(examples), corpus=str(corpus), examples=examples, batch=64)
        assert said == pytest.approx(result.counts["calls"], rel=0.1)
        assert said == pytest.approx(calls, rel=0.1)


@pytest.mark.parametrize("real", [True, False])
def test_the_preview_shows_contexts_as_their_tokens_decode(tmp_path: Path, real: bool) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=8)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer = str(tmp_path / "tokenizer.json") if real else "simple"
    synth(tmp_path / "run", corpus=str(corpus), tokenizer=tokenizer, examples=2, mix={"fine": 1})
    folder = tmp_path / "run" / "synth"
    text, table = (folder / "preview.md").read_text(), load_table(folder / "data")
    bundle = next(iter(read_bundles(folder / "data")))
    assert bundle.plan is not None
    gold = bundle.branches[0].gold[0]
    if real:
        assert f"token ids in {len(bundle.plan)} parts:" in text
        part = text.split(f"- evidence, part {gold + 1}, ")[1].split("```")[1]
        assert (
            part.replace("\n  ", "\n").removeprefix("text\n").strip() == table.text(bundle.plan[gold]).strip()
        )
        assert not any(
            f"part {place + 1}," in text for place in range(1, len(bundle.plan) - 1) if place != gold
        )
    else:
        assert "`simple` counts tokens and has no ids" in text
        assert "lcx train --preview 3" in text


def test_a_trial_reads_the_beginning_of_a_large_corpus(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcx.cli.trial.DOCUMENTS", 5)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"{number}.txt").write_text(
            f"The code of house {number} is {4000 + number}. It was built of stone."
        )
    words = ["synth", "--recipe", "in2", "--corpus", str(texts), "--llm", "builtin", "--limit", "2", "--json"]
    words += ["--run", str(tmp_path / "out"), "--set", "synth.tokenizer=simple"]
    words += ["--set", "synth.context_tokens=[20,40]", "--set", "synth.segment_tokens=10"]
    ran = cli(*words)
    assert ran.code == 0, ran.err
    assert (ran.json["counts"]["documents"], ran.json["whole"]["documents"]) == (5, 5)
    clock = types.SimpleNamespace(monotonic=iter([0.0, 1e6]).__next__)
    monkeypatch.setattr("lcx.steps.time", clock)  # all of the time goes into reading, which is done once
    ran = cli(*words, "--set", "synth.documents=3")
    assert ran.json["counts"]["documents"] == 3
    assert ran.json["whole"]["times"] > 1
    assert ran.json["whole"]["seconds"] == round(ran.json["seconds"], 1)
    (plan,) = cli(*words, "--set", "synth.documents=3", "--dry-run").json["steps"]
    assert plan["origins"]["documents"] == "--set"
