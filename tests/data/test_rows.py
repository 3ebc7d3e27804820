"""One table of the formats that people's rows come in, each through training, synthesis, score and evaluation.

What training sees is decoded back from the token ids: the context is in them, and only right answers are learnt.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import tests.data.tokenizers_for_tests as kinds
from lcx.data import files
from lcx.data.documents import read_corpus
from lcx.data.files import Raw, Rejects, raw_rows, strict_rows
from lcx.data.rows import EMPTY_REJECTED, NO_TEXT, Tally, example_of, parse_fields, read_bundles_of_rows
from lcx.errors import UsageError
from tests.truth import shared_folder

CASES = shared_folder("cases") / "rows"
TEXT = "The mill at the river has the gate code 4711, and the old orchard lies behind it. " * 8
CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bot(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


@dataclass(frozen=True)
class Case:
    """A row, and what it says: `learnt` by sft, `rejected` never; `seen` are other texts of the prompt, in order."""

    row: Any
    learnt: str = "4711."
    seen: tuple[str, ...] = ("Which code?",)
    context: str = TEXT
    rejected: tuple[str, ...] = ()
    others: tuple[str, ...] = field(default=())


Q, A, R = "Which code?", "4711.", "No idea at all."
ASKED = f"{TEXT}\n\n{Q}"
FORMATS: dict[str, Case] = {
    "plain": Case({"context": TEXT, "question": Q, "answer": A}),
    **{
        name: Case({name: TEXT, "question": Q, "answer": A})
        for name in ("passage", "document", "text", "article", "story", "Source Text")
    },
    "input beside a question": Case({"input": TEXT, "question": Q, "answer": A}),
    "contexts as a list": Case(
        {"contexts": [TEXT[:300], TEXT[300:]], "question": Q, "answer": A},
        context=f"{TEXT[:300]}\n\n{TEXT[300:]}",
    ),
    "titled passages": Case({"ctxs": [{"title": "Mill", "text": TEXT}], "question": Q, "answers": [A]}),
    "HotpotQA": Case(
        {"context": {"title": ["Mill"], "sentences": [[TEXT, " End."]]}, "question": Q, "answer": A}
    ),
    "query and response": Case({"context": TEXT, "query": Q, "response": A}),
    "instruction and question": Case(
        {"instruction": "Be brief.", "context": TEXT, "question": Q, "answer": A}, seen=("Be brief.", Q)
    ),
    "prompt and target": Case({"document": TEXT, "prompt": Q, "target": A}),
    "answers as a list": Case({"context": TEXT, "question": Q, "answers": [A, "four"]}, others=("four",)),
    "a number as answer": Case({"context": TEXT, "question": Q, "answer": 4711}, learnt="4711"),
    "LongBench": Case(
        {"context": TEXT, "input": Q, "answers": [A], "length": 9, "all_classes": None, "_id": "x"}
    ),
    "flat SQuAD": Case(
        {"id": "s", "title": "Mill", "context": TEXT, "question": Q, "answers": {"text": [A]}}
    ),
    "SQuAD": Case(
        {
            "title": "Mill",
            "paragraphs": [{"context": TEXT, "qas": [{"id": "1", "question": Q, "answers": [{"text": A}]}]}],
        }
    ),
    "CoQA": Case({"story": TEXT, "questions": [Q], "answers": {"input_text": [A], "answer_start": [3]}}),
    "BoolQ": Case({"passage": TEXT, "question": Q, "answer": True}, learnt="true"),
    "choices": Case(
        {"context": TEXT, "question": Q, "choices": ["one", "4711"], "answer": 1},
        learnt="B",
        seen=(Q, "A. one", "B. 4711"),
    ),
    **{
        f"choices in fields {names[0]}": Case(
            {
                "context": TEXT,
                "question": "4711 or one?",
                **dict(zip(names, ("one", "4711"), strict=False)),
                "answer": answer,
            },
            learnt="B",
            seen=("4711 or one?", "A. one", "B. 4711"),
        )
        for names, answer in (
            (("A", "B"), "B"),
            (("option_a", "option_b", "option_c"), 1),
            (("opa", "opb"), "B"),
        )
    },
    "ARC": Case(
        {
            "context": TEXT,
            "question": Q,
            "choices": {"label": ["A", "B"], "text": ["x", "y"]},
            "answerKey": "B",
        },
        learnt="B",
        seen=(Q, "A. x", "B. y"),
    ),
    "choices that the question lists": Case(
        {"context": TEXT, "question": "Which?\n(A) x (B) y", "choices": ["x", "y"], "answer": "B"},
        learnt="B",
        seen=("Which?\n(A) x (B) y",),
    ),
    "Alpaca": Case({"instruction": Q, "input": TEXT, "output": A}),
    "LLaMA-Factory history": Case(
        {"system": "Be kind.", "instruction": Q, "input": TEXT, "output": A, "history": [["Hi", "Hello"]]},
        seen=("Be kind.", "Hi", "Hello", Q),
    ),
    "messages": Case({"messages": [system("Be kind."), user(ASKED), bot(A)]}, seen=("Be kind.", Q)),
    "messages of parts": Case(
        {
            "messages": [
                user([{"type": "text", "text": TEXT}, {"type": "text", "text": Q}]),
                bot([{"type": "text", "text": A}]),
            ]
        }
    ),
    "messages of several turns": Case(
        {"messages": [user(ASKED), bot("Wait."), user("And?"), bot(A)]},
        seen=(Q, "Wait.", "And?"),
        others=("Wait.",),
    ),
    "messages beside a context": Case(
        {"document": TEXT, "messages": [system("Be kind."), user(Q), bot(A)]}, seen=("Be kind.", Q)
    ),
    "messages with weights": Case(
        {"messages": [user(ASKED), bot(A), user("And?"), {**bot("Bad."), "weight": 0}]},
        others=("Bad.", "And?"),
    ),
    "ShareGPT": Case({"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": A}]}),
    "TRL prompt and completion": Case({"prompt": [user(ASKED)], "completion": [bot(A)]}),
    "TRL text": Case({"prompt": ASKED, "completion": "    indented()"}, learnt="    indented()"),
    "TRL preference": Case({"prompt": ASKED, "chosen": A, "rejected": R}, rejected=(R,)),
    "TRL preference, messages": Case(
        {"prompt": [user(ASKED)], "chosen": [bot(A)], "rejected": [bot(R)]}, rejected=(R,)
    ),
    "TRL implicit prompt": Case(
        {"chosen": [user(ASKED), bot(A)], "rejected": [user(ASKED), bot(R)]}, rejected=(R,)
    ),
    "TRL implicit prompt, text": Case(
        {"chosen": f"{ASKED} It is 4711.", "rejected": f"{ASKED} It is unknown."},
        learnt=" 4711.",
        seen=(Q, "It is"),
        rejected=(" unknown.",),
    ),
    "prompt inside both answers": Case(
        {"prompt": ASKED, "chosen": f"{ASKED} {A}", "rejected": f"{ASKED} {R}"},
        learnt=f" {A}",
        rejected=(f" {R}",),
    ),
    "several rejected": Case(
        {"context": TEXT, "question": Q, "chosen": A, "rejected": [R, "Dog."]}, rejected=(R, "Dog.")
    ),
    "numbered rejected": Case(
        {"context": TEXT, "question": Q, "chosen": A, "rejected_1": R, "rejected_2": "Dog."},
        rejected=(R, "Dog."),
    ),
    "UltraFeedback": Case(
        {
            "prompt": ASKED,
            "prompt_id": "u",
            "chosen": [user(ASKED), bot(A)],
            "rejected": [user(ASKED), bot(R)],
            "messages": [user(ASKED), bot(A)],
            "score_chosen": 9.0,
            "score_rejected": 1.0,
        },
        rejected=(R,),
    ),
    "LLaMA-Factory ranking": Case(
        {"instruction": Q, "input": TEXT, "chosen": A, "rejected": R}, rejected=(R,)
    ),
    "LLaMA-Factory ranking, ShareGPT": Case(
        {
            "conversations": [{"from": "human", "value": ASKED}],
            "chosen": {"from": "gpt", "value": A},
            "rejected": {"from": "gpt", "value": R},
        },
        rejected=(R,),
    ),
    "OpenAI preference": Case(
        {
            "input": {"messages": [user(ASKED)], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [bot(A)],
            "non_preferred_output": [bot(R)],
        },
        rejected=(R,),
    ),
    "in one object": Case({"id": 7, "split": "train", "data": {"context": TEXT, "question": Q, "answer": A}}),
    "in one object, SQuAD": Case({"item": {"context": TEXT, "qas": [{"question": Q, "answers": [A]}]}}),
    "a greeting first": Case(
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "gpt", "value": "How can I help?"},
                {"from": "human", "value": ASKED},
                {"from": "gpt", "value": A},
            ]
        },
        seen=("Be kind.", Q),
        others=("How can I help?",),
    ),
    "HH": Case(
        {
            "chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {A}",
            "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {R}",
        },
        rejected=(R,),
    ),
    "ChatML": Case(
        {
            "prompt": f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n"
            "<|im_start|>assistant\n",
            "completion": f"{A}<|im_end|>",
        },
        seen=("Be kind.", Q),
    ),
    "ChatML as text": Case(
        {"text": f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>\n"}
    ),
    "Llama 3 as text": Case(
        {
            "text": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            + ASKED
            + f"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{A}<|eot_id|>"
        }
    ),
    "KTO, good": Case({"prompt": ASKED, "completion": A, "label": True}),
    "control tokens as text": Case(
        {
            "context": f"{TEXT} <|im_end|> <tool_call>",
            "question": f"{Q} <|im_start|>system",
            "answer": f"<|im_end|> {A}",
        },
        learnt=f"<|im_end|> {A}",
        seen=(f"{Q} <|im_start|>system",),
    ),
}
"""By the name of the format."""


@lru_cache
def tokenizer(kind: str) -> Any:
    """ChatML over bytes, one whose template takes no system turn, or Llama-2's kind without a chat template."""
    from tokenizers import AddedToken, Tokenizer

    if kind == "plain":
        return kinds.as_transformers(kinds.llama_legacy(), bos_token="<s>", eos_token="</s>")
    core = Tokenizer.from_str(kinds.byte_level().to_str())
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    core.add_tokens([AddedToken("<tool_call>", special=False)])
    made = kinds.as_transformers(core, eos_token="<|im_end|>")
    made.chat_template = CHATML if kind == "chat" else GEMMA
    return made


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def views(path: Path, kind: str, *, supervised: bool = True) -> list[dict[str, Any]]:
    """What training sees of a file, decoded from its token ids."""
    from lcx.data.assembly import Assembler, share_question
    from lcx.training.data import read_training_data
    from lcx.training.preview import row_view

    assembler = Assembler(tokenizer(kind), "in2")
    found = []
    for bundle in read_training_data(path, supervised=supervised).bundles:
        encoded = assembler.encode(bundle)
        assert encoded is not None
        found.append(row_view(assembler, bundle, encoded if supervised else share_question(encoded)))
    return found


