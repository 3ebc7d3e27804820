"""The local writer: batches equal single answers, samples repeat by seed, and what does not fit is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcx.errors import LcxError, UsageError
from lcx.llm import open_llm
from lcx.llm.local import Local
from lcx.llm.protocol import Request
from tests.llm.models import tiny_llama


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(model_folder: Path) -> Local:
    opened = open_llm(f"local:{model_folder}", {"batch": 3, "device": "cpu"})
    assert isinstance(opened, Local)
    return opened


def ask(text: str, **options: object) -> Request:
    return Request(({"role": "user", "content": text},), **{"max_tokens": 12, **options})  # type: ignore[arg-type]


PROMPTS = [
    "The river ran",
    "def total(values):",
    "漢字",
    "A second look showed three spaces and then some more words",
    "x",
]


def test_a_padded_batch_answers_as_each_prompt_alone(llm: Local) -> None:
    together = [r.text for r in llm.generate([ask(p) for p in PROMPTS])]
    alone = [llm.generate([ask(p)])[0].text for p in PROMPTS]
    assert together == alone
    assert len(set(together)) > 1


def test_greedy_answers_are_the_models_own(llm: Local) -> None:
    ids = llm.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        for _ in range(12):
            following = llm.model(input_ids=ids).logits[0, -1].argmax()
            if int(following) == llm.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, following.view(1, 1)], 1)
    prompt = len(llm.tokenizer(PROMPTS[0])["input_ids"])
    [response] = llm.generate([ask(PROMPTS[0])])
    assert response.text == llm.tokenizer.decode(ids[0, prompt:], skip_special_tokens=True)
    assert response.usage.prompt_tokens == prompt


def test_samples_repeat_by_seed_and_leave_the_random_state_alone(llm: Local) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = llm.generate([ask("The river", n=4, temperature=1.0, seed=5)])[0]
    again = llm.generate([ask("The river", n=4, temperature=1.0, seed=5)])[0]
    other = llm.generate([ask("The river", n=4, temperature=1.0, seed=6)])[0]
    assert first == again != other
    assert len({c.text for c in first.completions}) > 1
    assert torch.equal(before, torch.random.get_rng_state())


def test_finish_reasons(llm: Local) -> None:
    [long] = llm.generate([ask("The river ran past")])
    assert long.completions[0].finish_reason in ("length", "stop")
    assert (long.completions[0].finish_reason == "length") == (long.usage.completion_tokens == 12)
    letter = next(c for c in long.text if c.strip())
    [stopped] = llm.generate([ask("The river ran past", stop=(letter,))])
    assert stopped.completions[0].finish_reason == "stop"
    assert letter not in stopped.text
    assert long.text.startswith(stopped.text)


def test_a_prompt_that_does_not_fit_fails_alone(llm: Local) -> None:
    good, bad = llm.generate([ask("short"), ask("word " * 400)])
    assert good.completions
    assert not bad.completions
    assert "window of 256" in bad.error


def test_a_missing_model_is_named() -> None:
    with pytest.raises(UsageError, match="needs a model"):
        open_llm("local:")
    with pytest.raises(LcxError, match="no/such/place"):
        open_llm("local:/no/such/place")
