"""Rotary settings: checked before anything loads, merged as if they stood in config.json, and saved with a model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config
from transformers.utils import logging

from lcx.errors import UsageError
from lcx.evaluation.settings import EvalSettings
from lcx.modeling.load import add_lora, load_config, load_model, save_rope
from lcx.modeling.rope import ROPE_TYPES, check_rope, set_rope, window
from lcx.modeling.tiny import build_tokenizer
from lcx.records import EncodedBranch, EncodedBundle
from lcx.settings import validate
from lcx.training.runner import train_sft
from lcx.training.settings import PreferenceSettings, TrainSettings
from tests.training.test_sft import context

IDS = torch.arange(3, 43)[None]
PLACES = torch.arange(40)[None] * 37  # far beyond the model's own window of 256
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer(["a", "b"]).save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        every = torch.ones_like(IDS)
        return model.eval()(IDS, attention_mask=every, position_ids=PLACES, use_cache=False).logits


def by_hand(saved: Path, folder: Path, rope: dict[str, Any], limit: int) -> Path:
    """The same weights with a config.json in which somebody wrote the rotary parameters."""
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        config.pop(key, None)
    (folder / "config.json").write_text(
        json.dumps({**config, "rope_parameters": rope, "max_position_embeddings": limit})
    )
    return folder


CASES: dict[str, tuple[float | None, dict[str, Any], dict[str, Any], int]] = {
    # theta, rope, what stands in config.json, window
    "theta": (1e6, {}, {"rope_type": "default", "rope_theta": 1e6}, 256),
    "theta-inside": (None, {"rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e6}, 256),
    "theta-wider": (
        5e6,
        {"max_position_embeddings": 2048},
        {"rope_type": "default", "rope_theta": 5e6},
        2048,
    ),
    "linear": (None, {"rope_type": "linear", "factor": 8}, {"rope_type": "linear", "factor": 8.0}, 2048),
    "linear-by-window": (
        None,
        {"rope_type": "linear", "max_position_embeddings": 1024},
        {"rope_type": "linear", "factor": 4.0},
        1024,
    ),
    "yarn": (
        None,
        {"rope_type": "yarn", "factor": 8},
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256},
        2048,
    ),
    "yarn-by-window": (
        2e4,
        {"rope_type": "yarn", "max_position_embeddings": 1024},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 2e4},
        1024,
    ),
    "yarn-in-full": (
        None,
        {
            "rope_type": "yarn",
            "factor": 4,
            "original_max_position_embeddings": 128,
            "beta_fast": 16,
            "attention_factor": 1,
        },
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 16.0,
            "attention_factor": 1.0,
        },
        512,
    ),
    "llama3": (
        None,
        {"rope_type": "llama3", "factor": 8, **LLAMA3},
        {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256, **LLAMA3},
        2048,
    ),
    "dynamic": (None, {"rope_type": "dynamic", "factor": 8}, {"rope_type": "dynamic", "factor": 8.0}, 256),
    "longrope": (
        None,
        {
            "rope_type": "longrope",
            "factor": 4,
            "short_factor": [1] * 8,
            "long_factor": [2, 3, 4, 5, 6, 7, 8, 9],
        },
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            "original_max_position_embeddings": 256,
        },
        1024,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_settings_are_worth_a_config_written_by_hand(
    saved: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    theta, rope, written, limit = CASES[name]
    model = load_model(saved, rope_theta=theta, rope=rope, device="cpu")
    hand = by_hand(saved, tmp_path / "hand", {"rope_theta": 1e4, **written}, limit)
    expected = AutoModelForCausalLM.from_pretrained(hand, attn_implementation="sdpa")
    assert torch.equal(logits(model), logits(expected))
    assert window(model.config) == limit
    assert not torch.allclose(logits(model), logits(load_model(saved, device="cpu")), atol=1e-4)
    # What is saved is what was set, to transformers too, and it finds nothing in it to complain of
    model.save_pretrained(tmp_path / "again")
    logging.enable_propagation()
    try:
        caplog.clear()
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
        assert [record for record in caplog.records if "rope" in record.getMessage().lower()] == []
    finally:
        logging.disable_propagation()
    assert torch.equal(logits(again), logits(expected))
    assert again.config.rope_parameters == {"rope_theta": 1e4, **written}


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_brings_its_rotary_settings(saved: Path, tmp_path: Path, name: str) -> None:
    theta, rope, _, limit = CASES[name]
    model = add_lora(load_model(saved, rope_theta=theta, rope=rope, device="cpu"), 4, 8)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    save_rope(model.config, tmp_path)
    assert window(load_config(tmp_path)) == limit
    assert torch.allclose(logits(load_model(tmp_path, device="cpu")), logits(model), atol=1e-6)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_trained_model_keeps_them(saved: Path, tmp_path: Path, tuning: str) -> None:
    """A row beyond the model's own window trains, since the window is taken after the settings."""
    random = np.random.default_rng(0)
    rows = [
        EncodedBundle(
            f"b{n}", random.integers(3, 64, 300), (EncodedBranch(random.integers(3, 64, 5).tolist(), 2),)
        )
        for n in range(2)
    ]
    rope = {"rope_type": "yarn", "factor": 4}
    options: dict[str, Any] = {
        "batch": 2,
        "save_steps": 0,
        "precision": "fp32",
        "tuning": tuning,
        "lora_r": 4,
    }
    settings = TrainSettings(model=str(saved), rope=rope, learning_rate=1e-2, **options)
    result = train_sft(settings, rows, None, tmp_path, context())
    assert result.counts["steps"] == 1
    found = load_model(tmp_path / "model", device="cpu")
    assert window(found.config) == 1024
    own = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}
    assert found.config.rope_parameters == own
    plain = load_model(tmp_path / "model", rope={"rope_type": "default"}, device="cpu")
    assert window(plain.config) == 256
    assert not torch.allclose(logits(found), logits(plain), atol=1e-4)


