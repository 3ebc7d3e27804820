"""Where models lie: what a spec means, decided without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcx.errors import MissingError
from lcx.hub import TOKENIZER_FILES, locate, tiny_seed, tiny_spec


@pytest.mark.parametrize(
    ("spec", "seed"),
    [("tiny", 0), ("tiny:", 0), ("tiny:12", 12), ("tiny:x", None), ("tiny/x", None), ("a/tiny", None)],
)
def test_tiny_specs(spec: str, seed: int | None) -> None:
    assert tiny_seed(spec) == seed


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


def test_reading_specs_imports_nothing_heavy() -> None:
    code = (
        "import sys, lcx.hub; lcx.hub.tiny_seed('tiny:3'); lcx.hub.cached('a/b');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
