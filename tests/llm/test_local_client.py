"""A model in this process behind a client: what is decoded is kept at once, and asked for once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lcx.errors import LcxError
from lcx.llm.client import LocalClient
from lcx.llm.ledger import CallLedger
from lcx.llm.local import open_local, weights_fingerprint
from lcx.llm.protocol import Completion, Made, Request, Response, Usage
from tests.llm.models import tiny_llama
from tests.llm.senders import request


class Streams:
    """Makes two samples at a time, and breaks after so many batches."""

    def __init__(self, most: int = 10**9) -> None:
        self.most = most
        self.batches: list[list[tuple[str, int]]] = []

    def stream(self, requests: Sequence[Request], lacking: Sequence[Sequence[int]]) -> Iterator[Made]:
        rows = [(number, sample) for number, some in enumerate(lacking) for sample in some]
        for start in range(0, len(rows), 2):
            part = rows[start : start + 2]
            if len(self.batches) == self.most:
                raise LcxError("killed")
            self.batches.append([(requests[n].messages[0]["content"], sample) for n, sample in part])
            for number, sample in part:
                text = f"{requests[number].messages[0]['content']}{sample}"
                usage = Usage(5 if sample == 0 else 0, 1)
                yield Made(number, sample, (Completion(text),), usage, ends=(number, sample) == part[-1])

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"backend": "streams"}

    def close(self) -> None: ...


def texts(reply: Response) -> list[str]:
    return [one.text for one in reply.completions]


def test_each_batch_is_kept_as_it_is_made_and_the_rest_are_the_same_batches(tmp_path: Path) -> None:
    asked = [request("a", n=3), request("b", n=2), request("c", n=4)]
    whole = Streams()
    expected = LocalClient(lambda: whole, CallLedger(), "local:x").generate(asked)
    assert [texts(reply) for reply in expected] == [
        ["a0", "a1", "a2"],
        ["b0", "b1"],
        ["c0", "c1", "c2", "c3"],
    ]
    for most in range(1, len(whole.batches) + 1):
        folder = tmp_path / str(most)
        first, ledger = Streams(most), CallLedger(folder)
        if most < len(whole.batches):
            with pytest.raises(LcxError, match="killed"):
                LocalClient(lambda first=first: first, ledger, "local:x").generate(asked)
        else:
            LocalClient(lambda first=first: first, ledger, "local:x").generate(asked)
        ledger.close()
        second = Streams()
        again = LocalClient(lambda second=second: second, CallLedger(folder), "local:x")
        assert again.generate(asked) == expected
        assert first.batches + second.batches == whole.batches
        if most == len(whole.batches):
            assert again.about == {"spec": "local:x"}  # nothing was opened
        assert (again.used.calls, again.used.prompt_tokens, again.used.completion_tokens) == (3, 15, 9)


def test_each_batch_is_told_with_its_replies_and_those_of_use(tmp_path: Path) -> None:
    ledger = CallLedger(tmp_path)
    told: list[tuple[str, int, int, int]] = []
    client = LocalClient(
        Streams,
        ledger,
        "local:x",
        told=lambda what: told.append((what, client.busy, ledger.done, ledger.useful)),
    )
    asked = [replace(request(text), usable=lambda one: one.text < "c") for text in "abcde"]
    client.generate(asked)
    assert told == [("began", 5, 0, 0), ("batch", 3, 2, 2), ("batch", 1, 4, 2), ("batch", 0, 5, 2)]
    assert client.busy == 0


def test_a_thought_that_comes_apart_is_kept_apart(tmp_path: Path) -> None:
    reply = Response((Completion("7", "stop", "hm"), Completion("", "length", "I look")), Usage(3, 2))

    class Thinks(Streams):
        stream = None

        def generate(self, requests: Sequence[Request]) -> list[Response]:
            return [reply]

    for model in (Thinks(), Streams()):
        ledger = CallLedger(tmp_path)
        client = LocalClient(lambda model=model: model, ledger, "local:x")
        assert client.generate([request("a", n=2)])[0].completions == reply.completions
        assert ledger.counts()["replies with thoughts"] == 2
        assert ledger.counts()["replies of an unfinished thought only"] == 1
        ledger.close()


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    for weights, opened in (("one", 1), ("one", 0), ("two", 1)):
        model, ledger = Streams(), CallLedger(tmp_path)
        LocalClient(lambda model=model: model, ledger, "local:x", fingerprint=lambda w=weights: w).generate(
            [request("a")]
        )
        assert len(model.batches) == opened
        ledger.close()


def test_a_fingerprint_sees_training_and_nothing_else(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_llama(tmp_path / "model")
    first = weights_fingerprint(str(folder))
    (folder / "notes.txt").write_text("mine")
    assert weights_fingerprint(str(folder)) == first
    weights = load_file(folder / "model.safetensors")
    save_file({k: v + torch.full_like(v, 1e-3) for k, v in weights.items()}, folder / "model.safetensors")
    assert weights_fingerprint(str(folder)) not in ("", first)
    assert weights_fingerprint("tiny") == weights_fingerprint("/no/such/place") == ""


def test_a_real_model_is_resumed_with_the_same_replies(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model")
    asked = [request(f"prompt {'x' * i}", n=3, temperature=1.0, seed=i, max_tokens=6) for i in range(5)]
    model = open_local(str(folder), {"batch": 4, "device": "cpu"})
    expected = LocalClient(lambda: model, CallLedger(), "local:m").generate(asked)
    assert expected == model.generate(asked)
    ledger = CallLedger(tmp_path)

    class Broken(Streams):
        def stream(self, *args: Any) -> Iterator[Made]:
            for made in model.stream(*args):
                if len(ledger) >= 2:
                    raise LcxError("killed")
                yield made

    with pytest.raises(LcxError, match="killed"):
        LocalClient(Broken, ledger, "local:m").generate(asked)
    assert len(ledger)
    ledger.close()
    assert LocalClient(lambda: model, CallLedger(tmp_path), "local:m").generate(asked) == expected