def config(rope: dict[str, Any], limit: int) -> Any:
    return AutoConfig.for_model("llama", rope_parameters=rope, max_position_embeddings=limit)


def after(
    rope: dict[str, Any], limit: int, new: dict[str, Any], theta: float | None = None
) -> tuple[dict[str, Any], int]:
    made = config({"rope_theta": 5e5, **rope}, limit)
    set_rope(made, theta, new)
    return made.rope_parameters, made.max_position_embeddings


def test_settings_on_a_model_that_is_scaled_already() -> None:
    llama31 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, **LLAMA3}
    # theta alone changes nothing else
    assert after(llama31, 131072, {}, 1e6) == ({**llama31, "rope_theta": 1e6}, 131072)
    # its published window is twice factor * original, and is not narrowed
    assert after(llama31, 131072, {"factor": 9})[1] == 131072
    assert after(llama31, 131072, {"factor": 32})[1] == 32 * 8192
    # another type takes nothing of the old one's but the window from before it
    yarn = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 8192, "rope_theta": 5e5}
    assert after(llama31, 131072, {"rope_type": "yarn", "factor": 32}) == (yarn, 32 * 8192)
    assert after(llama31, 131072, {"rope_type": "default"}) == (
        {"rope_type": "default", "rope_theta": 5e5},
        8192,
    )
    # linear names no original window: it is what the factor made the window from
    linear = {"rope_type": "linear", "factor": 4.0}
    assert after(linear, 16384, {"factor": 8}) == (
        {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        32768,
    )
    assert (
        after(linear, 16384, {"rope_type": "yarn", "factor": 8})[0]["original_max_position_embeddings"]
        == 4096
    )
    assert after(linear, 4096, {"factor": 8, "original_max_position_embeddings": 4096})[1] == 32768
    # a model's own parts of rotary size stay
    glm = {"rope_type": "default", "partial_rotary_factor": 0.5}
    assert after(glm, 512, {"rope_type": "linear", "factor": 2})[0]["partial_rotary_factor"] == 0.5
    assert after(yarn, 262144, {"original_max_position_embeddings": 4096})[1] == 32 * 4096
    # the window by itself
    assert after(yarn, 262144, {"max_position_embeddings": 100000}) == (yarn, 100000)


def test_a_second_original_window_outside_the_parameters_follows() -> None:
    """Phi-3's config has one too, which transformers prefers to the one among the parameters."""
    made = Phi3Config(max_position_embeddings=131072, original_max_position_embeddings=4096)
    set_rope(made, None, {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 2048})
    made.standardize_rope_params()
    assert made.rope_parameters["original_max_position_embeddings"] == 2048
    assert made.max_position_embeddings == 8 * 2048


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_typ": "yarn"}, "unknown key 'rope_typ'. Did you mean 'rope_type'?"),
        ({"type": "yarn"}, "unknown key 'type'. Did you mean 'rope_type'?"),
        ({"zzz": 1}, "unknown key 'zzz'"),
        ({"rope_type": "yarm", "factor": 8}, "Did you mean 'yarn'?"),
        ({"rope_type": ["yarn"]}, "unknown rope_type"),
        ({"rope_type": "yarn"}, "rope_type yarn needs factor"),
        ({"rope_type": "llama3", "factor": 8}, "rope_type llama3 needs low_freq_factor and high_freq_factor"),
        ({"rope_type": "linear", "factor": 8, "beta_fast": 3}, "rope_type linear has no 'beta_fast'"),
        ({"rope_type": "yarn", "factor": 0.5}, "'factor' is a number from 1 on, not 0.5"),
        ({"rope_type": "yarn", "factor": "much"}, "'factor' is a number from 1 on, not 'much'"),
        ({"rope_type": "yarn", "factor": True}, "'factor' is a number"),
        ({"rope_type": "yarn", "factor": float("nan")}, "nan is no number"),
        ({"rope_theta": 0}, "'rope_theta' is a number above 0, not 0"),
        ({"max_position_embeddings": 1000.5}, "'max_position_embeddings' is a whole number of tokens"),
        ({"rope_type": "longrope", "short_factor": 3, "long_factor": [1]}, "'short_factor' is a list"),
        ({"rope_type": "yarn", "factor": 2, "truncate": "no"}, "'truncate' is true or false"),
    ],
)
@pytest.mark.parametrize("schema", [TrainSettings, PreferenceSettings, EvalSettings])
def test_what_cannot_be_is_refused_before_anything_loads(
    schema: Any, rope: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as bad:
        validate(schema, {"rope": rope}, where="step 'x'")
    assert str(bad.value).startswith("step 'x': 'rope': ")
    assert message in str(bad.value)


def test_settings_that_are_fine() -> None:
    assert check_rope({}) == {}
    given = {"rope_theta": "1e6", "max_position_embeddings": 65536.0}  # YAML takes 1e6 for text
    assert validate(TrainSettings, {"rope": given}, where="x").rope == {  # type: ignore[attr-defined]
        "rope_theta": 1e6,
        "max_position_embeddings": 65536,
    }
    with pytest.raises(UsageError, match="rope_theta is given twice"):
        validate(TrainSettings, {"rope": given, "rope_theta": 1e5}, where="x")
    validate(TrainSettings, {"rope": given, "rope_theta": 1e6}, where="x")
    for kind in ("dynamic", "longrope"):
        rope = {
            "rope_type": kind,
            **({"factor": 2} if kind == "dynamic" else {"short_factor": [1], "long_factor": [2]}),
        }
        with pytest.raises(UsageError, match=f"rope_type {kind} change with the length of the row"):
            validate(TrainSettings, {"rope": rope}, where="x")
        validate(TrainSettings, {"rope": rope, "engine": "trl"}, where="x")
        validate(EvalSettings, {"rope": rope}, where="x")


def test_settings_that_do_not_fit_the_model_are_refused(saved: Path) -> None:
    for rope, message in (
        ({"factor": 8}, "the model's rope_type default has no 'factor'"),
        ({"rope_type": "yarn"}, "rope: rope_type yarn needs factor"),
        ({"rope_type": "nope"}, "rope: unknown rope_type 'nope'"),
    ):
        with pytest.raises(UsageError, match=message):
            load_model(saved, rope=rope, device="cpu")


def test_every_type_is_one_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ROPE_TYPES) - {"default"} <= set(ROPE_INIT_FUNCTIONS)


def test_checking_settings_loads_no_torch() -> None:
    code = "import sys, lcx.modeling.rope; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
