"""Loading: folders, adapters, 4-bit weights, rope settings, and short errors for what is not there."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from lcx.errors import LcxError, MissingError, UsageError
from lcx.modeling import load
from lcx.modeling.load import (
    add_lora,
    load_config,
    load_model,
    load_tokenizer,
    pick_dtype,
    save_rope,
    set_rope,
    window,
)
from lcx.modeling.tiny import build_tokenizer

IDS = torch.tensor([[3, 4, 5, 6, 7]])


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
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer(["a", "b"]).save_pretrained(folder)
    return folder


def test_folder(saved: Path) -> None:
    model = load_model(saved, device="cpu")
    assert not model.training
    assert model.dtype is torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert window(model.config) == window(load_config(saved)) == 256
    assert load_model(str(saved), dtype="bf16", device="cpu").dtype is torch.bfloat16
    assert load_tokenizer(saved).eos_token == "<eos>"


def test_rope_theta_is_merged(saved: Path) -> None:
    model = load_model(saved, rope_theta=1e6, device="cpu")
    assert model.config.rope_parameters["rope_theta"] == 1e6
    assert model.config.rope_parameters["rope_type"] == "default"
    assert not torch.allclose(model(IDS).logits, load_model(saved, device="cpu")(IDS).logits, atol=1e-6)
    assert window(model.config) == 256


def test_yarn_widens_the_window(saved: Path, tmp_path: Path) -> None:
    model = load_model(saved, rope={"rope_type": "yarn", "factor": 4.0}, device="cpu")
    assert window(model.config) == 1024
    rope = model.config.rope_parameters
    assert rope["original_max_position_embeddings"] == 256
    assert rope["rope_theta"] == 10000.0
    model.save_pretrained(tmp_path)
    assert torch.allclose(load_model(tmp_path, device="cpu")(IDS).logits, model(IDS).logits)
    wider = load_config(saved)
    set_rope(wider, None, {"rope_type": "linear", "factor": 2.0, "max_position_embeddings": 400})
    assert window(wider) == 400


def test_rope_of_models_without_one_set_is_refused() -> None:
    with pytest.raises(UsageError, match="rope settings cannot be changed for model type 'gemma3_text'"):
        set_rope(AutoConfig.for_model("gemma3_text"), 1e6)
    with pytest.raises(UsageError, match="names no window"):
        window(SimpleNamespace(model_type="mamba"))


def test_adapters_load_with_their_base(saved: Path, tmp_path: Path) -> None:
    model = add_lora(load_model(saved, device="cpu"), 4, 8, 0.0, ("q_proj", "v_proj"), save=("embed_tokens",))
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in names)
    assert any("embed_tokens" in name for name in names)
    assert not any("k_proj" in name for name in names)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert torch.allclose(loaded(IDS).logits, model.eval()(IDS).logits, atol=1e-6)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert any(p.requires_grad for p in load_model(tmp_path, device="cpu", trainable=True).parameters())
    assert load_tokenizer(tmp_path).eos_token == "<eos>"  # the base's
    assert window(load_config(tmp_path)) == 256
    with pytest.raises(UsageError, match="LoRA does not fit") as bad:
        add_lora(load_model(saved, device="cpu"), targets=("nothing",))
    assert "lora_targets" in bad.value.hint


def test_nf4_is_smaller_and_readied_for_training(saved: Path) -> None:
    model = load_model(saved, quantize="nf4", device="cpu")
    assert model.get_memory_footprint() < load_model(saved, device="cpu").get_memory_footprint()
    wrapped = add_lora(model, 4, 8).train()
    assert {p.dtype for p in wrapped.parameters() if p.requires_grad} == {torch.float32}
    wrapped(IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None and p.grad.norm() > 0 for p in wrapped.parameters())


@pytest.mark.parametrize("spec", ["./nowhere", "/no/such/model", "a/b/c", "plain-name"])
def test_missing_folders(spec: str) -> None:
    with pytest.raises(MissingError, match="no model at") as bad:
        load_model(spec, device="cpu")
    assert "--model" in bad.value.hint


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_model_that_cannot_be_had_fails_in_seconds(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    with pytest.raises(MissingError, match="some-org/some-model") as bad:
        load_tokenizer("some-org/some-model")
    assert time.monotonic() - began < 8
    assert "hf download some-org/some-model" in bad.value.hint
    assert ("HF_HUB_OFFLINE is set" if offline else "127.0.0.1:9 cannot be reached") in str(bad.value)


def test_code_of_a_models_own_is_refused_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "raise SystemExit('the code ran')"
    (tmp_path / "configuration_x.py").write_text(code)
    (tmp_path / "config.json").write_text(
        '{"model_type": "x", "auto_map": {"AutoConfig": "configuration_x.XConfig"}}'
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    for call in (load_config, load_model):
        with pytest.raises(UsageError, match="lcx does not run a model's own code"):
            call(tmp_path)


def test_an_adapter_keeps_the_rope_settings_it_was_trained_with(saved: Path, tmp_path: Path) -> None:
    model = add_lora(load_model(saved, device="cpu", rope={"rope_type": "yarn", "factor": 4.0}), 4, 8)
    model.save_pretrained(tmp_path)
    save_rope(model.config, tmp_path)
    assert window(load_config(tmp_path)) == 1024
    loaded = load_model(tmp_path, device="cpu")
    assert torch.allclose(loaded(IDS).logits, model.eval()(IDS).logits, atol=1e-6)
    again = load_model(tmp_path, device="cpu", rope_theta=5e5)  # on top of what the adapter has
    assert again.config.rope_parameters == {**loaded.config.rope_parameters, "rope_theta": 5e5}


def test_an_adapter_on_an_adapter_is_refused(saved: Path, tmp_path: Path) -> None:
    add_lora(load_model(saved, device="cpu"), 4, 8).save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = json.loads((tmp_path / "b/adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "a")
    (tmp_path / "b/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="is a LoRA folder too"):
        load_model(tmp_path / "b", device="cpu")
    del config["base_model_name_or_path"]
    (tmp_path / "b/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LcxError, match="does not name the adapter's base"):
        load_model(tmp_path / "b", device="cpu")


def test_a_base_by_relative_path_is_found_from_anywhere(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent)
    add_lora(load_model(saved.name, device="cpu"), 4, 8).save_pretrained(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert load_model("a", device="cpu").config.vocab_size == 64


def test_broken_folders(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no model in the folder"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="is a file"):
        load_model(tmp_path / "file", device="cpu")
    half = tmp_path / "half"
    shutil.copytree(saved, half)
    (half / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="cannot load"):
        load_model(half, device="cpu")
    (half / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(LcxError, match="transformers cannot load"):
        load_model(half, device="cpu")


def test_what_the_machine_lacks(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown precision"):
        pick_dtype("fp8", torch.device("cpu"))
    with pytest.raises(UsageError, match="unknown quantisation"):
        load_model(saved, quantize="int3", device="cpu")
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(MissingError) as bad:
        load_model(saved, quantize="nf4", device="cpu")
    assert bad.value.hint == "pip install bitsandbytes"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match="sees no GPU"):
        load_model(saved, device="cuda")
