"""A synth step's segment table: read the corpus, leave contaminated documents out, cut, and keep count of both."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lcx.data.decontaminate import Decontaminator
from lcx.data.documents import ACCEPTED, Rejects, read_corpus
from lcx.data.table import SegmentTable, build_table, load_table
from lcx.data.tokenizing import open_span_tokenizer
from lcx.errors import UsageError
from lcx.records import Document
from lcx.work.files import read_json, write_json, write_lines

DOUBLE = "dropped: same text as an earlier document"


def step_table(
    folder: Path,
    corpus: str,
    *,
    documents: int | None,
    tokenizer: str,
    min_tokens: int,
    mode: str,
    decontaminate: Sequence[str],
    ngram: int,
    counts: Counter[str],
    log: Callable[[str], None],
    questions: bool = False,
    fields: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
) -> SegmentTable:
    """The table in `folder/data`: loaded where an earlier process finished it, else built from the corpus.

    What could not be read goes to `rejected.jsonl`, what shares text with an evaluation item to `contaminated.jsonl`,
    the numbers into `counts`. `questions`, `fields` and `encoding` are those of `read_corpus`. A text that an earlier
    document has is dropped and counted: twice in one context, it would be evidence twice. Raises UsageError where
    nothing is left.
    """
    data = folder / "data"
    if not (data / "table.json").is_file():
        log(f"reading {corpus}")
        cutter = open_span_tokenizer(tokenizer)
        rejects = Rejects()
        notes: list[str] = []
        doubles: Counter[str] = Counter()
        stream = read_corpus(
            corpus,
            limit=documents,
            rejects=rejects,
            questions=questions,
            fields=fields,
            encoding=encoding,
            notes=notes,
        )
        stream = once_each(stream, doubles)
        sieves = [Decontaminator(path, ngram) for path in decontaminate]
        for sieve in sieves:
            stream = sieve.filter(stream)
        try:
            built = build_table(stream, cutter, min_tokens=min_tokens, mode=mode)
        except UsageError:
            if any(sieve.dropped for sieve in sieves) and not any(sieve.kept for sieve in sieves[-1:]):
                raise UsageError(
                    "every document shares text with an evaluation item, so none is left",
                    why=f"the list is in {folder / 'contaminated.jsonl'}",
                    hint="Raise synth.ngram, or check the files of synth.decontaminate.",
                ) from None
            raise
        finally:
            _set_aside(folder, sieves, rejects, doubles)
        for note in notes:
            log(f"    {note}")
        if len(rejects):
            log(f"    set aside ({folder / 'rejected.jsonl'}): {rejects.summary()}; accepted: {ACCEPTED}")
        built.save(data)  # last: a table that is there says that the counts are, too
    table = load_table(data)
    if (folder / "corpus.json").is_file():
        counts.update(read_json(folder / "corpus.json"))
    counts["documents"], counts["segments"] = table.document_count, len(table)
    log(f"{len(table):,} segments from {table.document_count:,} documents")
    return table


def once_each(documents: Iterator[Document], counts: Counter[str]) -> Iterator[Document]:
    """The documents without those whose text and questions an earlier one has; they are counted."""
    seen: set[bytes] = set()
    for document in documents:
        said = f"{document.text}\0{document.meta.get('qa')}".encode()
        digest = hashlib.blake2b(said, digest_size=16).digest()
        if digest in seen:
            counts[DOUBLE] += 1
        else:
            seen.add(digest)
            yield document


def _set_aside(
    folder: Path, sieves: Sequence[Decontaminator], rejects: Rejects, doubles: Counter[str]
) -> None:
    """Write down what the corpus lost and why: counts, contaminated documents, rows that could not be read."""
    found = {f"set aside: {reason}": n for reason, n in rejects.counts.items()} | dict(doubles)
    dropped = [drop for sieve in sieves for drop in sieve.dropped]
    if dropped:
        found["dropped: shares text with an evaluation item"] = len(dropped)
        write_lines(folder / "contaminated.jsonl", (asdict(drop) for drop in dropped))
    if len(rejects):
        rejects.write(folder / "rejected.jsonl")
    write_json(folder / "corpus.json", dict(sorted(found.items())))
