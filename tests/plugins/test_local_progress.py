"""A model in this process is never silent: each padded batch is a line that says how far it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lcx.llm import open_llm
from lcx.llm.protocol import Made, Request, Response
from tests.conftest import Ran
from tests.plugins.test_same_data import write_corpus

LINE = re.compile(
    r" {4}(?P<calls>\d+)(?P<total> of \d+)? calls, (?P<usable>\d+) usable, [\d,]+ tokens"
    r"(?P<speed>, [\d,]+ new tokens/s)?(, \d+ in work)?(?P<left>, about \d+ s left)?"
)
SMALL = {
    "in2": "llm=local:rules examples=8 context_tokens=[300,600] segment_tokens=24",
    "logo": "llm=local:rules writer=local:rules judge=local:rules examples=8 chunks=4 segment_tokens=48",
    "longreward": "llm=local:rules writer=local:rules examples=4 candidates=2 context_tokens=[200,400]",
}
"""Settings of each recipe's synth step."""


class Batches:
    """The rules as a model that decodes four requests at a time."""

    def __init__(self) -> None:
        self.rules = open_llm("builtin")
        self.batches = 0

    def stream(self, requests: Sequence[Request], lacking: Sequence[Sequence[int]]) -> Iterator[Made]:
        for place in range(0, len(requests), 4):
            self.batches += 1
            part = requests[place : place + 4]
            for number, one in enumerate(self.rules.generate(part)):
                last = number + 1 == len(part)
                yield Made(place + number, 0, one.completions, one.usage, one.error, one.final, ends=last)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"backend": "rules", "chat_template": False}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    "recipe", [one if one == "logo" else pytest.param(one, marks=pytest.mark.slow) for one in SMALL]
)
def test_each_padded_batch_is_a_line(
    recipe: str, cli: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    model = Batches()
    monkeypatch.setattr("lcx.context.PULSE", 0.0)
    monkeypatch.setattr("lcx.llm.check_llm", lambda *_: None)
    monkeypatch.setattr("lcx.llm.client._fingerprint", lambda *_: "")
    monkeypatch.setattr("lcx.llm.open_llm", lambda *_: model)
    words = ["run", "--recipe", recipe, "--from", "synth", "--to", "score", "--run", str(tmp_path / "run")]
    own = f"corpus={tmp_path / 'corpus'} tokenizer=simple {SMALL[recipe]}"
    for text in [*(f"synth.{one}" for one in own.split()), "score.judge=local:rules"]:
        words += ["--set", text]
    ran = cli(*words)
    assert ran.code == 0, ran.err
    lines = [found for line in ran.err.splitlines() if (found := LINE.fullmatch(line))]
    ended = [line for line in lines if line["speed"]]
    assert 6 < model.batches <= len(ended)
    assert any(line["total"] for line in ended)
    assert any(line["left"] for line in ended)
    for line in lines:
        assert 0 < int(line["usable"]) <= int(line["calls"])
