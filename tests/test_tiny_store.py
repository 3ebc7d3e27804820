"""The store of trained tiny models: what it hangs on, and that it trains once."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests import tiny_store
from tests.tiny_store import MAKER, TinyStore, maker_module, source_file, training_modules, without_docstrings


def test_what_makes_a_tiny_model_is_found_wherever_it_lies() -> None:
    code = {module: source_file(module).read_text("utf-8") for module in training_modules()}
    for definition in ("def train_base(", "def new_model(", "def draw_contexts(", "def load_entities("):
        assert any(definition in text for text in code.values()), definition
    assert "def few_threads(" in "".join(code.values())  # sums depend on the number of threads


def test_a_change_of_code_counts_and_one_of_words_does_not() -> None:
    def told(text: str) -> str:
        return ast.unparse(without_docstrings(ast.parse(text)))

    first = 'X = 1\n"""What X is."""\ndef f():\n    """Says so."""\n    return 1  # one\n'
    assert told(first) == told(first.replace("What X is", "More words").replace("# one", "# 1"))
    assert told(first) != told(first.replace("return 1", "return 2"))


def test_a_model_is_trained_once_and_copied_into_each_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []

    def make(seed: int, folder: Path, name: str) -> Path:
        place = folder / f"{name}-{seed}-key"
        if not place.is_dir():
            trained.append((name, seed))
            place.mkdir()
            (place / "config.json").write_text("{}")
        return place

    monkeypatch.setattr(importlib.import_module(maker_module()), MAKER, make)
    for session in ("one", "two"):
        place = TinyStore(tmp_path / "store").ensure("tiny16", 3, tmp_path / session)
        assert place == tmp_path / session / "tiny" / "tiny16-3-key"
        (place / "config.json").write_text("spoilt")
    assert trained == [("tiny16", 3)]
    monkeypatch.setattr(tiny_store, "sources_hash", lambda: "other")
    place = TinyStore(tmp_path / "store").ensure("tiny16", 3, tmp_path / "three")
    assert (place / "config.json").read_text() == "{}"
    assert len(trained) == 2
