"""Rows of judged tasks: what is read from them, which files of LongBench are whose, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lcx_longreward.evaluation.answers import (
    Fitter,
    Item,
    middle_cut,
    read_items,
    read_longbench,
    render_of,
    saved_answers,
    thinned,
)

from lcx.data.templates import load_template
from lcx.data.tokens import BUILTIN
from lcx.errors import MissingError, UsageError
from lcx.llm.prompts import by_template


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def longbench(dataset: str, number: int, **fields: Any) -> dict[str, Any]:
    row = {
        "input": f"Q{number}", "context": f"text {number}", "answers": [f"a{number}", "b"], "length": 2,
        "dataset": dataset, "language": "en", "all_classes": None, "_id": f"{dataset}{number}",
    }  # fmt: skip
    return {**row, **fields}


def test_longbench_rows(tmp_path: Path) -> None:
    write(tmp_path / "qasper.jsonl", longbench("qasper", 1), longbench("qasper", 2))
    write(tmp_path / "hotpotqa_e.jsonl", longbench("hotpotqa", 3))
    write(tmp_path / "gov_report.jsonl", longbench("gov_report", 4, input=""))
    write(tmp_path / "vcsum.jsonl", longbench("vcsum", 5, input="", language="zh"))
    write(tmp_path / "trec.jsonl", longbench("trec", 6))
    (tmp_path / "notes.txt").write_text("not data")
    qa = read_longbench("qa", [str(tmp_path)], [])
    assert [item.id for item in qa] == ["hotpotqa3", "qasper1", "qasper2"]
    assert qa[1] == Item("qasper1", "text 1", "Q1", ("a1", "b"), "qasper", {"language": "en", "length": 2})
    summaries = read_longbench("summary", [str(tmp_path)], [])
    assert [item.dataset for item in summaries] == ["gov_report", "vcsum"]
    assert summaries[0].question.startswith("Write a summary")
    assert summaries[1].question.startswith("请")
    own = write(tmp_path / "mine.jsonl", {"context": "c", "question": "q", "answer": "a"})
    assert [item.id for item in read_longbench("qa", [], [own])] == ["mine-00001"]
    assert read_longbench("qa", [str(tmp_path / "trec.jsonl")], []) == []


def test_what_a_row_must_have(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl", {"context": "c", "query": "q", "answer": "a"}, {"context": "c", "query": "q"}
    )
    with pytest.raises(UsageError, match=r"rows.jsonl, row 2: chat needs answer"):
        read_items(file, needs_reference=True, task="chat")
    assert len(read_items(file, needs_reference=False, task="support")) == 2
    with pytest.raises(UsageError, match="needs context and query"):
        read_items(write(tmp_path / "empty.jsonl", {"answer": "a"}), needs_reference=True, task="chat")
    with pytest.raises(MissingError, match="no file"):
        read_items(tmp_path / "none.jsonl", needs_reference=True, task="chat")
    (tmp_path / "broken.jsonl").write_text('{"context": "c"\n')
    with pytest.raises(UsageError, match="line 1: not JSON"):
        read_items(tmp_path / "broken.jsonl", needs_reference=True, task="chat")
    twice = {"id": "x", "context": "c", "query": "q", "answer": "a"}
    with pytest.raises(UsageError, match="two rows have the id 'x'"):
        read_items(write(tmp_path / "twice.jsonl", twice, twice), needs_reference=True, task="chat")
    (tmp_path / "nothing.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="no row"):
        read_items(tmp_path / "nothing.jsonl", needs_reference=True, task="chat")
    with pytest.raises(MissingError, match="LongBench"):
        read_longbench("qa", [str(tmp_path / "nowhere")], [])


def test_json_lists_and_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"context": "c", "query": "q", "answers": ["a", "b"]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.parquet"):
        [item] = read_items(tmp_path / name, needs_reference=True, task="chat")
        assert (item.context, item.references) == ("c", ("a", "b"))


def test_saved_answers_by_id_and_question(tmp_path: Path) -> None:
    file = write(
        tmp_path / "saved.jsonl",
        {"id": 7, "question": "Q7", "answer": "seven", "sample": 0},
        {"id": 7, "question": "Q7", "answer": "other", "sample": 1},
        {"query": "Q8", "pred": None},
    )
    assert saved_answers(file) == {"7": "seven", "question:Q7": "seven", "question:Q8": ""}
    with pytest.raises(UsageError, match="row 1: a saved answer needs"):
        saved_answers(write(tmp_path / "bad.jsonl", {"id": 1}))


def test_thinned_spreads_evenly() -> None:
    items = [Item(str(n), "c", "q") for n in range(10)]
    assert [item.id for item in thinned(items, 3)] == ["1", "5", "8"]
    assert thinned(items, None) == thinned(items, 10) == items


def test_keys_follow_context_and_question() -> None:
    one = Item("1", "c", "q", ("a",))
    assert one.key == Item("2", "c", "q").key
    assert one.key != Item("1", "c", "p").key
    assert one.group != Item("1", "d", "q").group


def test_a_context_loses_its_middle() -> None:
    words = BUILTIN["words"]
    text = "one two three four five six seven"
    assert middle_cut(text, words.spans(text), 4) == "one two six seven"
    assert middle_cut(text, words.spans(text), 3) == "one two seven"
    render = render_of(load_template("plain"), False)
    item = Item("1", text, "why?")
    whole = len(words.spans(render(text, "why?")))
    assert Fitter(words, whole, "error", render).fit(item) == (text, "")
    short, why = Fitter(words, whole - 3, "truncate-middle", render).fit(item)
    assert (short, why) == ("one two six seven", "")
    assert len(words.spans(render(short, "why?"))) == whole - 3
    assert Fitter(words, whole - 3, "drop", render).fit(item)[1].startswith("the prompt is longer")
    with pytest.raises(UsageError, match="1: the prompt has"):
        Fitter(words, whole - 3, "error", render).fit(item)
    with pytest.raises(UsageError):
        Fitter(words, 2, "truncate-middle", render).fit(item)


@pytest.mark.parametrize("name", ["in2", "plain", "tiny"])
@pytest.mark.parametrize("chat", [True, False])
def test_prompts_read_as_in_training(name: str, chat: bool) -> None:
    template = load_template(name)
    render = render_of(template, chat)
    assert render("the text", "why?") == by_template(template, chat)("the text", "why?")
    bare = render("", "why?")
    assert bare.startswith(template.bare_head + "why?")
    assert "Context" not in bare
    assert bare.endswith(template.cue) == (not chat or not template.cue)
