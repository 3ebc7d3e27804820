"""Joined segment tokens decode to the joined text, for every kind of tokenizer."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tokenizers_for_tests as kinds

from lcx.data import tokens
from lcx.data.table import build_table
from lcx.data.tokens import BUILTIN, PieceTokenizer, open_token_store
from lcx.errors import LcxError
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


def store_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def grown(count: int) -> list[str]:
    return [
        "\n".join(f"line {line} of document {number}, some words" for line in range(9))
        for number in range(count)
    ]


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that a store had tokenised; it works in stretches of a few documents, and notes each."""
    texts: list[str] = []
    real = PieceTokenizer.later_batch

    def later_batch(self: PieceTokenizer, some: list[str]) -> tuple[list[list[int]], list[int]]:
        texts.extend(some)
        return real(self, some)

    monkeypatch.setattr(PieceTokenizer, "later_batch", later_batch)
    monkeypatch.setattr(tokens, "SEGMENTS_A_BATCH", 20)
    monkeypatch.setattr(tokens, "SYNCED", 1)
    return texts


@pytest.mark.parametrize("kind", ["byte_level", "lowercasing"])
def test_of_a_corpus_that_grew_only_what_is_new_is_tokenised(
    tmp_path: Path, tokenised: list[str], kind: str
) -> None:
    core = getattr(kinds, kind)()
    texts = [text.replace("line 3", "Line 3") for text in grown(12)]  # lossy where case is lost
    open_token_store(core, table_of(texts), tmp_path / "old")
    new = [
        "at the front\nof all, two lines of it",
        *texts[:5],
        "in the middle, one line of words",
        *texts[5:],
        *grown(14)[12:],
    ]
    open_token_store(core, table_of(texts[::-1]), tmp_path / "old")
    tokenised.clear()
    store = open_token_store(core, table_of(new), tmp_path / "old")
    table = table_of(new)
    own = [table.text(one) for place in (0, 6, 14, 15) for one in table.segments_of(place)]
    assert tokenised == [*own, "\n"]
    fresh = open_token_store(core, table_of(new), tmp_path / "fresh")
    assert store_bytes(store.folder) == store_bytes(fresh.folder)
    assert bool(store.info["lossy"]) == (kind == "lowercasing")


def test_documents_of_a_damaged_store_are_tokenised_again(tmp_path: Path, tokenised: list[str]) -> None:
    core = kinds.byte_level()
    for name in ("ids.bin", "documents.bin", "offsets.npy"):
        cache = tmp_path / name
        folder = open_token_store(core, table_of(grown(6)), cache).folder
        data = bytearray((folder / name).read_bytes())
        data[-3] ^= 1
        (folder / name).write_bytes(data)
        store = open_token_store(core, table_of(grown(7)), cache)
        fresh = open_token_store(core, table_of(grown(7)), cache / "fresh")
        assert store_bytes(store.folder) == store_bytes(fresh.folder)


def test_a_killed_build_of_a_store_goes_on_where_it_was(tmp_path: Path, tokenised: list[str]) -> None:
    core = kinds.lowercasing()  # what is lossy is noted, too
    table = table_of([text.replace("line 3", "Line 3") for text in grown(12)])
    whole = open_token_store(core, table, tmp_path / "whole")

    class Kill(Exception):
        pass

    def killed(done: int, total: int) -> None:
        if done > total // 2:
            raise Kill

    def leave(cache: Path) -> Path:
        with pytest.raises(Kill):
            open_token_store(core, table, cache, progress=killed)
        return cache / "tokens" / f"{whole.folder.name}.building"

    tokenised.clear()
    left = leave(tmp_path / "plain")
    before = len(tokenised)
    (left / "ids.bin").write_bytes((left / "ids.bin").read_bytes() + b"of a write that was not noted")
    tokenised.clear()
    again = open_token_store(core, table, tmp_path / "plain")
    assert store_bytes(again.folder) == store_bytes(whole.folder)
    assert len(tokenised) < len(table) - before + 45, (
        "at most the stretches that were under way are made again"
    )
    assert not left.exists()
    for name in ("ids.bin", "lossy.bin", "progress.jsonl"):  # damaged before it goes on
        left = leave(tmp_path / name)
        data = bytearray((left / name).read_bytes())
        data[len(data) // 2] ^= 1
        (left / name).write_bytes(data)
        again = open_token_store(core, table, tmp_path / name)
        assert store_bytes(again.folder) == store_bytes(whole.folder), name


def test_a_large_store_is_verified_as_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that flipped are never read as other tokens; the next process builds the store anew."""
    monkeypatch.setattr(tokens, "VERIFIED_WHOLE", 0)
    monkeypatch.setattr(tokens, "BLOCK", 256)
    core = kinds.byte_level()
    table = table_of(grown(40))
    first = open_token_store(core, table, tmp_path)
    whole = first.join(range(len(table))).tolist()
    for name in ("ids.bin", "offsets.npy"):
        store = open_token_store(core, table, tmp_path)
        data = bytearray((store.folder / name).read_bytes())
        data[-9] ^= 4
        (store.folder / name).write_bytes(data)
        store = open_token_store(core, table, tmp_path)
        assert store.join([0, 1, 2]).tolist() == first.join([0, 1, 2]).tolist()
        for use in (store.__getitem__, lambda last, store=store: store.join([3, last])):
            with pytest.raises(LcxError, match="is damaged"):
                use(len(table) - 1)
        with pytest.raises(LcxError, match="is damaged"):
            store.verify()
        assert open_token_store(core, table, tmp_path).join(range(len(table))).tolist() == whole


def test_a_store_is_built_once_by_processes_that_want_it_at_once(
    tmp_path: Path, tokenised: list[str]
) -> None:
    table = table_of(grown(12))
    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(lambda _: open_token_store(kinds.byte_level(), table, tmp_path), range(3)))
    assert len(tokenised) == len(table) + 1  # and the separator
    assert len({store.join([1, 0]).tobytes() for store in stores}) == 1
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [stores[0].folder.name]


def test_a_place_that_is_taken_along_just_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process renames the place of its build when it is done, perhaps right here."""
    open_own, asked = tokens.open_own, []

    def late(path: Path, flags: int) -> int:
        asked.append(path)
        if len(asked) == 1:
            shutil.rmtree(path.parent)
        return open_own(path, flags)

    monkeypatch.setattr(tokens, "open_own", late)
    table = table_of(grown(12))
    assert len(open_token_store(kinds.byte_level(), table, tmp_path).join([1, 0]))
    assert len(asked) == 2
