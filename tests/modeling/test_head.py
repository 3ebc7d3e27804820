"""The head that answers with log-probabilities equals full logits, for every model type that may use it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lcx.modeling import logprobs
from lcx.modeling.logprobs import PLAIN_HEAD, AnswerHead, has_plain_head
from lcx.modeling.support import FULL_ATTENTION
from tests.modeling.test_shared_prefix import EXTRA, SIZES, VOCAB


def build(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **EXTRA.get(kind, {})})
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().train()


@pytest.mark.parametrize("kind", sorted(PLAIN_HEAD))
@pytest.mark.parametrize("tile", [5, 1000])
def test_logprobs_and_gradients_equal_full_logits(
    kind: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "TILE_BYTES", 4 * VOCAB * tile)
    model = build(kind)
    ids = torch.randint(1, VOCAB, (1, 30))
    keep = torch.arange(9, 28)
    targets = ids[0, keep + 1]
    grads = torch.randn(len(keep))
    plain = model(ids).logits[0, keep].log_softmax(-1).gather(1, targets[:, None])[:, 0]
    wanted = torch.autograd.grad(plain, list(model.parameters()), grads, allow_unused=True)
    answers = AnswerHead(model)
    with answers.asked(targets):
        found = model(ids, logits_to_keep=keep, use_cache=False).logits
    assert found.shape == (1, len(keep))
    assert torch.allclose(found[0], plain, atol=1e-5)
    got = torch.autograd.grad(found[0], list(model.parameters()), grads, allow_unused=True)
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            assert (mine - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6
    assert model(ids).logits.shape == (1, 30, VOCAB)  # not asked: logits
    answers.remove()
    assert "forward" not in vars(model.get_output_embeddings())


def test_models_that_change_their_logits_are_left_out() -> None:
    assert {"granite"} == FULL_ATTENTION - PLAIN_HEAD
    assert not has_plain_head(AutoConfig.for_model("granite"))


def test_adapters_and_whole_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head with an adapter, and one that is trained whole beside adapters, are asked through their wrappers."""
    from lcx.modeling.load import add_lora

    monkeypatch.setattr(logprobs, "TILE_BYTES", 4 * VOCAB * 4)
    for options in ({"targets": ("q_proj", "lm_head")}, {"targets": ("q_proj",), "save": ("lm_head",)}):
        model = add_lora(build("llama"), 2, 4, **options)  # type: ignore[arg-type]
        ids = torch.randint(1, VOCAB, (1, 12))
        plain = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        answers = AnswerHead(model)
        with answers.asked(ids[0, 1:]):
            found = model(ids, logits_to_keep=torch.arange(11), use_cache=False).logits[0]
        assert torch.allclose(found, plain, atol=1e-5)
        found.sum().backward()
        assert any("lm_head" in name and p.grad is not None for name, p in model.named_parameters())


def test_a_wrong_number_of_targets_is_an_error() -> None:
    model = build("llama")
    with (
        AnswerHead(model).asked(torch.tensor([1, 2, 3])),
        pytest.raises(ValueError, match="3 targets for 5 rows"),
    ):
        model(torch.randint(1, VOCAB, (1, 5)), use_cache=False)
