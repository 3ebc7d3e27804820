"""A real model as the policy: a small random one answers through the whole step.

It never ends an answer, so the step refuses in the end to hand out data; the candidates hold what it said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcx.data.bundles import read_bundles
from lcx.data.table import load_table
from lcx.data.templates import TEMPLATES
from lcx.errors import LcxError
from tests.llm.models import tiny_llama
from tests.plugins.logo.corpora import digests, synth

ENDLESS = "the filter dropped all 6 examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{tiny_llama(tmp_path_factory.mktemp('model'))}"


def settings(model: str, folder: Path) -> dict[str, Any]:
    corpus = folder / "corpus"
    corpus.mkdir()
    for name in ("skua", "tern", "fulmar", "gannet"):
        (corpus / f"{name}.md").write_text(
            "\n".join(f"{name} saw {k} gulls, all grey {k}." for k in range(8))
        )
    return {
        "corpus": str(corpus),
        "llm": model,
        "writer": "builtin",
        "segment_tokens": 12,
        "chunks": 3,
        "examples": 6,
        "answer_tokens": 6,
        "template": "plain",
        "filter": False,
        "joint": 0,
    }


def test_a_random_model_answers_and_repeats_itself(model: str, tmp_path: Path) -> None:
    asked = settings(model, tmp_path)
    for name in ("a", "b"):
        with pytest.raises(LcxError, match=ENDLESS) as caught:
            synth(tmp_path / name, **asked)
        assert "chosen answer: cut at answer_tokens (6)" in caught.value.why
    assert digests(tmp_path / "a" / "synth" / "data") == digests(tmp_path / "b" / "synth" / "data")
    candidates = list(read_bundles(tmp_path / "a" / "synth" / "data", "candidates"))
    assert len({branch.answer for bundle in candidates for branch in bundle.branches}) > 12
    assert not any("error" in branch.meta for bundle in candidates for branch in bundle.branches)


def test_the_policy_reads_the_training_prompt(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a template, the text before the answer is the one that training has there."""
    from transformers import AutoTokenizer

    from lcx.data.assembly import Assembler
    from lcx.data.tokens import open_token_store
    from lcx.llm.local import Local
    from lcx.records import Branch, Bundle

    seen: list[list[int]] = []
    encode = Local._encode

    def spy(self: Local, request: Any) -> list[int]:
        seen.append(encode(self, request))
        return seen[-1]

    monkeypatch.setattr(Local, "_encode", spy)
    with pytest.raises(LcxError, match=ENDLESS):
        synth(tmp_path / "run", **settings(model, tmp_path))
    data = tmp_path / "run" / "synth" / "data"
    table = load_table(data)
    tokenizer = AutoTokenizer.from_pretrained(model.removeprefix("local:"))
    store = open_token_store(tokenizer, table, tmp_path / "cache")
    assembler = Assembler(tokenizer, TEMPLATES["plain"], table, store)
    wanted = []
    for bundle in read_bundles(data, "candidates"):
        for branch in bundle.branches:
            plan = tuple(branch.meta["chunks"])
            encoded = assembler.encode(Bundle("x", (Branch(branch.question, "", "query"),), plan=plan))
            assert encoded is not None
            wanted.append(tokenizer.decode([*encoded.prefix.tolist(), *encoded.branches[0].ids]))
    assert [tokenizer.decode(ids) for ids in seen] == wanted