@pytest.mark.parametrize("kind", ["chat", "no-system", "plain"])
@pytest.mark.parametrize("name", FORMATS)
def test_training_sees_the_context_and_learns_right_answers_only(
    name: str, kind: str, tmp_path: Path
) -> None:
    case = FORMATS[name]
    path = write(tmp_path / "rows.jsonl", [case.row])
    [view] = views(path, kind)
    end = {"plain": "</s>"}.get(kind, "<|im_end|>")
    assert view["learnt"] == [case.learnt + end]
    assert view["text"].count(case.context) == 1
    place = -1
    for text in case.seen:
        assert view["text"].find(text, place + 1) > place
        place = view["text"].find(text, place + 1)
    assert "rejected" not in view
    assert not any(text in view["learnt"][0] for text in (*case.rejected, *case.others))
    if case.rejected:
        [pair] = views(path, kind, supervised=False)
        assert pair["learnt"] == [case.learnt + end]
        assert pair["rejected"] == [text + end for text in case.rejected]
        assert pair["text"].count(case.context) == 1


def has_own_context(case: Case) -> bool:
    return bool(example_of(case.row).context) if not {"paragraphs", "questions"} & set(case.row) else True


OWN = [name for name, case in FORMATS.items() if has_own_context(case)]


@pytest.mark.parametrize("name", OWN)
def test_synthesis_score_and_evaluation_read_the_same_row(name: str, tmp_path: Path) -> None:
    from lcx_in2.synth import general_bundles
    from lcx_longreward.data import read_answer_rows
    from lcx_longreward.judged import read_questions

    case = FORMATS[name]
    path = write(tmp_path / "rows.jsonl", [case.row])
    [document] = read_corpus(path, questions=True)
    assert case.context.strip() in document.text
    [(asked, answer)] = document.meta["qa"]
    assert case.seen[-1] in asked
    assert answer == case.learnt.strip()
    [judged] = read_answer_rows(path, Rejects())
    assert case.context.strip() in (judged.context or "")
    assert judged.branches[0].answer == case.learnt.strip()
    assert case.seen[-1] in judged.branches[0].question
    if not case.rejected:
        [item] = read_questions(path, "chat", needs_reference=True)
        assert case.context.strip() in item.context
        assert item.fields["answers"][0] == case.learnt.strip()
    [general] = general_bundles(str(path), 1, Counter())
    assert not general.context
    assert case.context in general.branches[0].question
    assert [branch.answer for branch in general.branches] == [case.learnt]


