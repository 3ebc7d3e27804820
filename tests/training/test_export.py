"""Models for other programs: the merged weights are those of the adapter, and the folder says where they come from."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lcx.errors import LcxError, MissingError, UsageError
from lcx.hub import load_tokenizer, locate
from lcx.modeling.load import add_lora, load_model, save_rope
from lcx.paths import slug
from lcx.training.export import export_model, find
from lcx.training.saving import lay_beside
from tests.gguf_files import TEMPLATE, llama_model, write_gguf

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a small llama."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Small.gguf", llama_model())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run whose last train step left an adapter, trained at other rotary settings than the base's."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    place = folder / "train" / "model"
    place.mkdir(parents=True)
    model = load_model(base, rope_theta=50_000.0)
    wrapped = add_lora(model, r=4, alpha=8)
    torch.manual_seed(3)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    wrapped.save_pretrained(place)
    save_rope(wrapped.config, place)
    lay_beside(place, str(base), load_tokenizer(base))
    steps = {
        "synth": {"stage": "synth", "state": "done", "method": "in2", "counts": {"bundles": 12}},
        "train": {
            "stage": "train",
            "state": "done",
            "method": "in2",
            "counts": {"steps": 3},
            "fingerprint": {"settings": {"model": str(base), "tuning": "lora", "lr": 1e-4, "packing": None}},
        },
        "again": {"stage": "train", "state": "failed", "method": "in2"},
    }
    (folder / "manifest.json").write_text(json.dumps({"recipe": "in2", "steps": steps}))
    return folder


def test_a_merged_model_answers_as_its_adapter_does(
    run: Path, base: Path, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = cli("export", "model", str(run), "--to", str(tmp_path / "out"))
    assert made.code == 0, made.err
    out = tmp_path / "out"
    plain = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        wanted = load_model(run / "train" / "model")(IDS).logits
        torch.testing.assert_close(plain(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
        assert (load_model(base)(IDS).logits - wanted).abs().max() > 0.01
    assert plain.dtype == torch.float32  # as the base's
    assert not [file for file in out.iterdir() if "adapter" in file.name]
    assert json.loads((out / "config.json").read_text())["rope_theta"] == 50_000.0
    assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATE
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    again = get_peft_model(plain, LoraConfig(r=2, target_modules=["q_proj"]))
    assert again(IDS).logits.shape == wanted.shape
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in (
        "license: mit",
        "- base: Small (Small.gguf)",
        "- recipe: in2",
        'tuning: "lora"',
        "lr: 0.0001",
    ):
        assert line in card
    for line in ("- synth `synth` (method in2): 12 bundles", "- train `train` (method in2): 3 steps"):
        assert line in card
    assert "packing" not in card
    assert str(base.parent) not in card


def test_precision_and_places_are_as_asked(run: Path, base: Path, tmp_path: Path) -> None:
    half = export_model(find(str(run / "train")), tmp_path / "half", dtype="bf16")
    loaded = load_model(half)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    whole = load_model(run / "train" / "model")(IDS).logits
    assert (loaded(IDS).logits - whole).abs().mean() < 0.05 * whole.abs().mean()
    with pytest.raises(UsageError, match="is there already"):
        export_model(find(str(run)), half)
    kept = sorted(file.name for file in half.iterdir())
    gone, other = 1 << 30, os.getppid()
    mine = slug(platform.node())
    for kind, process in (("", gone), ("old-", gone), ("", other)):
        left = tmp_path / f".half.{kind}{mine}-{process}-0123abcd.lcx-tmp"
        left.mkdir()
        (left / "model.safetensors").write_text("cut")
    export_model(find(str(base)), half, force=True)  # a model that no run made
    assert sorted(file.name for file in half.iterdir()) == kept
    left.joinpath("model.safetensors").unlink()  # of an export that goes on
    left.rmdir()
    assert "recipe" not in (half / "README.md").read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["half"]


def test_a_run_without_a_model_says_what_it_lacks(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'train'"):
        find(str(run), "trian")
    with pytest.raises(MissingError, match="no trained model of the step again") as bad:
        find(str(run), "again")
    assert "again is failed" in bad.value.why
    with pytest.raises(MissingError):
        export_model(find("nowhere/at/all"), tmp_path / "out")
    broken = shutil.copytree(run / "train" / "model", tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(LcxError, match="cannot be read"):
        export_model(find(str(broken)), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["broken"]


def test_a_push_happens_on_request_and_says_what_failed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    with pytest.raises(MissingError, match="HF_HUB_OFFLINE"):
        export_model(find(str(run)), tmp_path / "out", push="me/mine")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("lcx.training.export.out_of_reach", lambda: "")
    sent: list[Any] = []
    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo, **options: sent.append((repo, options["private"]))
    )
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **options: sent.append(options["folder_path"]))
    export_model(find(str(run)), tmp_path / "out", push="me/mine")
    assert sent == [("me/mine", True), str(tmp_path / "out")]

    def refuse(self: HfApi, repo: str, **options: Any) -> None:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(MissingError, match="could not be pushed") as bad:
        export_model(find(str(run)), tmp_path / "two", push="me/mine")
    assert "hf auth login" in bad.value.hint
    assert (tmp_path / "two" / "model.safetensors").is_file()
    assert locate(str(tmp_path / "two"))
