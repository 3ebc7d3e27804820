"""Corpora: every format is read; what cannot be used is set aside with its place and reason."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lcx.data import files as hub
from lcx.data.documents import Rejects, corpus_fingerprint, read_corpus
from lcx.data.stdlib import stdlib_documents
from lcx.errors import MissingError, UsageError
from lcx.records import Document


def read(spec: Path | str, **options: Any) -> tuple[dict[str, Document], list[tuple[str, str, str, str]]]:
    rejects = Rejects()
    documents = list(read_corpus(spec, rejects=rejects, **options))
    assert len({document.id for document in documents}) == len(documents)
    return {document.id: document for document in documents}, [
        (item.source, item.where, item.reason, item.detail) for item in rejects.items
    ]


def test_a_folder_of_many_formats(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.md").write_bytes(b"\xef\xbb\xbf# Title\r\nline\rend")
    (tmp_path / "a.txt").write_text("plain é")
    (tmp_path / "code.py").write_text("x = 1\n")
    rows = [{"text": "one", "id": "own"}, {"content": "two"}, {"document": "three", "kind": "code"}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with gzip.open(tmp_path / "z.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "packed", "meta": {"lang": "en"}}) + "\n\n")
    pq.write_table(pa.table({"content": ["p0", "p1"], "other": [1, 2]}), tmp_path / "t.parquet")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/x.txt").write_text("no")
    documents, rejected = read(tmp_path)
    assert not rejected
    assert {key: document.text for key, document in documents.items()} == {
        "a.txt": "plain é",
        "b/notes.md": "# Title\nline\nend",
        "code.py": "x = 1\n",
        "own": "one",
        "r.jsonl:2": "two",
        "r.jsonl:3": "three",
        "t.parquet:1": "p0",
        "t.parquet:2": "p1",
        "z.jsonl.gz:1": "packed",
    }
    assert list(documents) == sorted(documents, key=lambda i: "r.jsonl:1" if i == "own" else i)
    assert documents["code.py"].meta["kind"] == documents["r.jsonl:3"].meta["kind"] == "code"
    assert documents["z.jsonl.gz:1"].meta == {"lang": "en", "kind": "text"}
    assert list(read(tmp_path, limit=2)[0]) == ["a.txt", "b/notes.md"]


BAD: dict[str, tuple[bytes, tuple[str, str, str]]] = {
    "image.png": (b"\x89PNG\0\1", ("", "binary file", "zero byte at 4")),
    "zero.txt": (b"text\0more", ("", "binary file", "zero byte at 4")),
    "latin.txt": (b"caf\xe9 au lait", ("", "not UTF-8", "byte 3 is 0xe9")),
    "empty.txt": (b"", ("", "empty document", "")),
    "blank.md": (b" \n\t\n", ("", "empty document", "")),
    "broken.jsonl": (b'{"text": "ok1"}\n{"text": \n', ("line 2", "not JSON", "Expecting value")),
    "field.jsonl": (b'{"lore": "x", "n": 1}\n', ("line 1", "no text field", "has lore, n")),
    "list.jsonl": (b"[1]\n", ("row 1", "not an object", "int")),
    "number.jsonl": (b'{"text": 5}\n', ("line 1", "text is not a string", "")),
    "void.jsonl": (b'{"text": " "}\n', ("line 1", "empty document", "")),
    "bytes.jsonl": (b'{"text": "\xff"}\n', ("line 1", "not UTF-8", "byte 10")),
    "half.jsonl": (b'{"text": "\\ud83d"}\n', ("line 1", "lone surrogate", "character 0")),
    "keys.jsonl": (
        b'{"text": "a\\nb", "meta": {"keys": ["a"]}}\n',
        ("line 1", "keys do not match the lines", "1 keys, 2 lines"),
    ),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "x"}\n' * 50)[:-9], ("", "broken gzip", "")),
    "no.parquet": (b"PAR1 not really", ("after row 0", "broken Parquet", "")),
    "archive.tar.gz": (b"\x1f\x8b", ("", "broken archive", "")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_set_aside_with_place_and_reason(name: str, tmp_path: Path) -> None:
    data, (where, reason, detail) = BAD[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good")
    documents, rejected = read(tmp_path)
    assert "good.txt" in documents
    assert len(rejected) == 1
    source, found_where, found_reason, found_detail = rejected[0]
    assert (source, found_reason) == (name, reason)
    assert found_where.startswith(where)
    assert detail in found_detail


def test_parquet_without_text_and_with_broken_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lore": ["x"]}), tmp_path / "a.parquet")
    broken = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\5\0\0\0"), pa.py_buffer(b"ok\xff\xfe\xfd")
    )
    pq.write_table(pa.table({"text": broken}), tmp_path / "b.parquet")
    named = pa.table({"ab": ["x"], "text": ["y"]})
    pq.write_table(named, tmp_path / "c.parquet", store_schema=False)
    whole = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(
        whole.replace(b"ab", b"\xe1b")
    )  # pyarrow decodes names as it opens a file
    documents, rejected = read(tmp_path)
    assert [document.text for document in documents.values()] == ["ok"]
    assert [entry[:3] for entry in rejected] == [
        ("a.parquet", "row 1", "no text field"),
        ("b.parquet", "row 2", "not UTF-8"),
        ("c.parquet", "after row 0", "broken Parquet"),
    ]


def test_nothing_is_lost_in_the_report(tmp_path: Path) -> None:
    for name, (data, _) in BAD.items():
        (tmp_path / name).write_bytes(data)
    rejects = Rejects()
    list(read_corpus(tmp_path, rejects=rejects))
    written = rejects.write(tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert len(written) == len(rejects) == sum(rejects.counts.values()) == len(BAD)
    assert {json.loads(line)["source"] for line in written} == set(BAD)


def test_an_empty_corpus_says_what_was_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.jsonl").write_bytes(b"{}\n")
    with pytest.raises(UsageError, match="no usable document") as caught:
        list(read_corpus(tmp_path))
    assert "2 files" in caught.value.why
    assert "not UTF-8 (a.txt byte 0 is 0xff)" in caught.value.why
    assert "no text field (b.jsonl line 1 no fields)" in caught.value.why
    (tmp_path / "void").mkdir()
    with pytest.raises(UsageError) as caught:
        list(read_corpus(tmp_path / "void"))
    assert "Nothing was found" in caught.value.why


@pytest.mark.parametrize(
    ("spec", "hint"), [("stdlb", "'stdlib'"), ("/no/such/place", "hf:NAME"), ("hf:", "hf:")]
)
def test_unknown_specs_are_refused_at_once(spec: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_corpus(spec)
    assert hint in caught.value.hint
    with pytest.raises(UsageError):
        corpus_fingerprint(spec)


def test_a_near_miss_of_a_file_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("")
    with pytest.raises(UsageError) as caught:
        read_corpus(tmp_path / "corpsu.jsonl")
    assert "corpus.jsonl" in caught.value.hint


def test_a_named_file_of_unknown_type_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("words")
    assert read(tmp_path / "README")[0]["README"].text == "words"


def test_unreadable_files_are_set_aside(tmp_path: Path) -> None:
    """As root everything is readable, so a child that gave up root tries it."""
    (tmp_path / "open.txt").write_text("fine")
    (tmp_path / "shut.txt").write_text("secret")
    (tmp_path / "shut.txt").chmod(0)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    code = f"""
        import os
        import lcx.data.documents as d
        import pyarrow, lcx.storage, lcx.data.stdlib
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        rejects = d.Rejects()
        print([x.text for x in d.read_corpus({str(tmp_path)!r}, rejects=rejects)])
        print(sorted((i.source, i.reason, i.detail) for i in rejects.items))
        print(len(d.corpus_fingerprint({str(tmp_path)!r})))
    """
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "['fine']", done.stderr
    assert lines[1] == str(
        [
            ("dangling.txt", "unreadable file", "No such file or directory"),
            ("shut.txt", "unreadable file", "Permission denied"),
        ]
    )
    assert lines[2] == "64"


def test_fingerprints_follow_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = corpus_fingerprint(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    assert corpus_fingerprint(tmp_path) == first
    (tmp_path / "a.txt").write_text("two")
    second = corpus_fingerprint(tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({first, second, corpus_fingerprint(tmp_path)}) == 3
    assert corpus_fingerprint("stdlib") == corpus_fingerprint("stdlib")
    assert corpus_fingerprint("stdlib:records") != corpus_fingerprint("stdlib:records@1")


def test_the_standard_library_is_a_corpus_of_text_and_code() -> None:
    first = list(read_corpus("stdlib", limit=60))
    assert [document.meta["kind"] for document in first[:4]] == ["text", "code", "text", "code"]
    assert first == list(read_corpus("stdlib", limit=60))
    for document in first:
        if document.meta["kind"] == "code":
            compile(document.text, "x", "exec")
    assert sum(len(document.text) for document in first if document.meta["kind"] == "text") > 20_000


def test_stdlib_rules_on_a_small_tree(tmp_path: Path) -> None:
    body = "\n".join(f"    x{i} = {i}" for i in range(8))
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text(f'"""{"Words of a module. " * 30}"""\ndef long():\n{body}\n')
    (tmp_path / "same.py").write_text(f"def long():\n{body}\n\ndef short():\n    return 1\n")
    (tmp_path / "bad.py").write_text("def (:\n")
    documents = list(stdlib_documents(tmp_path))
    assert sorted(d.id for d in documents) in (
        ["stdlib/pkg", "stdlib/pkg.long()"],
        ["stdlib/pkg", "stdlib/same.long()"],
    )


def test_records_bring_their_keys() -> None:
    documents = list(read_corpus("stdlib:records:3@7"))
    assert len(documents) == 3
    for document in documents:
        lines = document.text.split("\n")
        assert len(lines) == len(document.meta["keys"])
        assert all(key in line.split() for key, line in zip(document.meta["keys"], lines, strict=True))
    assert [d.text for d in read_corpus("stdlib:records:3@8")] != [d.text for d in documents]


def test_stale_records_are_a_corpus_too() -> None:
    documents = list(read_corpus("stdlib:stale:2@7"))
    assert [document.id for document in documents] == ["stale-7-0000", "stale-7-0001"]
    assert all(document.meta["stale"] for document in documents)
    assert len(list(read_corpus("stdlib:stale", limit=3))) == 3
    assert corpus_fingerprint("stdlib:stale") != corpus_fingerprint("stdlib:records")


def test_a_dataset_that_cannot_be_reached_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingError, match="cannot be reached") as caught:
        list(read_corpus("hf:no-such/dataset"))
    assert "hf download no-such/dataset" in caught.value.hint


def test_datasets_are_read_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands in for the hub: `datasets` opens both the same way."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "data").mkdir()
    rows = [{"text": "one"}, {"text": " "}, {"text": "three"}]
    (tmp_path / "data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents, rejected = read(f"hf:{tmp_path / 'data'}@train")
    assert [document.text for document in documents.values()] == ["one", "three"]
    assert rejected[0][1:3] == ("row 2", "empty document")
    with pytest.raises(UsageError, match="as asked"):
        list(read_corpus(f"hf:{tmp_path / 'data'}@nosplit"))
    (tmp_path / "data/train.jsonl").write_text('{"lore": "x"}\n')
    with pytest.raises(UsageError, match="no usable document"):
        list(read_corpus(f"hf:{tmp_path / 'data'}"))


def test_a_stream_that_breaks_off_is_missing() -> None:
    def rows() -> Any:
        yield {"text": "one"}
        raise ConnectionError("gone")

    stream = hub._stream("x/y", rows())
    assert next(stream)["text"] == "one"
    with pytest.raises(MissingError, match="x/y"):
        next(stream)


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, lcx.hub, lcx.data.tokens, lcx.data.documents, lcx.data.table, lcx.data.assembly,"
        "lcx.data.plans,"
        "lcx.data.bundles, lcx.data.decontaminate, lcx.storage;"
        "print(sorted({'torch','pyarrow','transformers','datasets','tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_html_packed_text_and_western_bytes(tmp_path: Path) -> None:
    page = "<html><style>x {}</style><h1>Mill</h1><p>The code is 4711 &amp; more.<script>no()</script></p></html>"
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html.gz").write_bytes(gzip.compress(page.encode()))
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "NOTES").write_text("no ending")
    (tmp_path / "page").write_text("\n<!DOCTYPE html>" + page)
    (tmp_path / "packed.dat").write_bytes(gzip.compress(b"packed under another name"))
    (tmp_path / "rows.log").write_text('{"text": "row one"}\n{"text": "row two"}\n')
    (tmp_path / "braces.dat").write_text("{not json}\nwords")
    (tmp_path / "letter.rtf").write_text("{\\rtf1\\ansi hello}")
    with zipfile.ZipFile(tmp_path / "d.docx", "w") as packed:
        packed.writestr("word/document.xml", "<w>hello</w>")
    documents, rejected = read(tmp_path)
    words = "Mill\n\nThe code is 4711 & more."
    assert {key: one.text for key, one in documents.items()} == {
        "a.html": words,
        "b.html.gz": words,
        "NOTES": "no ending",
        "page": words,
        "packed.dat": "packed under another name",
        "rows.log:1": "row one",
        "rows.log:2": "row two",
        "braces.dat": "{not json}\nwords",
    }
    assert [entry[0] for entry in rejected] == ["c.txt", "d.docx", "letter.rtf"]
    assert rejected[1][2] == "a zip archive, which is not read"
    assert read(tmp_path, encoding="auto")[0]["c.txt"].text == "café"


def test_what_is_no_file_of_words_is_set_aside(tmp_path: Path) -> None:
    """Pipes, devices, stacks of marks, surrogates in ids, rows of a thousand lists: none hangs or ends the corpus."""
    (tmp_path / "good.txt").write_text("good")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "stack.txt").write_text("e" + "\u0301\u0316" * 100_000)
    deep = [
        {"text": "a", "id": "\ud800"},
        {"text": "b", "meta": {"k": "\udc00"}},
        {"text": "c", "id": "fine"},
    ]
    lines = [*map(json.dumps, deep), '{"text": "d", "meta": ' + "[" * 900 + "]" * 900 + "}"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("latin name")
    documents, rejected = read(tmp_path)
    assert {key: one.text for key, one in documents.items()} == {
        "good.txt": "good",
        "fine": "c",
        "caf\\xe9.txt": "latin name",
    }
    assert sorted(rejected) == [
        ("pipe.txt", "", "unreadable file", "a pipe, a device or the like, and no regular file"),
        ("rows.jsonl", "line 1", "lone surrogate", "in its id or meta"),
        ("rows.jsonl", "line 2", "lone surrogate", "in its id or meta"),
        ("rows.jsonl", "line 4", "nested too deeply", ""),
        ("stack.txt", "", "a stack of marks on one character", "200,000 of them"),
        ("zero.txt", "", "unreadable file", "a pipe, a device or the like, and no regular file"),
    ]
    assert len(corpus_fingerprint(tmp_path)) == 64
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/good.txt").write_text("good")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/good.txt").write_text("good")
    assert corpus_fingerprint(tmp_path / "moved") == corpus_fingerprint(tmp_path / "other")


def test_a_path_that_is_not_there_has_only_near_names_beside_it(tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "corpora.jsonl").touch()
    for name, near in (("nope", ""), ("corpra.jsonl", f"Did you mean '{tmp_path / 'corpora.jsonl'}'?")):
        with pytest.raises(UsageError, match="there is no corpus") as caught:
            read_corpus(tmp_path / name)
        assert caught.value.hint.startswith(near or "Give a file")


def test_a_pdf_is_read_by_its_extra_and_asks_for_it_where_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 one")
    (tmp_path / "scan").write_bytes(b"%PDF-1.7 two")
    (tmp_path / "good.txt").write_text("good")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    documents, rejected = read(tmp_path)
    assert list(documents) == ["good.txt"]
    assert [entry[3] for entry in rejected] == ["pip install 'lcx[pdf]'"] * 2
    with pytest.raises(MissingError) as caught:
        read(tmp_path / "a.pdf")
    assert caught.value.hint == "pip install 'lcx[pdf]'"

    class Page(str):
        extract_text = str.__str__

    def reader(file: Any) -> Any:
        return SimpleNamespace(
            pages=[Page(word) for word in file.read().decode().split()[1:]] + [Page("end")]
        )

    monkeypatch.setitem(sys.modules, "pypdf", SimpleNamespace(PdfReader=reader))
    documents, rejected = read(tmp_path)
    assert (documents["a.pdf"].text, documents["scan"].text, rejected) == ("one\n\nend", "two\n\nend", [])


@pytest.mark.parametrize(("ending", "packing"), [("zst", "zstd"), ("bz2", "bz2")])
def test_compressed_rows_are_read_as_a_stream(ending: str, packing: str, tmp_path: Path) -> None:
    """What comes before a cut is used, what follows is set aside."""
    path = tmp_path / f"corpus.jsonl.{ending}"
    rng = random.Random(0)
    lines = [json.dumps({"text": f"{number} {rng.getrandbits(4000):x}"}) for number in range(1500)]
    with pa.CompressedOutputStream(str(path), packing) as file:
        file.write("\n".join(lines).encode())
    assert [one.text for one in read_corpus(path)] == [json.loads(line)["text"] for line in lines]
    path.write_bytes(path.read_bytes()[:-3000])
    rejects = Rejects()
    documents = list(read_corpus(path, rejects=rejects))
    assert 10 < len(documents) < 1500
    assert [item.reason for item in rejects.items][-1] == f"broken {packing}"


def test_the_first_document_of_a_large_file_is_there_before_the_rest_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        for number in range(200):
            file.write(json.dumps({"text": f"{number} {'x' * 50_000}"}).encode() + b"\n")
    tracemalloc.start()
    next(read_corpus(path))
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


def test_a_dataset_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    pulled: list[int] = []

    def rows() -> Any:
        for number in range(1000):
            pulled.append(number)
            yield {"text": f"text {number}"}

    def load(name: str, config: str | None, *, split: str, streaming: bool = False) -> Any:
        assert (name, config, split, streaming) == ("some/name", "part", "train", True)
        return rows()

    monkeypatch.setattr(hub, "out_of_reach", lambda: False)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    stream = read_corpus("hf:some/name:part@train")
    assert next(stream).text == "text 0"
    assert len(pulled) < 10
    assert sum(1 for _ in stream) == 999