def as_json_array(rows: list[Any], path: Path, **options: Any) -> None:
    path.write_text(json.dumps(rows, **options))


def as_parquet(rows: list[Any], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def as_csv(rows: list[Any], path: Path) -> None:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def as_zst(rows: list[Any], path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as packed:
        packed.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


FILES: dict[str, Callable[[list[Any], Path], None]] = {
    "a.jsonl": lambda rows, path: path.write_text(lines(rows)),
    "a.ndjson": lambda rows, path: path.write_text("\n" + lines(rows) + "\n\n"),
    "bom.jsonl": lambda rows, path: path.write_bytes(b"\xef\xbb\xbf" + lines(rows).encode()),
    "crlf.jsonl": lambda rows, path: path.write_bytes(lines(rows).replace("\n", "\r\n").encode()),
    "wide.jsonl": lambda rows, path: path.write_bytes(lines(rows).encode("utf-16")),
    "big.jsonl": lambda rows, path: path.write_bytes(b"\xfe\xff" + lines(rows).encode("utf-16-be")),
    "list.json": as_json_array,
    "indented.json": lambda rows, path: as_json_array(rows, path, indent=2),
    "list.jsonl": lambda rows, path: as_json_array(rows, path, indent=2),
    "lines.json": lambda rows, path: path.write_text(lines(rows)),
    "data.json": lambda rows, path: path.write_text(json.dumps({"version": "1", "data": rows}, indent=1)),
    "end_to_end.json": lambda rows, path: path.write_text("".join(json.dumps(row, indent=1) for row in rows)),
    "columns.json": lambda rows, path: path.write_text(
        json.dumps({key: [row[key] for row in rows] for key in rows[0]})
    ),
    "a.parquet": as_parquet,
    "a.csv": as_csv,
    "a.tsv": as_csv,
    "a.jsonl.gz": lambda rows, path: path.write_bytes(gzip.compress(lines(rows).encode())),
    "a.json.gz": lambda rows, path: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    "a.jsonl.zst": as_zst,
}


@pytest.mark.parametrize("name", FILES)
def test_kinds_of_files(name: str, tmp_path: Path) -> None:
    rows = [
        {"context": f"Text {n}, \u2028 été; 漢字", "question": f"Q{n}?", "answer": f"A{n}"} for n in range(3)
    ]
    FILES[name](rows, tmp_path / name)
    rejects = Rejects()
    found, notes = read_bundles_of_rows(tmp_path / name, rejects)
    assert [(b.context, b.branches[0].question, b.branches[0].answer) for b in found] == [
        tuple(row.values()) for row in rows
    ]
    assert not rejects.items
    assert not notes
    assert [row["context"] for row in strict_rows(tmp_path / name)] == [row["context"] for row in rows]
    [first, *_] = read_corpus(tmp_path / name)
    assert first.text == rows[0]["context"]


def test_a_folder_of_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv", "c.json"):
        FILES[{"b.csv": "a.csv", "c.json": "list.json"}.get(name, name)](
            [{"question": name, "answer": "x"}] * 2, tmp_path / name
        )
    (tmp_path / "README.md").write_text("about")
    found, notes = read_bundles_of_rows(tmp_path, Rejects())
    assert [b.branches[0].question for b in found] == ["a.jsonl"] * 2 + ["b.csv"] * 2 + ["c.json"] * 2
    assert len({b.id for b in found}) == 6
    assert notes == ["3 rows that say the same as an earlier one, which are kept"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "Q?"}, "no answer"),
        ({"answer": "A"}, "no question"),
        ({"question": "Q?", "answer": "  "}, "no answer"),
        ({"question": "Q?", "chosen": "", "rejected": "b"}, "no chosen answer"),
        ({"question": "Q?", "chosen": ["a", "b"], "rejected": "c"}, "2 chosen answers"),
        ({"prompt": "Q", "completion": "A", "label": False}, "label is false"),
        ({"question": "Q", "answer": "A", "is_correct": 0}, "is_correct is false"),
        ({"messages": [user([{"type": "image_url", "image_url": {}}]), bot("A")]}, "'image_url'"),
        ({"messages": [user("Q"), {"role": "tool", "content": "x"}, bot("A")]}, "role 'tool'"),
        ({"messages": [user("Q"), {**bot(None), "tool_calls": [{}]}]}, "tool calls"),
        ({"messages": [user("Q"), {"role": "assistant", "tool_calls": []}]}, "no answer"),
        ({"messages": [user("Q"), user("Q2"), bot("A")]}, "two turns of the user"),
        ({"messages": [bot(TEXT), user("Q"), bot("A")]}, "begins with the assistant"),
        ({"messages": [bot("Hello"), bot("You"), user("Q"), bot("A")]}, "begins with the assistant"),
        ({"messages": [bot("Hello")]}, "no question"),
        (
            {"input": {"messages": [user("Q")], "tools": [{}]}, "preferred_output": [bot("A")]},
            "tools in a conversation",
        ),
        ({"data": {"question": "Q?", "answer": "A"}, "text": TEXT}, "no question"),
        ({"a": {"question": "Q?", "answer": "A"}, "b": {"question": "Q?", "answer": "A"}}, "no question"),
        ({"metadata": {"question": "Q?", "answer": "A"}}, "no question"),
        ({"prompt": "[INST] Q [/INST]", "completion": "A"}, "chat format"),
        (
            {"chosen": [user("Q"), bot("A"), user("B"), bot("C")], "rejected": [user("Q"), bot("D")]},
            "several turns",
        ),
        ([1], "no JSON object"),
    ],
)
def test_rows_that_must_not_be_used_are_set_aside_with_the_reason(
    row: Any, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"question": "ok", "answer": "fine"}, row])) + "\n{broken\n")
    rejects = Rejects()
    found, _ = read_bundles_of_rows(path, rejects)
    assert [b.branches[0].answer for b in found] == ["fine"]
    assert [item.where for item in rejects.items] == ["line 2", "line 3"]
    assert reason in rejects.items[0].reason
    assert rejects.items[1].reason == "not JSON"
    with pytest.raises(UsageError, match="no usable row") as bad:
        read_bundles_of_rows(write(tmp_path / "all.jsonl", [row]), Rejects())
    if isinstance(row, dict):
        assert (
            f"line 1 of all.jsonl has the field{'s' if len(row) > 1 else ''} {next(iter(row))}"
            in bad.value.why
        )


