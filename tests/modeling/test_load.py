"""Loading: folders, adapters, 4-bit weights, rope settings, and short errors for what is not there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
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
from tests.modeling import families

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


def changed(source: Path, place: Path, change: Callable[[dict[str, Any]], Any], name: str = "model") -> Path:
    """A copy of a model's or adapter's folder whose tensors were changed."""
    shutil.copytree(source, place)
    tensors = load_file(place / f"{name}.safetensors")
    change(tensors)
    save_file(tensors, place / f"{name}.safetensors", metadata={"format": "pt"})
    return place


Q = "model.layers.1.self_attn.q_proj.weight"
DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda t: t.pop(Q), f"1 missing: {Q}."),
    "renamed": (lambda t: t.update({Q.replace("model.", "transformer."): t.pop(Q)}), f"1 missing: {Q}."),
    "a whole layer": (
        lambda t: [t.pop(key) for key in list(t) if ".layers.1." in key],
        "9 missing: model.layers.1.input_layernorm.weight, ",
    ),
    "none": (lambda t: t.clear(), "21 missing: lm_head.weight, model.embed_tokens.weight, "),
    "another shape": (
        lambda t: t.update({Q: torch.zeros(32, 64)}),
        f"1 of another shape: {Q} (32, 64) for (64, 64).",
    ),
    "more layers than the config": (
        lambda t: t.update({Q.replace(".1.", ".2."): t[Q].clone()}),
        f"1 not used: {Q.replace('.1.', '.2.')}.",
    ),
    "a bias that would be left out": (
        lambda t: t.update({Q.replace("weight", "bias"): torch.ones(64)}),
        f"1 not used: {Q.replace('weight', 'bias')}.",
    ),
    "NaN": (lambda t: t[Q][3].fill_(float("nan")), f"1 with NaN or infinity: {Q}."),
    "infinity": (lambda t: t[Q][0, 0].fill_(float("-inf")), f"1 with NaN or infinity: {Q}."),
}


def test_weights_that_nothing_uses_are_named(saved: Path, tmp_path: Path) -> None:
    folder, said = (
        changed(saved, tmp_path / "m", lambda t: t.update({"score.weight": torch.ones(2)})),
        list[str](),
    )
    load_model(folder, device="cpu", told=said.append)
    assert said == [f"warning: the weights in '{folder}' have 1 that no part of the model uses: score.weight"]


def test_weights_that_are_not_all_there_are_an_error_with_their_names(saved: Path, tmp_path: Path) -> None:
    for number, (change, words) in enumerate(DAMAGES.values()):
        folder = changed(saved, tmp_path / str(number), change)
        with pytest.raises(LcxError) as bad:
            load_model(folder, device="cpu")
        assert str(folder) in bad.value.what
        assert words in bad.value.why
    with pytest.raises(LcxError, match="not those of its config"):
        load_model(tmp_path / "0", quantize="nf4", device="cpu")
    with pytest.raises(LcxError, match="are not numbers"):
        load_model(
            changed(saved, tmp_path / "q", lambda t: t[Q].fill_(float("nan"))), quantize="nf4", device="cpu"
        )
    with pytest.raises(LcxError) as bad:  # too large for fp16
        load_model(changed(saved, tmp_path / "h", lambda t: t[Q][0].fill_(1e6)), dtype="fp16", device="cpu")
    assert "65,504" in bad.value.why
    other = changed(saved, tmp_path / "v", lambda t: t.update({"v_head.summary.weight": torch.ones(1, 64)}))
    load_model(other, device="cpu")  # another task's head changes no answer
    file = tmp_path / "v/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(LcxError, match="cannot be read"):
        load_model(other, device="cpu")


@pytest.mark.parametrize(
    "family", ["llama", "glm4", "gemma", "qwen3_moe", "mixtral", "gemma3", "gpt2", "falcon_h1"]
)
def test_good_weights_of_any_family_give_no_alarm(family: str, tmp_path: Path) -> None:
    known = {**families.FULL, **families.WINDOWS, **families.OTHERS}
    name, changes, *_ = known[family]
    for tied in (False, True):
        model = families.build(name, **{**changes, "tie_word_embeddings": tied})
        model.save_pretrained(tmp_path / str(tied), max_shard_size="50KB")
        loaded = load_model(tmp_path / str(tied), device="cpu")
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_an_adapter_that_is_not_all_there_or_another_bases_is_refused(saved: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    add_lora(load_model(saved, device="cpu"), 4, 8, save=("lm_head",)).save_pretrained(good)
    load_model(good, device="cpu")
    part = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    head = "base_model.model.lm_head.weight"
    cases: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
        "missing": (lambda t: t.pop(part), "1 missing: base_model.model.model.layers.1.mlp.up_proj.lora_B"),
        "whole module missing": (lambda t: t.pop(head), f"1 missing: {head}"),
        "none": (lambda t: t.clear(), "1 missing: "),
        "for another base": (
            lambda t: t.update({part.replace("layers.1", "layers.7"): t[part].clone()}),
            "1 for nothing in the base: base_model.model.model.layers.7.mlp",
        ),
        "another width": (
            lambda t: t.update({part: torch.zeros(80, 4)}),
            "1 weights are of another shape: size",
        ),
        "NaN": (
            lambda t: t[part].fill_(float("nan")),
            "1 with NaN or infinity: base_model.model.model.layers.1",
        ),
    }
    for number, (change, words) in enumerate(cases.values()):
        folder = changed(good, tmp_path / str(number), change, "adapter_model")
        for trainable in (False, True):
            with pytest.raises(LcxError) as bad:
                load_model(folder, device="cpu", trainable=trainable)
            assert str(folder) in bad.value.what
            assert words in bad.value.why
            assert str(saved) in bad.value.what or "NaN" in words
    (good / "adapter_model.safetensors").unlink()
    with pytest.raises(MissingError, match="has no weights"):
        load_model(good, device="cpu")
    saved.rename(saved.with_name("moved"))
    try:
        for load_it in (load_model, load_config):
            with pytest.raises(
                MissingError, match=r"the base of the LoRA folder '.*good' is not there"
            ) as gone:
                load_it(good)
            assert "base_model_name_or_path" in gone.value.hint
        with pytest.raises(MissingError, match="the base of the LoRA folder"):
            load_tokenizer(good)
    finally:
        saved.with_name("moved").rename(saved)


def test_a_checkpoint_without_a_tokenizer_takes_its_bases(tmp_path: Path, saved: Path) -> None:
    made = tmp_path / "out" / "checkpoint-3"
    made.mkdir(parents=True)
    config = json.loads((saved / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingError, match="a model and no tokenizer") as lacks:
        load_tokenizer(made)
    assert f"cp BASE/tokenizer* {made}" in lacks.value.hint
    (made / "config.json").write_text(json.dumps({**config, "_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(MissingError, match="a model and no tokenizer") as lacks:
        load_tokenizer(made)
    assert str(tmp_path / "gone") in lacks.value.why
    (made / "config.json").write_text(json.dumps({**config, "_name_or_path": str(saved)}))
    assert load_tokenizer(made).get_vocab() == load_tokenizer(saved).get_vocab()
    build_tokenizer(["c", "d"]).save_pretrained(made.parent)
    assert load_tokenizer(made).name_or_path == str(made.parent)


def test_lora_on_one_of_two_tied_matrices_is_refused(tmp_path: Path) -> None:
    families.build("Llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    for name in ("embed_tokens", "lm_head"):
        with pytest.raises(UsageError, match=f"LoRA on {name} of this model would be another model") as bad:
            add_lora(load_model(tmp_path, device="cpu"), 4, 8, targets=("q_proj", name))
        assert "lora_whole=embed_tokens" in bad.value.hint
    whole = add_lora(
        load_model(tmp_path, device="cpu"), 4, 8, targets=("q_proj",), save=("embed_tokens",)
    ).eval()
    for weight in whole.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    before = whole(IDS).logits
    assert torch.allclose(whole.merge_and_unload()(IDS).logits, before, atol=1e-4)


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
