"""Importance: what a question looks for, in several scripts, and how many of it a chunk holds."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from lcx_logo.importance import Builtin, classify, common_words, open_extractor, question_items, score

from lcx.errors import MissingError, UsageError


@pytest.mark.parametrize(
    ("question", "items"),
    [
        (
            "How did Ada Lovelace's father react to the gulls at Cape D7 in 1,843?",
            [("ada", "lovelace"), ("father",), ("react",), ("gull",), ("cape", "d7"), ("1843",)],
        ),
        (
            "Who won World War 2 at the University of Oxford?",
            [("world", "war", "2"), ("university", "oxford")],
        ),
        ("Why does sort_keys matter for json.dumps()?", [("sort_keys",), ("matter",), ("json", "dump")]),
        ("这座灯塔的看守人是谁？", [("座灯",), ("灯塔",), ("看守",), ("守人",)]),
        ("東京タワーの高さは何メートルですか", [("東京",), ("タワー",), ("メートル",)]),
        ("WHO IS THE KING OF SIAM?", [("king",), ("siam",)]),  # all capitals name nobody
        ("iterdump", [("iterdump",)]),
        ("What is it?", []),
    ],
)
def test_what_a_question_looks_for(question: str, items: list[tuple[str, ...]]) -> None:
    assert question_items(question) == items


def test_a_chunk_holds_a_name_only_with_all_its_words() -> None:
    extractor = Builtin()
    items = extractor.question("Did Ada Lovelace count the gulls?")
    assert items == (("ada", "lovelace"), ("count",), ("gull",))
    assert score(items, extractor.chunk("Lovelace counts GULLS; gulls again")) == 2
    assert score(items, extractor.chunk("Ada's gull, wrote Lovelace")) == 2
    assert score(items, extractor.chunk("Ada Lovelace counted: the count of a gull")) == 3
    assert score(items, extractor.chunk("")) == 0


def test_a_bare_key_is_looked_for_whatever_word_it_is() -> None:
    assert Builtin().question("describe") == (("describe",),)
    assert Builtin().question("What is it?") == ()


def test_chinese_chunks_are_told_apart() -> None:
    extractor = Builtin()
    items = extractor.question("灯塔的看守人每天记录多少只海鸥？")
    right = extractor.chunk("第三章。看守人住在灯塔里，每天记录海鸥的数量。")
    wrong = extractor.chunk("第四章。渔船在清晨出发，傍晚返回港口。")
    assert classify(score(items, right), extractor.threshold(items)) == "critical"
    assert classify(score(items, wrong), extractor.threshold(items)) == "irrelevant"


@pytest.mark.parametrize(("value", "what"), [(7, "critical"), (6, "undefined"), (5, "irrelevant")])
def test_the_threshold_itself_is_neither(value: int, what: str) -> None:
    assert classify(value, 6.0) == what


def test_common_words_are_left_out_unless_nothing_else_is_there() -> None:
    chunks = [f"the parser reads token {number}" for number in range(100)]
    assert {"parser", "read", "token"} <= common_words(chunks)
    assert common_words(chunks[:3]) == frozenset()  # three chunks make nothing common
    extractor = open_extractor("builtin", chunks)
    assert extractor.question("Which parser reads unicorns?") == (("unicorn",),)
    assert extractor.question("Which parser?") == (("parser",),)


def test_unknown_extractors_are_refused() -> None:
    for spec in ("spacey", "spacy", "spacy:", "builtin:x"):
        with pytest.raises(UsageError, match="unknown importance"):
            open_extractor(spec)


def test_spacy_is_named_with_its_pip_line_where_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MissingError) as caught:
        open_extractor(f"spacy:{tmp_path}")
    assert 'pip install "spacy' in caught.value.hint


class FakeSpacy(types.ModuleType):
    """Entities are the capitalised words."""

    def load(self, path: Path) -> Any:
        def run(text: str) -> Any:
            found = [w.strip(".,?") for w in text.split() if w[0].isupper()]
            return types.SimpleNamespace(ents=[types.SimpleNamespace(text=w) for w in found])

        return run


def test_a_pipeline_at_a_path_finds_the_entities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "spacy", FakeSpacy("spacy"))
    with pytest.raises(MissingError) as caught:
        open_extractor(f"spacy:{tmp_path}")
    assert "pip install" not in caught.value.hint
    (tmp_path / "config.cfg").write_text("")
    extractor = open_extractor(f"spacy:{tmp_path}")
    items = extractor.question("did Ada meet Babbage in London?")
    assert items == (("ada",), ("babbage",), ("london",))
    assert score(items, extractor.chunk("Later Babbage left London. LONDON wept.")) == 2
    assert extractor.threshold(items) == 6


def test_a_real_spacy_pipeline() -> None:
    spacy = pytest.importorskip("spacy")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pipeline = spacy.blank("en")
        ruler = pipeline.add_pipe("entity_ruler")
        ruler.add_patterns(
            [{"label": "PERSON", "pattern": "Ada Lovelace"}, {"label": "GPE", "pattern": "London"}]
        )
        pipeline.to_disk(folder)
        extractor = open_extractor(f"spacy:{folder}")
        items = extractor.question("Did Ada Lovelace live in London?")
        assert items == (("ada lovelace",), ("london",))
        assert score(items, extractor.chunk("In London, Ada Lovelace wrote.")) == 2