def test_rows_without_a_context_among_others_are_counted(tmp_path: Path) -> None:
    rows = [
        {"context": text, "question": f"Q{n}?", "answer": "A"}
        for n, text in enumerate([TEXT, None, TEXT, ""])
    ]
    found, notes = read_bundles_of_rows(write(tmp_path / "some.jsonl", rows), Rejects())
    assert [bool(bundle.context) for bundle in found] == [True, False, True, False]
    assert notes == ["2 of 4 rows without a context, which the others have"]
    _, notes = read_bundles_of_rows(write(tmp_path / "none.jsonl", [rows[1], rows[3]]), Rejects())
    assert notes == []


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": [None, "49", "50"]},
        {"answers": ["49", ""]},
        {"predictions": ["49", None]},
        {"chosen": "49", "rejected": [None, "12"]},
    ],
)
def test_answers_without_text_in_a_list_are_said(answers: dict[str, Any], tmp_path: Path) -> None:
    row = {"context": "Room 7 has the code 49.", "question": "Which code?", **answers}
    said = EMPTY_REJECTED if "rejected" in answers else NO_TEXT
    assert said in example_of(row).notes
    whole = {
        key: [one for one in value if one] if isinstance(value, list) else value for key, value in row.items()
    }
    assert said not in example_of(whole).notes


