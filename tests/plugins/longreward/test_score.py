"""The score step against a server whose ratings are known: rewards as by hand, pairs as by the rule."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from lcx_longreward.score import _open_answers
from lcx_longreward.settings import LongRewardScore

from lcx.data.bundles import read_bundles, write_bundles
from lcx.records import Branch, Bundle
from tests.llm.stub_server import Reply, Stub, prompt_of
from tests.plugins.longreward import scripted_judge as judge

DIMENSIONS = ("helpfulness", "logicality", "faithfulness", "completeness")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score(cli: Any, tmp_path: Path, *argv: str, run: str = "run", code: int = 0, **values: Any) -> Path:
    recipe = judge.recipe(tmp_path / "judged.yaml", **values)
    ran = cli("score", "--recipe", str(recipe), "--run", str(tmp_path / run), *argv)
    assert ran.code == code, ran.err
    return tmp_path / run / "score"


@pytest.fixture
def scored(cli: Any, tmp_path: Path) -> Path:
    """Four documents, two of them Chinese, with ten answers each, judged without a fault."""
    rows = judge.write_rows(tmp_path / "rows.jsonl", 4)
    with Stub(judge.Faulty({})) as stub:
        return score(cli, tmp_path, "--input", str(rows), "--base-url", stub.url, extract_tokens=64)


def test_rewards_are_those_worked_out_by_hand(scored: Path) -> None:
    found = lines(scored / "scores.jsonl")
    assert len(found) == 40
    for number, row in enumerate(found):
        document, answer = divmod(number, 10)
        assert row["id"] == f"doc{document}"
        for name, value in judge.expected(document, answer).items():
            assert row[name] == pytest.approx(value, abs=1e-12), (number, name)
        assert row["failed"] == {}
        assert len(row["statements"]) == judge.claims(document, answer)
        assert set(row["analyses"]) == {"helpfulness", "logicality", "completeness"}


def test_pairs_are_best_against_worst(scored: Path) -> None:
    pairs = {bundle.id: bundle for bundle in read_bundles(scored / "data")}
    assert len(pairs) == 4
    for document in range(4):
        rewards = [judge.expected(document, answer)["reward"] for answer in range(10)]
        chosen, rejected = pairs[f"doc{document}"].branches
        assert (chosen.role, rejected.role) == ("chosen", "rejected")
        assert chosen.meta["reward"] == pytest.approx(max(rewards))
        assert rejected.meta["reward"] == pytest.approx(min(rewards))
        assert chosen.meta["sample"] == rewards.index(max(rewards))
        assert pairs[f"doc{document}"].meta["retriever"] == "bm25"
    everything = read_bundles(scored / "data", "candidates")
    assert [len(bundle.branches) for bundle in everything] == [10] * 4
    assert everything[0].branches[3].meta["faithfulness"] == pytest.approx(
        judge.expected(0, 3)["faithfulness"]
    )


def test_the_report_has_length_bias_histograms_and_counts(scored: Path) -> None:
    text = (scored / "report.md").read_text(encoding="utf-8")
    assert "## Length" in text
    assert "Spearman" in text
    assert "retriever bm25" in text
    assert "40 answers to 4 questions: 40 have a reward" in text
    assert (scored / "rewards.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((scored.parent / "manifest.json").read_text())["steps"]["score"]
    assert manifest["counts"]["answers scored"] == 40
    assert manifest["counts"]["pairs"] == 4
    assert manifest["metrics"]["length_bias"]["chosen_tokens"] > 0
    claimed = [judge.claims(d, a) for d in range(4) for a in range(10)]
    assert manifest["counts"]["calls: support"] == sum(claimed)
    assert manifest["counts"]["answers without statements"] == claimed.count(0)
    # No more calls than parts of the documents, four for every answer, and its statements.
    assert manifest["counts"]["calls"] == manifest["counts"]["calls: extract"] + 40 * 4 + sum(claimed)


def test_facts_are_extracted_once_a_question_and_kept(cli: Any, tmp_path: Path) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", 2)
    with Stub(judge.Faulty({})) as stub:
        folder = score(cli, tmp_path, "--input", str(rows), "--base-url", stub.url, extract_tokens=64)
        prompts = [prompt_of(body) for body in stub.bodies]
    extracted = [prompt for prompt in prompts if judge.part_of(prompt)[0] == "extract"]
    found = lines(folder / "facts.jsonl")
    assert len(extracted) == len(set(extracted)) == sum(len(row["facts"]) for row in found)
    facts = [part["facts"] for row in found for part in row["facts"]]
    assert ["No relevant information"] in facts
    assert ["The bridge was mended.", "Twice."] in facts
    complete = [prompt for prompt in prompts if judge.part_of(prompt)[0] == "completeness"]
    assert len(complete) == 20
    labels = [part["range"] for part in found[0]["facts"]]
    shown = complete[0] if "doc" in complete[0] else next(p for p in complete if "(0/0)" in p)
    assert all(f"({label})" in shown for label in labels)
    assert len(set(labels)) == len(labels)
    assert (labels[0].split("-")[0], labels[-1].split("-")[1]) == ("0%", "100%")
    # The document stands before the question, after everything that never changes.
    assert extracted[0].index("</part>") < extracted[0].index("(0/0)" if "(0/0)" in extracted[0] else "(1/0)")


@pytest.mark.parametrize(("setting", "value"), [("0", 0.0), ("10", 10.0), ("skip", None)])
def test_an_answer_without_statements(cli: Any, tmp_path: Path, setting: str, value: float | None) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", 2)
    with Stub(judge.Faulty({})) as stub:
        folder = score(cli, tmp_path, "--input", str(rows), "--base-url", stub.url, no_statements=setting)
    silent = [r for r in lines(folder / "scores.jsonl") if r["statements"] == []]
    assert silent
    for row in silent:
        assert row["faithfulness"] == value
        assert (row["reward"] is None) == (value is None)
        assert bool(row["failed"]) == (value is None)


def test_a_part_that_fails_fails_alone(cli: Any, tmp_path: Path) -> None:
    other = next(answer for answer in range(5, 10) if judge.claims(0, answer))

    def script(body: dict[str, Any]) -> str:
        prompt = prompt_of(body)
        part, _ = judge.part_of(prompt)
        if part == "logicality" and "(0/4)" in prompt:
            return "no rating"
        if part == "support" and f"(0/{other}) claim" in prompt:
            return "[[3]]"
        return judge.reply(prompt)

    rows = judge.write_rows(tmp_path / "rows.jsonl", 1)
    with Stub(script) as stub:
        folder = score(cli, tmp_path, "--input", str(rows), "--base-url", stub.url)
        tried = [
            b
            for b in stub.bodies
            if judge.part_of(prompt_of(b))[0] == "logicality" and "(0/4)" in prompt_of(b)
        ]
    assert [body["temperature"] for body in tried] == [0.01, 0.95, 0.95, 0.95, 0.95]
    assert len({body["seed"] for body in tried}) == 5
    found = lines(folder / "scores.jsonl")
    assert found[4]["failed"] == {"logicality": "no [[rating]] in the reply"}
    assert found[4]["logicality"] is None
    assert found[4]["helpfulness"] == judge.rating("helpfulness", 0, 4)
    assert found[4]["analyses"]["logicality"] == "no rating"
    assert found[other]["failed"] == {"faithfulness": "support: no [[level of support]] in the reply"}
    assert [row["reward"] is None for row in found] == [a in (4, other) for a in range(10)]
    [bundle] = read_bundles(folder / "data", "candidates")
    assert bundle.branches[4].meta["failed"] == {"logicality": "no [[rating]] in the reply"}
    assert bundle.branches[4].meta["reward"] is None
    [pair] = read_bundles(folder / "data")
    alive = [judge.expected(0, a)["reward"] for a in range(10) if a not in (4, other)]
    assert [b.meta["reward"] for b in pair.branches] == pytest.approx([max(alive), min(alive)])


def test_a_call_that_asking_again_cannot_help_is_not_repeated(cli: Any, tmp_path: Path) -> None:
    long: set[str] = set()

    def script(body: dict[str, Any]) -> str | Reply:
        prompt = prompt_of(body)
        if judge.part_of(prompt)[0] == "extract" and not long:
            long.add(prompt)
        return Reply(status=400, message="the prompt is too long") if prompt in long else judge.reply(prompt)

    rows = judge.write_rows(tmp_path / "rows.jsonl", 2)
    with Stub(script) as stub:
        folder = score(cli, tmp_path, "--input", str(rows), "--base-url", stub.url)
        asked = [judge.part_of(prompt_of(body))[0] for body in stub.bodies]
    assert asked.count("extract") == 2
    assert asked.count("completeness") == 10
    failed = [row["failed"] for row in lines(folder / "scores.jsonl") if row["failed"]]
    assert failed == 10 * [{"completeness": "extract: HTTP 400: the prompt is too long"}]
    assert len(read_bundles(folder / "data")) == 1
    counts = json.loads((tmp_path / "run/manifest.json").read_text())["steps"]["score"]["counts"]
    assert counts["failed: completeness: extract: HTTP 400"] == 10
    assert counts["questions without a pair: fewer answers scored than least_scored"] == 1


def test_rows_that_cannot_be_judged_are_kept_aside(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"context": "A is B. C is D.", "question": "What is A?", "answer": "A is B."}
    bad = [
        {"question": "?", "answer": "a"},
        {"context": "c", "answer": "a"},
        {"context": "c", "query": "q"},
        [1],
    ]
    path.write_text(
        "\n".join([json.dumps(good), *map(json.dumps, bad), "{broken", json.dumps({**good, "answer": "C"})])
    )
    folder = score(cli, tmp_path, "--input", str(path), judge="builtin")
    assert [row["answer"] for row in lines(folder / "scores.jsonl")] == ["A is B.", "C"]
    assert [row["row"] for row in lines(folder / "scores.jsonl")] == [1, 7]
    assert len(read_bundles(folder / "data", "candidates")) == 1
    reasons = [row["reason"] for row in lines(folder / "rejected.jsonl")]
    assert reasons == ["no context", "no question", "no answer", "no JSON object", "not JSON"]
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())["steps"]["score"]
    assert manifest["state"] == "done"
    assert any("no pairs to train on" in note for note in manifest["notes"])
    assert "data" not in manifest["files"]  # or the command would name a training that has nothing to learn


def test_bundles_with_several_questions_and_without_a_context(cli: Any, tmp_path: Path) -> None:
    def branches(question: str) -> list[Branch]:
        return [Branch(question, f"{word} is here.", "candidate", (0,)) for word in ("A", "B", "nothing A")]

    bundles = [
        Bundle(
            "two", tuple(branches("Where is A?") + branches("Where is B?")), context="A is here. B is there."
        ),
        Bundle("bare", (Branch("q", "a"),), context=""),
    ]
    write_bundles(tmp_path / "data", bundles)
    folder = score(
        cli, tmp_path, "--input", str(tmp_path / "data"), judge="builtin", least_scored=2, margin=0
    )
    assert [bundle.id for bundle in read_bundles(folder / "data")] == ["two-1", "two-2"]
    for bundle in read_bundles(folder / "data"):
        assert len({branch.question for branch in bundle.branches}) == 1
        assert bundle.branches[0].gold == (0,)
    assert [row["reason"] for row in lines(folder / "rejected.jsonl")] == ["no context"]
    assert len(lines(folder / "facts.jsonl")) == 2


def test_several_rejected_answers_and_shards(cli: Any, tmp_path: Path) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", 5)
    with Stub(judge.Faulty({})) as stub:
        given = ("--input", str(rows), "--base-url", stub.url)
        folder = score(cli, tmp_path, *given, rejected=3, shards=2, margin=0)
    assert sorted(p.name for p in (folder / "data").glob("bundles-*")) == [
        f"bundles-0000{i}-of-00002.parquet" for i in range(2)
    ]
    for document, bundle in enumerate(read_bundles(folder / "data")):
        rewards = sorted(judge.expected(document, answer)["reward"] for answer in range(10))
        assert [b.meta["reward"] for b in bundle.branches] == pytest.approx([rewards[-1], *rewards[:3]])


@pytest.mark.slow
def test_early_stopping_gives_the_same_pairs_for_fewer_calls(cli: Any, tmp_path: Path) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", 6)
    found = {}
    for stop in (False, True):
        with Stub(judge.Faulty({})) as stub:
            given = ("--input", str(rows), "--base-url", stub.url)
            folder = score(cli, tmp_path, *given, run=f"run{stop}", early_stop=stop)
            pairs = [
                [(b.answer, b.meta["reward"]) for b in x.branches] for x in read_bundles(folder / "data")
            ]
            found[stop] = (pairs, stub.calls)
    assert found[True][0] == found[False][0]
    assert found[True][1] < found[False][1]
    metrics = json.loads((tmp_path / "runTrue/manifest.json").read_text())["steps"]["score"]["metrics"]
    assert 0 < metrics["early_stop"]["share"] < 1
    assert "## Early stopping" in (folder / "report.md").read_text()


def test_own_prompts_take_the_place_of_ours(cli: Any, tmp_path: Path) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", 1, 2)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "helpfulness.en.txt").write_text("MINE {question} | {answer}")

    def script(body: dict[str, Any]) -> str:
        prompt = prompt_of(body)
        return "[[4]]" if prompt.startswith("MINE (0/0) How was") else judge.reply(prompt)

    with Stub(script) as stub:
        given = ("--input", str(rows), "--base-url", stub.url)
        folder = score(cli, tmp_path, *given, prompts=str(prompts), least_scored=2)
    assert [row["helpfulness"] for row in lines(folder / "scores.jsonl")] == [4.0, 4.0]
    (prompts / "helpfulness.en.txt").write_text("no place for the answer {question}")
    score(cli, tmp_path, *given, run="other", code=2, prompts=str(prompts))


def test_the_forecast_counts_the_calls(cli: Any, tmp_path: Path) -> None:
    rows = judge.write_rows(tmp_path / "rows.jsonl", 4)
    recipe = judge.recipe(tmp_path / "judged.yaml", prices={"judge": [1.0, 2.0]}, extract_tokens=64)
    ran = cli("score", "--recipe", str(recipe), "--input", str(rows), "--dry-run", "--json")
    [step] = ran.json["steps"]
    calls = step["forecast"]["calls"]
    assert (calls["helpfulness"], calls["statements"], calls["completeness"]) == (40, 40, 40)
    assert calls["all"] == sum(value for name, value in calls.items() if name != "all")
    assert calls["extract"] % 4 == 0
    cost = step["forecast"]["cost"]
    sent, made = step["forecast"]["prompt_tokens"]["all"], step["forecast"]["reply_tokens"]["all"]
    assert cost["all"] == pytest.approx((sent + 2 * made) / 1e6, abs=1e-3)


def test_settings_are_checked(cli: Any, tmp_path: Path) -> None:
    recipe = judge.recipe(tmp_path / "judged.yaml", judge="builtin")
    rows = judge.write_rows(tmp_path / "rows.jsonl", 1)
    for wrong in ("reply_tokens={speed: 3}", "retriever=magic", "no_statements=5", "judge=magic"):
        ran = cli(
            "score",
            "-r",
            str(recipe),
            "--input",
            str(rows),
            "--run",
            str(tmp_path / "r"),
            "-s",
            f"score.{wrong}",
        )
        assert ran.code == 2, (wrong, ran.err)
        assert "Traceback" not in ran.err


def test_the_retriever_is_a_choice_and_is_recorded(cli: Any, tmp_path: Path) -> None:
    from tests.retrieval.test_retrieval import Embeddings

    rows = judge.write_rows(tmp_path / "rows.jsonl", 1, 2)
    with Embeddings() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given = {"retriever": "openai:m", "retriever_options": {"base_url": server.url}, "judge": "builtin"}
        folder = score(
            cli, tmp_path, "--input", str(rows), least_scored=2, chunk_tokens=16, top_chunks=2, **given
        )
        server.shutdown()
    extra = json.loads((tmp_path / "run/manifest.json").read_text())["steps"]["score"]["extra"]
    assert extra["retriever"] == {"retriever": "openai", "model": "m", "cosine": True}
    [bundle] = read_bundles(folder / "data", "candidates")
    assert bundle.meta["retriever"] == "openai:m"
    statement = lines(folder / "scores.jsonl")[0]["statements"][0]
    assert len(statement["passages"]) == 2
    assert statement["passages"] == sorted(statement["passages"])
    assert (folder / "embeddings.sqlite").exists()


def test_a_model_in_this_process_is_given_a_few_batches_at_a_time() -> None:
    def opened(**given: Any) -> int:
        return _open_answers(LongRewardScore(**given))

    assert opened(judge="openai:m") == opened(judge="other:m") == 128
    assert opened(judge="local:m") == 10
    assert opened(judge="local:m", judge_options={"batch": 24}) == 32
    assert opened(judge="local:m", judge_options={"batch": 1}) == 1
    assert opened(judge="local:m", gpus=4) == 42
    assert opened(judge="local:m", open_answers=7) == 7


def test_no_judge_sees_thoughts_and_a_thought_alone_has_failed(cli: Any, tmp_path: Path) -> None:
    answers = ["<think>claim-0 hm</think>Seven claims.", "<think>It is", "Eight claims."]
    row = {"id": "d", "context": "A document of claims.", "query": "How many?", "answers": answers}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    place = score(
        cli, tmp_path, "--input", str(tmp_path / "rows.jsonl"), "--judge", "builtin", least_scored=2, margin=0
    )
    found = lines(place / "scores.jsonl")
    assert [row["answer"] for row in found] == ["Seven claims.", "", "Eight claims."]
    assert found[0]["raw"] == answers[0]
    assert found[1]["failed"] == {"answer": "only a thought that never ends"}
    assert not (place / "journal.jsonl").exists()


def test_a_step_that_went_on_counts_the_calls_of_all_its_processes(cli: Any, tmp_path: Path) -> None:
    """Rules' replies are not kept: what an earlier process had asked them is known by the journal alone."""
    rows = judge.write_rows(tmp_path / "rows.jsonl", 4, 3)
    words = ("--input", str(rows), "--judge", "builtin")
    with judge.ends_after(2):
        score(cli, tmp_path, *words, run="stopped", code=1, open_answers=1)
    counted = {}
    for run in ("whole", "stopped"):
        folder = score(cli, tmp_path, *words, run=run, open_answers=1)
        step = json.loads((tmp_path / run / "manifest.json").read_text())["steps"]["score"]
        counted[run] = {
            name: step["counts"][name] for name in ("calls", "prompt_tokens", "completion_tokens")
        }
        assert "counted with" not in (folder / "scores.jsonl").read_text()
    assert counted["stopped"] == counted["whole"]
    assert counted["whole"]["calls"] > 30
