"""Where models lie: what a spec means, decided without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcx.errors import MissingError
from lcx.hub import TOKENIZER_FILES, locate, tiny_folder, tiny_spec


@pytest.mark.parametrize(
    ("spec", "seed"),
    [("tiny", 0), ("tiny:", 0), ("tiny:12", 12), ("tiny:x", None), ("tiny/x", None), ("a/tiny", None)],
)
def test_tiny_specs(spec: str, seed: int | None) -> None:
    assert tiny_spec(spec) == (None if seed is None else ("tiny", seed))


def test_tiny16_and_tiny8_are_models_of_their_own() -> None:
    assert tiny_spec("tiny16:3") == ("tiny16", 3)
    assert tiny_spec("tiny16") == ("tiny16", 0)
    assert tiny_spec("tiny:16") == ("tiny", 16)
    assert tiny_spec("tiny8:3") == ("tiny8", 3)
    assert tiny_spec("tiny1") is None


def test_folders_become_absolute_and_tokenizers_need_no_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("t", files=TOKENIZER_FILES) == str(tmp_path / "t")
    with pytest.raises(MissingError, match="no model in the folder"):
        locate("t")


def test_a_lookup_finds_a_tiny_model_and_trains_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCX_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "lcx.training.curriculum", None)  # importing it would fail
    with pytest.raises(MissingError, match="'tiny16:3' was not trained on this machine yet"):
        locate("tiny16:3")
    folder = tiny_folder("tiny16", 3)
    folder.mkdir(parents=True)
    assert locate("tiny16:3") == str(folder)
    assert folder.parent == tmp_path / "tiny"
    assert len({tiny_folder("tiny16", 3), tiny_folder("tiny16", 4), tiny_folder("tiny", 3)}) == 3


def test_reading_specs_imports_nothing_heavy() -> None:
    code = (
        "import sys, lcx.hub; lcx.hub.tiny_spec('tiny:3'); lcx.hub.cached('a/b');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