def test_a_long_field_that_nobody_reads_is_an_error_where_it_may_be_the_context(tmp_path: Path) -> None:
    rows = [{"lore": TEXT, "question": "Q?", "answer": "A"}] * 2
    path = write(tmp_path / "lore.jsonl", rows)
    with pytest.raises(
        UsageError, match=rf"'lore' \({len(TEXT.strip()):,} characters a row\).* is not used"
    ) as bad:
        read_bundles_of_rows(path, Rejects())
    assert "--fields context=lore" in bad.value.hint
    [first, _], notes = read_bundles_of_rows(path, Rejects(), {"context": "lore"})
    assert first.context == TEXT
    [first, _], notes = read_bundles_of_rows(path, Rejects(), {"ignore": "lore"})
    assert first.context == ""
    assert not any("lore" in note for note in notes)
    beside = write(tmp_path / "beside.jsonl", [{"context": "C", **rows[0]}])
    _, notes = read_bundles_of_rows(beside, Rejects())
    assert notes == [f"field 'lore' ({len(TEXT.strip()):,} characters a row) is not used"]
    object_beside = write(
        tmp_path / "object.jsonl", [{"lore": TEXT, "data": {"question": "Q?", "answer": "A"}}]
    )
    with pytest.raises(UsageError, match="'lore'"):
        read_bundles_of_rows(object_beside, Rejects())
    reasoned = write(tmp_path / "reasoned.jsonl", [{"question": "Q?", "answer": "A", "rationale": TEXT}])
    assert "'rationale'" in read_bundles_of_rows(reasoned, Rejects())[1][0]


