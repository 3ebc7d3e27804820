"""Shapes against transformers' own models (on the meta device) and published sizes; adapters against PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from lcx.errors import UsageError
from lcx.forecast.model import FAMILIES, NAMED, Plan, Shape, packed_row, parse_shape, shape_of_config
from lcx.modeling.support import FULL_ATTENTION

PUBLISHED = {
    "smollm2": 134_515_008,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-nemo-12b": 12_247_782_400,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
}
"""Parameters in the weight files on the hub."""
SMALL = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}


def on_meta(kind: str, **options: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))


def test_named_shapes_have_their_published_sizes() -> None:
    assert {name: shape.parameters for name, shape in NAMED.items()} == PUBLISHED


@pytest.mark.parametrize(
    "name", ["llama2-7b", "llama3-8b", "mistral-7b", "qwen2.5-7b", "qwen3-8b", "llama3.2-3b"]
)
def test_named_shapes_equal_transformers_models(name: str) -> None:
    shape = NAMED[name]
    model = on_meta(
        shape.kind,
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    assert shape.parameters == model.num_parameters()


@pytest.mark.parametrize("kind", sorted(FAMILIES))
@pytest.mark.parametrize(
    "options", [{}, {"head_dim": 32, "tie_word_embeddings": True}], ids=["plain", "other"]
)
def test_every_family_is_counted_as_transformers_counts_it(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    if kind in ("phi3", "olmo2", "granite") and "head_dim" in options:
        options = {"tie_word_embeddings": True}
    model = on_meta(kind, **SMALL, **options)
    shape = shape_of_config(model.config.to_dict())
    assert shape.parameters == model.num_parameters()
    names = {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert {one.name for one in shape.linears()} == names - {"lm_head"}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "starcoder2", "smollm3", "glm"])
def test_values_that_a_config_leaves_out(kind: str) -> None:
    lean = {"model_type": kind, **SMALL}
    assert shape_of_config(lean).parameters == on_meta(kind, **SMALL).num_parameters()


def test_biases_are_read_from_the_config() -> None:
    options = {**SMALL, "attention_bias": True, "mlp_bias": True}
    model = on_meta("llama", **options)
    assert shape_of_config({"model_type": "llama", **options}).parameters == model.num_parameters()


def test_all_models_that_share_a_prefix_have_a_forecast() -> None:
    assert set(FAMILIES) >= FULL_ATTENTION


@pytest.mark.parametrize("kind", ["llama", "phi3", "glm4", "starcoder2", "qwen3"])
@pytest.mark.parametrize(
    "targets",
    ["all-linear", ["q_proj", "v_proj", "o_proj", "qkv_proj"], ["o_proj", "embed_tokens", "lm_head"]],
)
def test_adapters_are_counted_as_peft_counts_them(kind: str, targets: Any) -> None:
    model = on_meta(kind, **SMALL, tie_word_embeddings=False)
    shape = shape_of_config(model.config.to_dict())
    with torch.device("meta"):
        wrapped = get_peft_model(model, LoraConfig(r=5, target_modules=targets, task_type="CAUSAL_LM"))
    chosen = ("all-linear",) if targets == "all-linear" else tuple(targets)
    plan = Plan(shape, packed_row(100, 0, 10, 1), tuning="lora", lora_r=5, lora_targets=chosen)
    assert plan.adapter == wrapped.get_nb_trainable_parameters()[0]


def test_a_shape_by_hand() -> None:
    text = "layers=32,hidden=4096,heads=32,kv_heads=8,intermediate=14336,vocab=128256"
    assert parse_shape(text) == Shape(32, 4096, 32, 8, 14336, 128256)
    assert parse_shape("layers=2,hidden=64,heads=2,intermediate=128,vocab=9").kv_heads == 2
    assert parse_shape("LLAMA3-8b").parameters == PUBLISHED["llama3-8b"]
    assert parse_shape("llama3-8b,layers=16").layers == 16
    assert parse_shape("qwen3-8b,tied=yes").tied


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lama3-8b", "Did you mean 'llama3-8b'?"),
        ("layers=32,hidden=4096", "heads, intermediate, vocab"),
        ("llama3-8b,layer=16", "Did you mean 'layers'?"),
        ("llama3-8b,layers=many", "whole number"),
        ("llama3-8b,tied=perhaps", "yes or no"),
        ("llama3-8b,kv_heads=5", "32 heads cannot share 5"),
        ("llama3-8b,layers=0", "at least 1"),
        ("", "lacks layers"),
    ],
)
def test_bad_shapes_are_usage_errors(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part.replace("?", r"\?")):
        parse_shape(text)


def test_unknown_and_broken_configs_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="model type 'mamba'") as raised:
        shape_of_config({"model_type": "mamba"})
    assert "--shape" in raised.value.hint
    with pytest.raises(UsageError, match="hidden_size"):
        shape_of_config({"model_type": "llama", "num_hidden_layers": 3})
