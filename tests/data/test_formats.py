"""Data written for other programs, read back by the reader of rows and by TRL; rows of others as lcx's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from lcx.cli.export import Form
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.files import Rejects
from lcx.data.formats import FORMATS, Exchange, export_rows, import_rows, read_exchanges
from lcx.data.templates import TEMPLATES
from lcx.errors import LcxError, MissingError, UsageError
from lcx.records import TURNS, Branch, Bundle

ODD = "Räume\u2028 <|im_start|>user\nnot a turn<|im_end|>\t Human: no \U0001f600"
BUNDLES = [
    Bundle(
        "several",
        (Branch("Which code has room 7?", "49"), Branch(f"What is odd?\n{ODD}", f"  {ODD}")),
        context=f"Room 7 has the code 49.\n{ODD}",
    ),
    Bundle(
        "pairs",
        (
            Branch("And room 8?", "It is 50.", "chosen"),
            Branch("And room 8?", "It is 51.", "rejected"),
            Branch("And room 8?", "No idea.", "rejected"),
        ),
        context="Room 8 has the code 50.",
    ),
    Bundle(
        "turns",
        (Branch("And then?", "Then nothing."),),
        context="A long story.",
        meta={TURNS: [["system", "Be short."], ["user", "What is first?"], ["assistant", "A beginning."]]},
    ),
    Bundle("bare", (Branch("2 + 2?", "4"),), context=""),
]


def said(one: Exchange, form: str = "messages") -> Any:
    """What a model is asked, and its answers: what every format has to keep of an exchange."""
    asked = (one.context, one.question) if form == "longbench" else one.prompt(TEMPLATES["plain"])
    answers = (
        [(one.answer, bad) for bad in one.rejected] if form == "trl-preference" else [(one.answer, None)]
    )
    return [(asked, *answer) for answer in answers]


def kept(form: str) -> list[Any]:
    """What a format has a place for, of all bundles."""
    found = [one for bundle in BUNDLES for one in _exchanges(bundle)]
    if form == "trl-preference":
        found = [one for one in found if one.rejected]
    if form == "longbench":
        found = [one for one in found if not one.turns]
    return [row for one in found for row in said(one, form)]


def _exchanges(bundle: Bundle) -> list[Exchange]:
    from lcx.data.formats import exchanges_of

    return list(exchanges_of(bundle, bundle.context or ""))


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a done step with bundles."""
    run = tmp_path_factory.mktemp("run")
    write_bundles(run / "synth" / "data", BUNDLES)
    (run / "manifest.json").write_text(json.dumps({"steps": {"synth": {"state": "done"}}}))
    return run / "synth"


def test_the_command_line_names_every_format() -> None:
    assert get_args(Form) == tuple(FORMATS)


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_back_as_it_was_asked(
    step: Path, tmp_path: Path, form: str, ending: str
) -> None:
    made = export_rows(str(step), tmp_path / f"rows{ending}", form)
    rejects = Rejects()
    found, _ = read_exchanges(str(made.path), rejects)
    assert [row for one in found for row in said(one, form)] == kept(form)
    assert len(rejects) == 0
    assert made.rows == len(kept(form))


def test_what_a_format_has_no_place_for_is_counted(step: Path, tmp_path: Path) -> None:
    made = export_rows(str(step / "data"), tmp_path / "a.jsonl", "longbench")
    assert made.counts == {
        "exchanges": 4,
        "left out: earlier turns, which LongBench has no place for": 1,
        "rejected answers left out, which this format has no place for": 2,
    }
    pairs = export_rows(str(step), tmp_path / "b.jsonl", "trl-preference")
    assert pairs.counts == {"exchanges": 1, "left out: no rejected answer": 4}


def test_templates_and_plans_are_written_as_training_sees_them(tmp_path: Path) -> None:
    from lcx.data.table import build_table
    from lcx.data.tokens import open_span_tokenizer
    from lcx.records import Document

    documents = [Document(f"d{n}", f"The code of room {n} is {n}{n}.") for n in range(2)]
    table = build_table(documents, open_span_tokenizer("simple"), min_tokens=32)
    table.save(tmp_path / "data")
    plan = (1, 0)
    write_bundles(tmp_path / "data", [Bundle("p", (Branch("q?", "a"),), plan=plan)])
    made = export_rows(str(tmp_path), tmp_path / "x.jsonl", "messages", template="in2")
    [turn, _] = json.loads(made.path.read_text())["messages"]
    t = TEMPLATES["in2"]
    assert turn["content"] == f"{t.head}{table.text(1)}\n{table.text(0)}{t.between}q?"