def test_what_was_left_out_before_the_first_user_turn_is_counted(tmp_path: Path) -> None:
    rows = [{"messages": [bot("Hello"), user("Q"), bot("A")]}] * 2
    rows += [{"messages": [bot("Hello"), user("Q"), bot("A"), user("And?"), bot("B")]}]
    found, notes = read_bundles_of_rows(write(tmp_path / "rows.jsonl", rows), Rejects())
    assert [bundle.meta.get("turns") for bundle in found] == [None, None, [["user", "Q"], ["assistant", "A"]]]
    assert "3 assistant turns before the first user turn left out" in notes
    assert "1 earlier assistant turns, which are part of the prompt and not learnt" in notes


def test_thoughts_beside_a_turn_are_counted_and_not_learnt(tmp_path: Path) -> None:
    rows = [
        {"messages": [user("Q"), {**bot("A"), "reasoning_content": "hm"}]},
        {"messages": [user("Q"), bot("A")]},
    ]
    rows += [{"prompt": [user("Q")], "chosen": [{**bot("A"), "thinking": "so"}], "rejected": [bot("B")]}]
    found, notes = read_bundles_of_rows(write(tmp_path / "rows.jsonl", rows), Rejects())
    assert [bundle.branches[0].answer for bundle in found] == ["A"] * 3
    assert "2 thoughts in fields of their own (reasoning_content and the like), which are not learnt" in notes


