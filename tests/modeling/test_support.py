"""Refusals are decided by the config alone, each with its reason."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from lcx.errors import UsageError
from lcx.modeling.shared_prefix import use_shared_prefix
from lcx.modeling.support import FULL_ATTENTION, why_not_packed


@pytest.mark.parametrize("kind", sorted(FULL_ATTENTION))
def test_full_attention_is_accepted(kind: str) -> None:
    extra = {"sliding_window": None} if kind in ("mistral", "starcoder2") else {}
    assert why_not_packed(AutoConfig.for_model(kind, **extra)) is None


@pytest.mark.parametrize(
    ("kind", "extra", "words"),
    [
        ("mistral", {"sliding_window": 4096}, "sliding window of 4096 tokens"),
        ("phi3", {"sliding_window": 2047}, "sliding window of 2047"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 2},
            "sliding_attention",
        ),
        ("qwen3_next", {}, "linear_attention"),
        ("gemma2", {}, "sliding_attention"),
        ("gemma", {}, "'gemma' has not been checked"),
        ("gpt_neox", {}, "has not been checked"),
        ("t5", {}, "encoder-decoder"),
        ("mamba", {}, "linear_attention"),
    ],
)
def test_others_are_refused_with_their_reason(kind: str, extra: dict[str, object], words: str) -> None:
    reason = why_not_packed(AutoConfig.for_model(kind, **extra))
    assert reason is not None
    assert words in reason


def test_remote_code_is_refused_whatever_it_calls_itself() -> None:
    config = SimpleNamespace(model_type="llama", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert "lcx does not run a model's own code" in str(why_not_packed(config))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_follow_the_length_of_the_row_are_refused(kind: str) -> None:
    factors = {"long_factor": [1.0] * 4, "short_factor": [1.0] * 4}
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    rope |= factors if kind == "longrope" else {}
    sizes = {"hidden_size": 32, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, max_position_embeddings=128, rope_parameters=rope)
    assert f"({kind}) change with the length" in str(why_not_packed(config))
    config.rope_parameters = {"full_attention": rope}
    assert f"({kind}) change with the length" in str(why_not_packed(config))
    for fixed in ("yarn", "linear", "llama3"):
        config.rope_parameters = {**rope, "rope_type": fixed}
        assert why_not_packed(config) is None


def test_an_unused_window_does_not_matter() -> None:
    config = SimpleNamespace(model_type="qwen2", sliding_window=4096, use_sliding_window=False)
    assert why_not_packed(config) is None


def test_switching_a_refused_model_says_why() -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    config.sliding_window = 7
    with pytest.raises(UsageError, match="cannot share a prefix") as bad:
        use_shared_prefix(model)
    assert "7 tokens" in bad.value.why