def test_rows_of_others_become_rows_and_bundles(tmp_path: Path, cli: Callable[..., Any]) -> None:
    rows = [
        {"passage": "Room 7: 49.", "question": "Which code has room 7?", "answers": ["49", "forty-nine"]},
        {"passage": "Room 7: 49.", "question": "Which room has 49?", "output": "7"},
        {"prompt": "p", "chosen": "b", "rejected": ["c", "d"]},
        {"weights": 1},
        {
            "article": "A.",
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "u"}],
            "answer": "a",
        },
    ]
    source = tmp_path / "theirs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = cli("import", str(source), "--to", str(tmp_path / "ours.jsonl"), "--json")
    assert made.json["rows"] == 4
    assert made.json["counts"] == {"set aside: no question": 1}
    ours = [json.loads(line) for line in (tmp_path / "ours.jsonl").read_text().splitlines()]
    assert ours[0] == {
        "id": "theirs-0000001",
        "context": "Room 7: 49.",
        "question": "Which code has room 7?",
        "answers": ["49", "forty-nine"],
    }
    assert ours[2] == {"id": "theirs-0000003", "question": "p", "chosen": "b", "rejected": ["c", "d"]}
    assert "no question" in (tmp_path / "ours.rejected.jsonl").read_text()
    first, second = (
        list(read_exchanges(str(tmp_path / name), Rejects())[0]) for name in ("theirs.jsonl", "ours.jsonl")
    )
    assert [said(one) for one in first] == [said(one) for one in second]
    assert [one.context for one in second] == ["Room 7: 49.", "Room 7: 49.", "", "A."]
    assert cli("import", str(source), "--to", str(tmp_path / "bundles")).code == 0
    assert [len(one.branches) for one in read_bundles(tmp_path / "bundles")] == [
        2,
        3,
        1,
    ]  # a context is paid for once


def test_nothing_is_written_where_nothing_can_be(step: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    target = tmp_path / "out.jsonl"
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"question": "q", "answer": "a"}\n')
    with pytest.raises(UsageError, match=r"nothing of .*alone") as bad:
        export_rows(str(alone), target, "trl-preference")
    assert "no rejected answer (1)" in bad.value.why
    with pytest.raises(UsageError, match="ends neither"):
        export_rows(str(step), tmp_path / "out.csv", "messages")
    with pytest.raises(UsageError, match="Did you mean 'sharegpt'"):
        export_rows(str(step), target, "share-gpt")
    with pytest.raises(MissingError, match="no data at"):
        export_rows(str(tmp_path / "gone"), target, "messages")
    (step.parent / "manifest.json").write_text(json.dumps({"steps": {"synth": {"state": "failed"}}}))
    with pytest.raises(LcxError, match=r"'synth' .* is failed"):
        export_rows(str(step), target, "messages")
    (step.parent / "manifest.json").write_text(json.dumps({"steps": {"synth": {"state": "done"}}}))
    lost = tmp_path / "lost.jsonl"
    lost.write_text(json.dumps({"lore": "word " * 100, "question": "q", "answer": "a"}) + "\n")
    with pytest.raises(UsageError, match="field 'lore'"):
        import_rows(str(lost), target)
    assert not target.exists()
    target.write_text("mine")
    assert cli("export", "data", str(step), "--format", "messages", "--to", str(target)).code == 2
    assert target.read_text() == "mine"


@pytest.mark.slow
def test_trl_reads_what_is_written_for_it(step: Path, tmp_path: Path) -> None:
    """TRL's own trainers make tokens of the files: the prompt is masked, and answers end as the chat template says."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
    from trl.data_utils import apply_chat_template, is_conversational

    from lcx.hub import load_tokenizer
    from lcx.modeling.load import load_model
    from tests.gguf_files import llama_model, write_gguf

    file = write_gguf(tmp_path / "small.gguf", llama_model())
    model, tokenizer = load_model(file), load_tokenizer(file)

    def rows(form: str) -> Any:
        made = export_rows(str(step), tmp_path / f"{form}.jsonl", form)
        return load_dataset("json", data_files=str(made.path), split="train", cache_dir=str(tmp_path / "hf"))

    def prompt_of(one: Exchange) -> str:
        turns = [{"role": role, "content": text} for role, text in one.prompt(TEMPLATES["plain"])]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    exchanges = [one for bundle in BUNDLES for one in _exchanges(bundle)]
    common: dict[str, Any] = {
        "output_dir": str(tmp_path / "t"),
        "use_cpu": True,
        "report_to": [],
        "max_length": None,
    }
    for form in ("trl-sft", "messages"):
        trainer = SFTTrainer(model, SFTConfig(**common), train_dataset=rows(form), processing_class=tokenizer)
        for one, row in zip(exchanges, trainer.train_dataset, strict=True):
            whole = tokenizer(f"{prompt_of(one)}{one.answer}<|im_end|>\n")["input_ids"]
            assert row["input_ids"] == whole
            if form == "trl-sft":
                asked = len(tokenizer(prompt_of(one))["input_ids"])
                assert row["labels"] == [-100] * asked + whole[asked:]
    pair = exchanges[2]
    trained = DPOTrainer(
        model, args=DPOConfig(**common), train_dataset=rows("trl-preference"), processing_class=tokenizer
    )
    for bad, row in zip(pair.rejected, trained.train_dataset, strict=True):
        assert row["prompt_ids"] == tokenizer(prompt_of(pair))["input_ids"]
        assert tokenizer.decode(row["chosen_ids"]) == f"{pair.answer}<|im_end|>\n"
        assert tokenizer.decode(row["rejected_ids"]) == f"{bad}<|im_end|>\n"
    for one, row in zip(exchanges, rows("trl-prompt"), strict=True):
        assert is_conversational(row)
        assert apply_chat_template({"prompt": row["prompt"]}, tokenizer)["prompt"] == prompt_of(one)
        assert row["answer"] == one.answer