def test_fields_by_other_names() -> None:
    row = {"data": {"q": "Q?", "a": "A"}, "head": "One", "body_1": "Two"}
    fields = parse_fields("context=head+body_1, question=data.q,answer=data.a")
    tally = Tally(Rejects(), fields)
    [(_, found)] = tally.examples_of(Raw("f", "line 1", row))
    assert (found.context, found.question, found.answers) == ("One\n\nTwo", "Q?", ("A",))
    assert not tally.unread()
    list(tally.examples_of(Raw("f", "line 2", {"head": "One"})))
    assert tally.rejects.items[0].reason == "no field 'data.q'"
    with pytest.raises(ValueError, match="Did you mean 'context'"):
        parse_fields("contxt=a")
    with pytest.raises(ValueError, match="form"):
        parse_fields("context")


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases lie beside the repository")
@pytest.mark.parametrize(
    "path", sorted(CASES.glob("*")) if CASES.is_dir() else [], ids=lambda path: path.name
)
def test_cases_of_public_reports(path: Path) -> None:
    """Each row is decoded back: every text of a usable one is seen, and nothing that is rejected is learnt."""
    if path.name in ("array.json", "dup.jsonl"):  # documents
        with pytest.raises(UsageError, match="no usable row"):
            read_bundles_of_rows(path, Rejects())
        assert len({document.text for document in read_corpus(path)}) == 20
        return
    found, notes = read_bundles_of_rows(path, Rejects())
    if path.name == "nested.jsonl":
        assert notes == ["1 rows that lie in one object"]
        fields = {"question": "data.question", "answer": "data.answer"}
        named, _ = read_bundles_of_rows(path, Rejects(), fields)
        assert [bundle.branches for bundle in named] == [bundle.branches for bundle in found]
    for bundle, view in zip(found, views(path, "chat"), strict=True):
        assert (bundle.context or "") in view["text"]
        assert bundle.branches[0].question in view["text"]
        assert view["learnt"] == [bundle.branches[0].answer + "<|im_end|>"]
        bad = {branch.answer for branch in bundle.branches if branch.role == "rejected"}
        assert not any(text in view["learnt"][0] for text in bad)
    text = "".join(view["text"] for view in views(path, "chat"))
    for raw in raw_rows(path, Rejects()):
        for key in ("instruction", "input", "output", "system", "context", "question"):
            value = raw.row.get(key)
            if isinstance(value, str) and path.name not in ("odd.jsonl", "lonesurr.jsonl"):
                assert value in text
    assert "Dog." not in text


def test_numbers_are_the_texts_that_they_look_like(tmp_path: Path) -> None:
    row = '{"id": 1e5, "context": 0.10, "question": 2.50, "answer": [1e5], "x": 7.50}'
    for name, text in (("a.jsonl", row), ("a.json", f"[{row}]")):
        (tmp_path / name).write_text(text)
        [raw] = raw_rows(tmp_path / name, Rejects())
        found = example_of(raw.row)
        assert (found.id, found.context, found.question, found.answers) == ("1e5", "0.10", "2.50", ("1e5",))
        assert json.dumps(raw.row["x"]) == "7.5"
        assert str(pickle.loads(pickle.dumps(raw.row["x"]))) == "7.50"


def test_lists_of_questions_and_answers_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"context": TEXT, "question": ["When?", "Where?"], "answer": ["6", "north"]},
        {"context": TEXT, "question": ["Where", "is it?"], "answer": "north"},
        {"context": TEXT, "question": "Why?", "answer": "<think>Hm.</think>No bell."},
    ]
    found, notes = read_bundles_of_rows(write(tmp_path / "rows.jsonl", rows), Rejects())
    said = [(one.branches[0].question, one.branches[0].answer) for one in found]
    assert said[:3] == [("When?", "6"), ("Where?", "north"), ("Where\nis it?", "north")]
    assert len(notes) == 1
    assert notes[0].startswith("1 answers with a thought in them")


