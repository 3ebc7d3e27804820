"""The local writer: batches equal single answers, samples repeat by seed, and what does not fit is said."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from lcx.errors import LcxError, UsageError
from lcx.llm import open_llm
from lcx.llm.local import Composer, Local
from lcx.llm.prompts import visible
from lcx.llm.protocol import Request
from tests.data.tokenizers_for_tests import byte_level
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


# -- samples


def test_a_sample_does_not_depend_on_what_shares_its_batch(llm: Local) -> None:
    many = [ask(text, n=3, temperature=1.0, top_p=0.95, seed=i) for i, text in enumerate(PROMPTS)]
    together = llm.generate(many)
    assert [llm.generate([one])[0] for one in many] == together
    assert llm.generate(many[::-1]) == together[::-1]
    fewer = llm.generate([ask(PROMPTS[1], n=2, temperature=1.0, top_p=0.95, seed=1)])[0]
    assert fewer.completions == together[1].completions[:2]  # sample i stays sample i
    assert len({c.text for r in together for c in r.completions}) > 10


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.8)])
def test_samples_follow_the_models_probabilities(llm: Local, temperature: float, top_p: float) -> None:
    """4,000 first tokens against probabilities worked out here: every count within five standard deviations."""
    draws = 4000
    prompt = llm.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        chances = torch.softmax(llm.model(input_ids=prompt).logits[0, -1].double() / temperature, -1)
    kept, total = torch.zeros_like(chances), 0.0
    for token in chances.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept[token] = chances[token]
        total += float(chances[token])
    kept /= kept.sum()
    wide = Local(llm.model, llm.tokenizer, "x", window=256, batch=500, chat="never")
    batches = wide.composer.compose(
        [prompt[0].tolist()],
        [ask(PROMPTS[0], n=draws, temperature=temperature, top_p=top_p, max_tokens=1, seed=3)],
    )
    rows = [row for _, made in wide._run([batch for _, batch in batches]) for row in made]
    counts = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=len(kept)).double()
    assert counts.sum() == draws
    assert not counts[kept == 0].any()
    spread = (draws * kept * (1 - kept)).sqrt().clamp_min(1.0)
    assert ((counts - draws * kept).abs() <= 5 * spread).all()
    expected = (kept * kept.clamp_min(1e-300).log()).sum()
    shares = counts / draws
    assert (shares * kept.clamp_min(1e-300).log()).sum() == pytest.approx(float(expected), rel=0.05)


def test_samples_behind_one_prefill_are_those_of_a_batch(llm: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    from lcx.llm import local

    request = ask("The river ran past a mill " * 4, n=5, temperature=1.0, top_p=0.9, seed=11)
    [repeated] = llm.generate([request])
    monkeypatch.setattr(local, "SHARE", 20)
    prefills: list[int] = []
    real = local.Model._shared
    monkeypatch.setattr(
        local.Model,
        "_shared",
        lambda self, batch, rows: (prefills.append(len(batch.prompts)), real(self, batch, rows))[1],
    )
    [shared] = llm.generate([request])
    assert prefills == [1]
    assert shared == repeated
    assert len({c.text for c in shared.completions}) == 5
    llm.generate([ask(PROMPTS[0], n=2, temperature=1.0, stop=("x",))])  # stop strings end a row elsewhere
    llm.generate([request, ask("The river ran past a mill " * 4)])
    assert prefills == [1, 1]


def test_a_prompt_is_prefilled_once_for_its_samples(llm: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        ask(text, n=n, temperature=1.0, seed=n) for text, n in zip(PROMPTS, (3, 1, 5, 2, 4), strict=True)
    ]
    wide = Local(llm.model, llm.tokenizer, "x", window=256, batch=7, chat="never")
    from lcx.llm.local import Model

    made: list[dict[str, object]] = []
    real = Model._prefilled
    monkeypatch.setattr(
        Model, "_prefilled", lambda self, *words: (made.append(real(self, *words)), made[-1])[1]
    )
    once = wide.generate(requests)
    assert [bool(options) for options in made] == [True, True, False]  # 15 rows, seven at a time
    monkeypatch.setattr(Model, "_prefilled", lambda *_: {})
    assert wide.generate(requests) == once
    assert len({c.text for r in once for c in r.completions}) > 10


def test_a_thread_that_generates_ends_when_the_model_is_closed(model_folder: Path) -> None:
    opened = open_llm(f"local:{model_folder}", {"batch": 1, "device": "cpu"})
    ended: list[BaseException] = []
    begun = threading.Event()
    requests = [ask(f"{i}", max_tokens=200, temperature=1.0, seed=i) for i in range(500)]

    def work() -> None:
        begun.set()
        try:
            opened.generate(requests)
        except LcxError as bad:
            ended.append(bad)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    begun.wait(30)
    opened.close()
    thread.join(30)
    assert not thread.is_alive()
    assert "closed" in str(ended[0])
    with pytest.raises(LcxError, match="closed"):
        opened.generate(requests[:1])


def test_an_option_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="unknown option 'bach'") as caught:
        open_llm("local:x", {"bach": 3})
    assert "gpus" in caught.value.why


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"precision": "half"}, "precision is auto"),
        ({"rope": 3}, "rope is a mapping"),
        ({"rope": {"rope_type": "yarn"}}, "rope_type yarn needs factor"),
        ({"rope": {"theta": 3}}, "rope: unknown key 'theta'"),
    ],
)
def test_a_precision_or_a_rope_that_cannot_be(options: dict[str, object], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        open_llm("local:x", options)


def test_precision_and_rope_are_those_asked_for(model_folder: Path, llm: Local) -> None:
    own = llm.composer.window
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": own}
    options = {"device": "cpu", "precision": "bf16", "rope": {**rope, "max_position_embeddings": 2 * own}}
    opened = open_llm(f"local:{model_folder}", options)
    assert isinstance(opened, Local)
    assert opened.model is not None
    assert opened.model.dtype is torch.bfloat16
    assert opened.model.config.rope_parameters["rope_type"] == "yarn"
    assert opened.composer.window == 2 * own
    assert llm.model is not None
    assert llm.model.dtype is torch.float32


def test_marks_of_thoughts_stay_in_the_text_and_the_template_may_open_one() -> None:
    from transformers import PreTrainedTokenizerFast

    marks = ["[THINK]", "[/THINK]", "<|tool|>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    end = "{% if add_generation_prompt %}[THINK]\n{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}" + end
    composer = Composer(tokenizer, 256, 4, chat=True, share=False)

    def read(text: str, before: str = "") -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return composer.completion(ids, ask("a", max_tokens=99), frozenset(), before)[0].text

    assert read("[THINK]hm[/THINK]yes<|tool|>") == "[THINK]hm[/THINK]yes"
    assert read("yes<|tool|>") == "yes"
    opened = composer.opened(composer.encode(ask("a")))
    assert opened == "[THINK]\n"
    assert visible(read("hm[/THINK]yes", opened)) == "yes"
    assert visible(read("hm, yes", opened)) == ""
    assert Composer(tokenizer, 256, 4, chat=False, share=False).opened(composer.encode(ask("a"))) == ""
