"""Rows of JSONL and Parquet as training data: layouts that are read, and reasons for those that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcx.data.documents import Rejects
from lcx.data.pair_rows import bundle_of, read_pair_rows
from lcx.errors import UsageError


def roles(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(branch.role, branch.question, branch.answer) for branch in bundle_of(row, "x").branches]


def test_layouts() -> None:
    plain = {"context": "The text.", "question": "Q?", "chosen": "good", "rejected": ["bad", "worse"]}
    assert roles(plain) == [("chosen", "Q?", "good"), ("rejected", "Q?", "bad"), ("rejected", "Q?", "worse")]
    assert bundle_of(plain, "x").context == "The text."
    single = {"prompt": "Q?", "chosen": "good", "rejected": "bad", "id": 7}
    assert roles(single) == [("chosen", "Q?", "good"), ("rejected", "Q?", "bad")]
    assert bundle_of(single, "x").id == "7"
    assert bundle_of(single, "x").context == ""
    assert roles({"instruction": "Do", "output": "Done"}) == [("answer", "Do", "Done")]


def test_conversations() -> None:
    user, good, bad = (
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "good"},
        {"role": "assistant", "content": "bad"},
    )
    system = {"role": "system", "content": "Be brief."}
    wanted = [("chosen", "Q?", "good"), ("rejected", "Q?", "bad")]
    assert roles({"prompt": [user], "chosen": [good], "rejected": [bad]}) == wanted
    assert roles({"chosen": [user, good], "rejected": [user, bad]}) == wanted
    told = roles({"prompt": [system, user], "chosen": [good], "rejected": [bad]})
    assert told[0][1] == "Be brief.\n\nQ?"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "a", "rejected": "b"}, "no question"),
        ({"question": "Q?"}, "no answer"),
        ({"question": "Q?", "chosen": "", "rejected": "b"}, "no chosen answer"),
        ({"question": "Q?", "chosen": "a", "rejected": []}, "an empty answer"),
        ({"question": "Q?", "chosen": "a", "rejected": ["b", " "]}, "an empty answer"),
        ({"question": "Q?", "chosen": "a"}, "an empty answer"),
        (
            {"prompt": [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}], "chosen": "a"},
            "a conversation of several turns",
        ),
    ],
)
def test_reasons(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bundle_of(row, "x")


def test_files(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = [{"question": f"Q{n}?", "chosen": "a", "rejected": ["b"]} for n in range(3)]
    lines = [json.dumps(good[0]), "{broken", json.dumps({"question": "Q?"}), "[]", json.dumps(good[1])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rejects = Rejects()
    bundles = read_pair_rows(tmp_path / "rows.jsonl", rejects)
    assert [bundle.id for bundle in bundles] == ["rows-0000001", "rows-0000005"]
    assert dict(rejects.counts) == {"no JSON object": 2, "no answer": 1}
    pq.write_table(pa.Table.from_pylist(good), tmp_path / "rows.parquet")
    assert len(read_pair_rows(tmp_path / "rows.parquet", Rejects())) == 3
    (tmp_path / "none.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="no usable row") as bad:
        read_pair_rows(tmp_path / "none.jsonl", Rejects())
    assert bad.value.why == "no question (1)"