def test_parts_are_told_where_they_stand_whatever_letters_they_have(tmp_path: Path) -> None:
    """One-letter texts and names of roles stand in the template too: what counts is where the tokens have them."""
    rows = [
        {"context": "u", "question": "s", "answer": "a"},
        {"context": "user", "system": "start", "question": "i", "answer": "assistant"},
        {"context": "c", "messages": [system("s"), user("u"), bot("a"), user("s"), bot("b")]},
    ]
    said = [
        ["context u", "question s", "answer a"],
        ["system start", "context user", "question i", "answer assistant"],
        ["system s", "context c", "user u", "assistant a", "question s", "answer b"],
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    for kind, end in (("chat", "<|im_end|>"), ("no-system", "<|im_end|>"), ("plain", "</s>")):
        for view, expected in zip(views(path, kind), said, strict=True):
            parts = [part for part in view["parts"] if part["part"] != "template"]
            assert [f"{part['part']} {part['text'].removesuffix(end)}" for part in parts] == expected


def test_whether_a_prediction_was_correct_says_nothing_of_the_reference() -> None:
    row = {"question": "Q?", "answer": "A", "prediction": "B", "correct": False}
    assert example_of(row).answers == ("A",)


def test_a_short_context_is_in_its_question_as_words_only() -> None:
    for context, question, kept in (("a", "What is it?", "a"), ("Mill", "Where is the Mill?", "")):
        assert example_of({"context": context, "question": question, "answer": "x"}).context == kept


def test_the_preview_prints_a_json_object_a_row_and_writes_nothing(cli: Any, tmp_path: Path) -> None:
    tokenizer("chat").save_pretrained(tmp_path / "model")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nmethod: sft\nsteps:\n  - stage: train\n")
    rows = [
        {"lore": TEXT, "question": Q, "gold_text": A},
        {"lore": TEXT, "question": Q, "chosen": A, "rejected": R},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    told = ("train", "--recipe", str(recipe), "--model", str(tmp_path / "model"), "--input", str(path))
    told += ("--run", str(tmp_path / "run"), "--preview", "2", "--fields", "context=lore,answer=gold_text")
    done = cli(*told, "--json")
    assert done.code == 0, done.err
    [view, pair] = map(json.loads, done.out.splitlines())
    assert TEXT in view["text"]
    assert view["learnt"] == [f"{A}<|im_end|>"]
    assert [part["part"] for part in view["parts"]][1:4:2] == ["context", "question"]
    assert pair["learnt"] == [f"{A}<|im_end|>"]  # what is rejected is no part of supervised training
    assert R not in pair["text"]
    assert "left out: 1 rejected" in done.err
    assert not (tmp_path / "run").exists()
    assert "> answer" in cli(*told).out
    wrong = cli(*told[:-1], "contxt=lore")
    assert wrong.code == 2
    assert "Did you mean 'context'" in wrong.err


def test_what_was_set_aside_beyond_a_number_waits_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_HELD", 2)
    rejects = Rejects()
    for number in range(5):
        rejects.add("a", "odd" if number % 2 else "even", where=f"line {number}")
    for _ in range(2):
        rows = [json.loads(line) for line in rejects.write(tmp_path / "r.jsonl").read_text().splitlines()]
        assert [row["where"] for row in rows] == [f"line {number}" for number in range(len(rejects))]
        rejects.add("b", "even", where=f"line {len(rejects)}")
    assert len(rejects) == 7
    assert len(rejects.items) == 2
    assert "5 x even (a line 0, ...)" in rejects.summary()


def test_an_empty_list_among_rows_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[]\n{"prompt": "q", "response": "a"}\n')
    rejects = Rejects()
    assert len(list(Tally(rejects).examples_in(tmp_path / "a.jsonl"))) == 1
    assert rejects.counts == {"an empty list": 1}
