"""The catalogue: unique real entities, readable records, deals that must be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcx.data.stdlib import (
    MARKER,
    STALE_MARKER,
    WORDS_PER_RECORD,
    Entity,
    catalogue_documents,
    deal,
    load_entities,
    record_text,
    stale_documents,
    vocabulary,
)
from lcx.errors import MissingError

SOURCE = '"""Module."""\ndef {name}():\n    """{doc}"""\n'
DOC = "Return the one and only value that this thing can hold."


@pytest.fixture(scope="module")
def entities() -> list[Entity]:
    return load_entities()


def test_entities_are_many_unique_and_bounded(entities: list[Entity]) -> None:
    modules = {entity.module for entity in entities}
    names = {entity.name for entity in entities}
    assert len(entities) == len(names) == 256
    assert 16 <= len(modules) <= 64
    assert len(vocabulary(entities)) <= 900
    assert all(len(entity.words) == WORDS_PER_RECORD for entity in entities)
    words = {word for entity in entities for word in entity.words}
    assert not names & words
    assert not modules & words
    assert not names & modules


@pytest.mark.slow
def test_a_smaller_limit_is_a_prefix(entities: list[Entity]) -> None:
    assert load_entities(limit=20) == entities[:20]
    assert len({entity.module for entity in load_entities(max_modules=3)}) == 3


def test_extraction_is_the_same_in_another_process(entities: list[Entity]) -> None:
    code = "from lcx.data.stdlib import load_entities; print([e.name for e in load_entities()])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([entity.name for entity in entities])


def test_importing_the_catalogue_does_not_import_torch() -> None:
    code = "import sys, lcx.data.stdlib; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_sources_broken_private_and_ambiguous_ones(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(SOURCE.format(name="alpha", doc=DOC))
    (tmp_path / "_private.py").write_text(SOURCE.format(name="hidden", doc=DOC))
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE.format(name="beta", doc=DOC))
    for module in ("one", "two"):
        (package / f"{module}.py").write_text(SOURCE.format(name="twice", doc=DOC))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "case.py").write_text(SOURCE.format(name="tested", doc=DOC))
    found = load_entities(root=tmp_path)
    assert [(entity.name, entity.module) for entity in found] == [("alpha", "good"), ("beta", "package")]
    assert found[0].words[:3] == ("return", "the", "one")


def test_no_sources_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=str(tmp_path)):
        load_entities(root=tmp_path)


def test_a_record_is_a_line_of_twelve_words(entities: list[Entity]) -> None:
    line = record_text(entities[0], "somewhere")
    words = line.split()
    assert len(words) == 12
    assert words[:3] == [MARKER, entities[0].name, "somewhere"]
    assert record_text(entities[0], "somewhere", words=0) == " ".join(words[:3])


def test_deals_depend_on_the_seed_alone_and_differ(entities: list[Entity]) -> None:
    first, again, other = deal(entities, 1), deal(entities, 1), deal(entities, 2)
    assert first == again
    assert set(first.values()) <= {entity.module for entity in entities}
    assert sum(first[name] == other[name] for name in first) < len(first) / 4


def test_documents_hold_one_record_a_line(entities: list[Entity]) -> None:
    documents = list(catalogue_documents(3, 5))
    assert documents == list(catalogue_documents(3, 5))
    assert len({document["id"] for document in documents}) == 3
    by_name = {entity.name: entity for entity in entities}
    for document in documents:
        lines, meta = document["text"].split("\n"), document["meta"]
        assert len(lines) == len(set(meta["keys"])) == 64
        for line, key, value in zip(lines, meta["keys"], meta["values"], strict=True):
            assert line == record_text(by_name[key], value)
    assert documents[0]["meta"]["keys"] != documents[1]["meta"]["keys"]


def test_stale_lines_repeat_a_record_with_another_value(entities: list[Entity]) -> None:
    documents = list(stale_documents(3, 5))
    assert documents == list(stale_documents(3, 5))
    assert documents[0]["text"] != documents[1]["text"]
    places = []
    for document in documents:
        lines, meta = document["text"].split("\n"), document["meta"]
        assert len(lines) == len(meta["keys"]) == len(meta["values"]) == 64
        assert meta["stale"] == [place for place, line in enumerate(lines) if line.startswith(STALE_MARKER)]
        facts = {key: place for place, key in enumerate(meta["keys"]) if place not in meta["stale"]}
        assert len(facts) == 64 - len(meta["stale"]) == 40
        for place in meta["stale"]:
            twin = facts[meta["keys"][place]]
            assert lines[twin].startswith(MARKER)
            assert lines[place].split()[3:] == lines[twin].split()[3:]
            assert meta["values"][place] == lines[place].split()[2] != meta["values"][twin]
            places.append(place < twin)
    assert 0.25 < sum(places) / len(places) < 0.75


def test_a_document_without_stale_lines_is_all_records() -> None:
    document = next(stale_documents(1, 0, records=8, stale=0))
    assert document["meta"]["stale"] == []
    assert STALE_MARKER not in document["text"]
    with pytest.raises(ValueError, match="5 stale lines of 8"):
        next(stale_documents(1, 0, records=8, stale=5))


@pytest.mark.parametrize("records", [0, 257])
def test_a_document_cannot_hold_more_records_than_entities(records: int) -> None:
    with pytest.raises(ValueError, match="records of distinct entities"):
        next(catalogue_documents(1, 0, records=records))
