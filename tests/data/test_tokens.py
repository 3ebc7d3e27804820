"""Joined segment tokens decode to the joined text, for every kind of tokenizer."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tokenizers_for_tests as kinds

from lcx.data.table import build_table
from lcx.data.tokens import BUILTIN, PieceTokenizer, open_token_store
from lcx.records import Document


def table_of(texts: list[str]):
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    return build_table(documents, BUILTIN["simple"], min_tokens=4)


@pytest.mark.parametrize("kind", [*kinds.KINDS, "word-level"])
def test_joined_segments_decode_to_the_joined_text(kind: str, tmp_path: Path) -> None:
    table = table_of(kinds.TRICKY)
    if kind == "word-level":
        core = kinds.word_level([*table.texts(range(len(table))), "x", "\n"])
    else:
        core = kinds.KINDS[kind]()
    store = open_token_store(core, table, tmp_path)
    assert store.info["lossy"] == 0, [table.text(i) for i in store.info["lossy_examples"]]
    pieces = PieceTokenizer(core)
    rng = random.Random(1)
    for _ in range(50):
        plan = rng.sample(range(len(table)), rng.randint(1, len(table)))
        text = "\n".join(table.texts(plan))
        ids = store.join(plan, first=np.array(pieces.first(table.text(plan[0]))))
        assert core.decode(ids.tolist(), skip_special_tokens=False) == text
        head = pieces.first("x") if kind == "word-level" else pieces.first("Head:")
        behind = core.decode([*head, *store.join(plan).tolist()], skip_special_tokens=False)
        assert behind == core.decode(head, skip_special_tokens=False) + text


def test_prefix_space_is_what_the_trick_removes() -> None:
    """Without it, pieces joined as they are would show a space that no text has."""
    core = kinds.llama_legacy()
    naive = [*core.encode("one").ids, *core.encode("two").ids]
    assert core.decode(naive) == "one two"
    pieces = PieceTokenizer(core)
    assert pieces.prefixed
    assert pieces.decode(pieces.first("one") + pieces.later("two")) == "onetwo"
    assert not PieceTokenizer(kinds.byte_level()).prefixed


def test_special_names_in_a_corpus_stay_text() -> None:
    core = kinds.llama_legacy()
    end = core.token_to_id("</s>")
    assert end in core.encode("a</s>b", add_special_tokens=False).ids
    pieces = PieceTokenizer(core)
    assert end not in pieces.later("a</s>b")
    assert end in pieces.special_later("a</s>b")
    assert pieces.decode(pieces.first("a</s>b")) == "a</s>b"


def test_the_marker_itself_is_lossy_in_metaspace_only(tmp_path: Path) -> None:
    table = table_of([kinds.LITERAL_MARKER])
    assert open_token_store(kinds.llama_legacy(), table, tmp_path).info["lossy"] > 0
    assert open_token_store(kinds.byte_level(), table, tmp_path).info["lossy"] == 0


def test_what_a_tokenizer_cannot_carry_is_counted(tmp_path: Path) -> None:
    table = table_of(["The river and the Mill\n"] * 3)
    store = open_token_store(kinds.lowercasing(), table, tmp_path)
    assert store.info["lossy"] == len(table) == 3
    assert store.info["lossy_examples"] == [0, 1, 2]


def test_the_store_is_cached_and_mapped(tmp_path: Path) -> None:
    table = table_of(kinds.TRICKY)
    store = open_token_store(kinds.byte_level(), table, tmp_path)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = open_token_store(kinds.byte_level(), table, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == files
    assert again.dtype == np.uint16
    assert (again.join([2, 0, 1]) == store.join([2, 0, 1])).all()
    copy = pickle.loads(pickle.dumps(again))
    assert len(pickle.dumps(again)) < 2000
    assert (copy[3] == store[3]).all()


def test_another_tokenizer_or_table_has_another_store(tmp_path: Path) -> None:
    open_token_store(kinds.byte_level(), table_of(["one two three four"]), tmp_path)
    open_token_store(kinds.metaspace(), table_of(["one two three four"]), tmp_path)
    open_token_store(kinds.byte_level(), table_of(["one two three five"]), tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 3


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "json", "ids.bin", "offsets.npy", "store.json", "digest"]
)
def test_a_damaged_store_is_built_anew(tmp_path: Path, damage: str) -> None:
    table = table_of(kinds.TRICKY)
    store = open_token_store(kinds.byte_level(), table, tmp_path)
    whole = store.join(range(len(table))).tolist()
    if damage == "cut":
        data = (store.folder / "ids.bin").read_bytes()
        (store.folder / "ids.bin").write_bytes(data[:-3])
    elif damage == "missing":
        (store.folder / "offsets.npy").unlink()
    elif damage == "json":
        (store.folder / "store.json").write_text("{")
    elif damage == "digest":  # one of an earlier version
        known = json.loads((store.folder / "store.json").read_text())
        del known["sha256"], known["crc32"]
        (store.folder / "store.json").write_text(json.dumps(known))
    else:  # one bit, in the arrays or in the separator's token
        data = bytearray((store.folder / damage).read_bytes())
        data[data.index(b'"separator": [') + 20 if damage == "store.json" else -2] ^= 1
        (store.folder / damage).write_bytes(data)
    again = open_token_store(kinds.byte_level(), table, tmp_path)
    assert again.join(range(len(table))).tolist() == whole
    assert not list((tmp_path / "tokens").glob("*building*"))


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    core = kinds.word_level([" ".join(f"w{i}" for i in range(70_000))])
    table = table_of(["w0 w9999 w999 w99"])
    store = open_token_store(core, table, tmp_path)
    assert store.dtype == np.uint32
    assert int(store[0].max()) > 1 << 16


def test_what_killed_builds_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    table = table_of(["some text\nof two lines and more"])
    folder = open_token_store(kinds.byte_level(), table, tmp_path).folder
    old, young = (folder.with_name(f"{folder.name}.building-{name}") for name in ("1-old", "2-young"))
    for left in (old, young):
        left.mkdir()
    os.utime(old, (0, 0))
    shutil.rmtree(folder)
    open_token_store(kinds.byte_level(), table, tmp_path)
    assert not old.exists()
    assert young.exists()
