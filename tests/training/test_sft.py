"""The trainers: what accumulates, resumes, refuses and saves. TRL is the loss's independent reference."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    TrainerCallback,
    trainer_callback,
)

from lcx.context import Context, StepResult
from lcx.errors import LcxError, MissingError, UsageError
from lcx.modeling.load import load_config, load_model, load_tokenizer
from lcx.modeling.tiny import build_tokenizer
from lcx.recipe import Step
from lcx.records import EncodedBranch, EncodedBundle
from lcx.training import arguments, cpu
from lcx.training.runner import train_sft
from lcx.training.saving import for_other_readers, last_checkpoint
from lcx.training.settings import TrainSettings
from lcx.training.train import slow_adapters

VOCAB = 64
ROOT = Path(__file__).parents[2]


def context(**options: Any) -> Context:
    return Context(console=Console(file=io.StringIO(), width=200), device="cpu", **options)


def bundles(count: int = 12, branches: int | None = None, answer: int | None = None) -> list[EncodedBundle]:
    random = np.random.default_rng(5)
    made = []
    for number in range(count):
        parts = []
        for _ in range(branches or 1 + number % 3):
            length, start = int(random.integers(4, 9)), int(random.integers(0, 4))
            if answer:
                length = start + answer
            parts.append(EncodedBranch(random.integers(3, VOCAB, length).tolist(), start))
        made.append(EncodedBundle(f"b{number}", random.integers(3, VOCAB, 10 + number), tuple(parts)))
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    tokenizer = build_tokenizer([f"w{number}" for number in range(50)])
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(model: Path, **options: Any) -> TrainSettings:
    base = {
        "model": str(model),
        "batch": 8,
        "learning_rate": 1e-2,
        "warmup": 0.0,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_steps": 0,
    }
    return TrainSettings(**{**base, **options})


def train(
    config: TrainSettings, data: list[EncodedBundle], out: Path, ctx: Context | None = None
) -> tuple[StepResult, list[dict[str, float]]]:
    result = train_sft(config, data, load_tokenizer(config.model or ""), out, ctx or context())
    return result, json.loads((out / "curve.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder, device="cpu").state_dict())


def assert_same_weights(one: Path, two: Path, bound: float = 1e-5) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).norm() <= bound * b[name].norm(), name


def losses(curve: list[dict[str, float]]) -> list[float]:
    return [point["loss"] for point in curve]


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_a_training_of_one_step_trains(tiny: Path, tmp_path: Path, engine: str) -> None:
    """transformers would take the only step as a step of warm-up, at the rate 0."""
    ctx = context()
    result, curve = train(settings(tiny, engine=engine, warmup=0.03, max_steps=1), bundles(), tmp_path, ctx)
    assert [point["learning_rate"] for point in curve] == [1e-2]
    after, before = weights(tmp_path / "model"), weights(tiny)
    assert all(not torch.equal(after[name], before[name]) for name in after if "proj" in name)
    assert "1 step in all\n" in ctx.console.file.getvalue()  # type: ignore[attr-defined]
    assert all(note.startswith("4 of 12 bundles trained") for note in result.notes) or engine == "trl"


def test_a_warm_up_longer_than_the_training_is_cut_and_said(tiny: Path, tmp_path: Path) -> None:
    ctx = context()
    result, curve = train(settings(tiny, warmup=100, max_steps=3), bundles(), tmp_path, ctx)
    assert [point["learning_rate"] for point in curve] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert result.notes == ["warmup: 100 steps cut to 2, since the training has 3 in all"]
    assert "3 steps in all, 2 of them warm-up\n" in ctx.console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("checkpointing", "weighting"),
    [
        (True, "branch"),
        (False, "token"),
        pytest.param(False, "branch", marks=pytest.mark.slow),
        pytest.param(True, "token", marks=pytest.mark.slow),
    ],
)
def test_accumulation_equals_one_big_batch(
    tiny: Path, tmp_path: Path, weighting: str, checkpointing: bool
) -> None:
    # SGD, since Adam's first steps turn the rounding of a gradient near zero into a full step
    options = {
        "loss_weighting": weighting,
        "gradient_checkpointing": checkpointing,
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "epochs": 2,
    }
    one, first = train(settings(tiny, micro_batch=4, **options), bundles(), tmp_path / "a")
    many, second = train(settings(tiny, micro_batch=1, **options), bundles(), tmp_path / "b")
    assert one.metrics["bundles_per_step"] == many.metrics["bundles_per_step"] == 4
    assert one.counts["steps"] == 6
    assert losses(first) == pytest.approx(losses(second), rel=1e-5)
    assert [p["grad_norm"] for p in first] == pytest.approx([p["grad_norm"] for p in second], rel=1e-5)
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model")
    assert not torch.equal(weights(tmp_path / "a/model")["lm_head.weight"], weights(tiny)["lm_head.weight"])


def test_loss_is_the_mean_over_the_branches_of_the_step(tiny: Path, tmp_path: Path) -> None:
    data = bundles(4)
    _, curve = train(settings(tiny, batch=8, learning_rate=1e-9), data, tmp_path)
    model = load_model(tiny, device="cpu")
    means = []
    for bundle in data:
        for branch in bundle.branches:
            ids = torch.tensor([[*bundle.prefix.tolist(), *branch.ids]])
            first = len(bundle.prefix) + branch.answer_start
            logp = model(ids).logits[0, first - 1 : -1].log_softmax(-1).gather(1, ids[0, first:, None])
            means.append(-logp.mean().item())
    assert losses(curve) == pytest.approx([float(np.mean(means))], rel=1e-5)


@pytest.mark.parametrize("answer", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_trl_gives_the_same_loss(tiny: Path, tmp_path: Path, answer: int | None) -> None:
    """Token weighting is what TRL computes; with answers of one length branch weighting is the same thing."""
    options = {
        "loss_weighting": "branch" if answer else "token",
        "optimizer": "sgd",
        "learning_rate": 0.3,
        "batch": 24,
        "epochs": 3,
    }
    data = bundles(answer=answer)
    ours, mine = train(settings(tiny, **options), data, tmp_path / "a")
    theirs, reference = train(settings(tiny, engine="trl", **options), data, tmp_path / "b")
    assert ours.counts["steps"] == theirs.counts["steps"] == 3
    assert losses(mine) == pytest.approx(losses(reference), rel=1e-5)
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model")
    assert not theirs.notes


def test_held_out_loss_is_the_mean_over_what_is_not_trained_on(tiny: Path, tmp_path: Path) -> None:
    """Held-out rows change nothing that is trained; their loss is that of their branches one by one."""

    def loss_of(model: Any, data: Sequence[EncodedBundle]) -> float:
        means = []
        for bundle in data:
            for branch in bundle.branches:
                ids = torch.tensor([[*bundle.prefix.tolist(), *branch.ids]])
                first = len(bundle.prefix) + branch.answer_start
                logp = model(ids).logits[0, first - 1 : -1].log_softmax(-1).gather(1, ids[0, first:, None])
                means.append(-logp.mean().item())
        return float(np.mean(means))

    data = bundles(12)
    config = settings(tiny, max_steps=4, logging_steps=9, eval_steps=2, longest_first=True)
    given = train_sft(config, data[:9], load_tokenizer(tiny), tmp_path / "a", context(), data[9:])
    told = json.loads((tmp_path / "a/curve.json").read_text())
    assert [point["step"] for point in told] == [0, 1, 2, 4]
    assert [point["step"] for point in told if "eval_loss" in point] == [0, 2, 4]
    before = loss_of(load_model(tiny, device="cpu"), data[9:])
    after = loss_of(load_model(tmp_path / "a/model", device="cpu"), data[9:])
    assert [told[0]["eval_loss"], told[-1]["eval_loss"]] == pytest.approx([before, after], rel=1e-4)
    assert given.metrics["held_out_loss"] == pytest.approx(after, rel=1e-4)
    assert given.metrics["held_out_loss_before"] == pytest.approx(before, rel=1e-4)
    assert (given.counts["bundles"], given.counts["bundles held out"]) == (9, 3)
    train(settings(tiny, max_steps=4, longest_first=True), data[:9], tmp_path / "b")
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model", 1e-6)
    shared, _ = train(settings(tiny, max_steps=1, eval_share=0.25), data, tmp_path / "c")
    seen = shared.metrics["bundles_per_step"]
    assert 1 < seen < 9  # one step has not seen all, and says so
    assert [shared.counts[name] for name in ("bundles", "bundles not trained", "bundles held out")] == [
        seen,
        9 - seen,
        3,
    ]
    assert f"{seen} of 9 bundles trained: 1 step of" in shared.notes[-1]
    with pytest.raises(LcxError, match="leaves nothing to train on"):
        train(settings(tiny, eval_share=0.9), data[:1], tmp_path / "d")
    with pytest.raises(ValueError, match="need engine shared-prefix"):
        settings(tiny, engine="trl", longest_first=True)


def test_a_rate_of_full_training_is_said_where_adapters_are_asked_for(tiny: Path) -> None:
    def said(rate: float, tuning: str, origins: dict[str, str]) -> str:
        given = settings(tiny, learning_rate=rate, tuning=tuning)
        return slow_adapters(Step("train", "train", "sft", "in2", given, origins=origins))

    flag = {"tuning": "--set", "learning_rate": "recipes/in2.yaml"}
    assert "learning_rate 1e-06 was made for full training, and tuning is lora" in said(1e-6, "lora", flag)
    assert said(1e-6, "full", flag) == said(1e-4, "qlora", flag) == ""
    assert said(1e-6, "lora", {"tuning": "--set", "learning_rate": "--set"}) == ""  # both were chosen


def test_trl_says_that_it_weighs_tokens(tiny: Path, tmp_path: Path) -> None:
    result, _ = train(settings(tiny, engine="trl", max_steps=1), bundles(3), tmp_path)
    assert "every answer token alike" in result.notes[0]


def test_refused_models_name_the_reason_and_the_way_out(tiny: Path, tmp_path: Path) -> None:
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        max_position_embeddings=128,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path / "m")
    load_tokenizer(tiny).save_pretrained(tmp_path / "m")
    with pytest.raises(UsageError, match="shared-prefix cannot train") as bad:
        train(settings(tmp_path / "m"), bundles(3), tmp_path / "a")
    assert "sliding window of 16" in bad.value.why
    assert bad.value.hint == "--set train.engine=trl"
    result, _ = train(settings(tmp_path / "m", engine="trl", max_steps=1), bundles(3), tmp_path / "b")
    assert result.counts["steps"] == 1


def test_models_with_code_of_their_own_are_not_sent_to_trl(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_x.X"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="cannot train") as bad:
        train(settings(folder), bundles(3), tmp_path / "a")
    assert "lcx does not run a model's own code" in bad.value.why
    assert "trl" not in bad.value.hint


def test_unknown_optimizers_and_trackers_are_named_before_anything_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, words in (
        ({"optimizer": "adamw_torhc"}, "Did you mean 'adamw_torch'"),
        ({"report_to": "wandbb"}, "Did you mean 'wandb'"),
    ):
        with pytest.raises(UsageError, match=words):
            train(settings(tiny, **options), bundles(3), tmp_path)
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["mlflow"])
    for name, package in (("wandb", "wandb"), ("comet_ml", "comet-ml")):
        with pytest.raises(MissingError, match=f"'{name}' is not installed") as bad:
            train(settings(tiny, report_to=name), bundles(3), tmp_path)
        assert bad.value.hint == f"pip install {package}"
    with pytest.raises(MissingError, match="optimizer 'grokadamw' cannot be used") as bad:
        train(settings(tiny, optimizer="grokadamw"), bundles(3), tmp_path)
    assert bad.value.hint == "pip install grokadamw"


@pytest.mark.parametrize("engine", ["shared-prefix", pytest.param("trl", marks=pytest.mark.slow)])
def test_trackers_are_told_recipe_and_data(
    engine: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    warned: list[str] = []
    monkeypatch.setattr(trainer_callback.logger, "warning", warned.append)

    class Tracker(TrainerCallback):
        logging_dir: str | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.extend((args.to_sanitized_dict(), args.to_json_string(), self.logging_dir))

    monkeypatch.setitem(arguments.INTEGRATION_TO_CALLBACK, "stub", Tracker)
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["stub"])
    told = {"lcx_recipe": "mine", "lcx_data_fingerprint": "0123456789abcdef"}
    out = tmp_path / engine
    ctx = replace(context(), identity=told)
    train(settings(tiny, report_to="stub", max_steps=1, engine=engine), bundles(3), out, ctx)
    flat, text, folder = seen
    assert {key: flat[key] for key in told} == told
    assert flat["learning_rate"] == 1e-2
    assert json.loads(text)["lcx_recipe"] == "mine"
    assert folder == str(out / "tensorboard")  # not among the checkpoints, which go when all is done
    saved = torch.load(out / "model/training_args.bin", weights_only=False)
    assert "to_dict" not in vars(saved)
    assert "lcx_recipe" not in saved.to_dict()
    assert not warned  # of two callbacks of one class


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a step."""
    from lcx.training.runner import SharedPrefixTrainer

    plain = SharedPrefixTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(SharedPrefixTrainer, "compute_loss", plain)
        return plain(self, *args, **options)

    monkeypatch.setattr(SharedPrefixTrainer, "compute_loss", compute_loss)


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_interrupt_saves_and_the_same_call_continues_the_curve(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    config = settings(tiny, epochs=2, micro_batch=2)
    _, whole = train(config, bundles(), tmp_path / "a")
    interrupted_at(at, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config, bundles(), tmp_path / "b")
    assert (tmp_path / f"b/checkpoints/checkpoint-{at + 1}").is_dir()
    assert not (tmp_path / "b/model").exists()
    result, resumed = train(config, bundles(), tmp_path / "b")
    assert [p["step"] for p in resumed] == [p["step"] for p in whole]
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-6)
    assert result.metrics["loss"] == pytest.approx(float(np.mean(losses(whole))), abs=1e-6)
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model", 1e-6)


def test_a_checkpoint_that_is_not_whole_is_set_aside_with_a_word(tiny: Path, tmp_path: Path) -> None:
    config = settings(tiny, save_steps=1, save_total_limit=9)
    first, whole = train(config, bundles(), tmp_path)
    assert first.metrics["loss"] == pytest.approx(float(np.mean(losses(whole))), abs=1e-6)
    assert first.spent == ("checkpoints",)
    held = tmp_path / "checkpoints"
    assert {path.name for path in held.iterdir()} == {"model.json", *(f"checkpoint-{n}" for n in (1, 2, 3))}
    assert load_tokenizer(held / "checkpoint-2").eos_token == "<eos>"  # it is a model's folder of its own

    def cut(name: str) -> Callable[[Path], Any]:
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])

    def flip(folder: Path) -> None:
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-9] ^= 1
        (folder / "model.safetensors").write_bytes(data)

    def foreign(folder: Path) -> None:
        shutil.copytree(folder, held / "checkpoint-999999")
        state = json.loads((folder / "trainer_state.json").read_text())
        (held / "checkpoint-999999/trainer_state.json").write_text(
            json.dumps({**state, "global_step": 999999})
        )

    cases: list[tuple[Callable[[Path], Any], str, int]] = [
        (lambda folder: (folder / "files.json").unlink(), "it was not written to its end", 2),
        (cut("model.safetensors"), "model.safetensors has ", 2),
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt is missing", 2),
        (lambda folder: (folder / "scheduler.pt").unlink(), "scheduler.pt is missing", 2),
        (flip, "model.safetensors was changed", 2),
        (cut("files.json"), "files.json cannot be read", 2),
        (foreign, "checkpoint-999999 cannot be used: it belongs to another training", 3),
    ]
    for number, (harm, words, left) in enumerate(cases):
        place = tmp_path / str(number)
        shutil.copytree(held, place / "checkpoints")
        harm_at = held
        held = place / "checkpoints"
        harm(held / "checkpoint-3")
        found, notes = last_checkpoint(place, context())
        assert found == held / f"checkpoint-{left}"
        assert words in notes[0]
        assert notes[1] == f"going on from checkpoint-{left}"
        assert last_checkpoint(place, context()) == (found, [])
        held = harm_at
    (held / "checkpoint-3/optimizer.pt").unlink()
    again, curve = train(config, bundles(), tmp_path)
    assert losses(curve) == pytest.approx(losses(whole), rel=1e-6)
    assert again.metrics["loss"] == pytest.approx(first.metrics["loss"], rel=1e-6)
    assert "optimizer.pt is missing" in again.notes[0]
    assert (held / "unusable-checkpoint-3").is_dir()
    for number in (1, 2, 3):
        (held / f"checkpoint-{number}/files.json").unlink()
    assert last_checkpoint(tmp_path, context())[1][-1] == "no checkpoint is left: training starts over"
    _, forced = train(config, bundles(), tmp_path, context(force=True))
    assert losses(forced) == pytest.approx(losses(whole), rel=1e-6)


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_adapters_train_and_load(tiny: Path, tmp_path: Path, tuning: str) -> None:
    config = settings(tiny, tuning=tuning, lora_r=4, epochs=4, gradient_checkpointing=True, micro_batch=4)
    _, curve = train(config, bundles(), tmp_path)
    assert losses(curve)[-1] < losses(curve)[0]
    assert (tmp_path / "model/adapter_model.safetensors").is_file()
    loaded = load_model(tmp_path / "model", device="cpu")
    assert loaded.config._attn_implementation == "sdpa"
    load_tokenizer(tmp_path / "model")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert not torch.allclose(loaded(ids).logits, load_model(tiny, device="cpu")(ids).logits, atol=1e-3)


def trained(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Logits of every model as it stands when training ends, before it is saved; its adapters are at work."""
    from lcx.training import runner

    seen: list[torch.Tensor] = []
    plain = runner.save

    def save(trainer: Any, *rest: Any) -> Any:
        model = trainer.accelerator.unwrap_model(trainer.model).train()
        with torch.no_grad():
            seen.append(model(PROBE).logits)
        return plain(trainer, *rest)

    monkeypatch.setattr(runner, "save", save)
    return seen


PROBE = torch.arange(3, 60)[None]


def logits(folder: Path, **options: Any) -> torch.Tensor:
    # train(), without any dropout: bitsandbytes' CPU kernel for inference takes no matrix this small
    with torch.no_grad():
        return load_model(folder, device="cpu", **options).train()(PROBE).logits


@pytest.mark.parametrize("tuning", ["lora", pytest.param("qlora", marks=pytest.mark.slow), "full"])
def test_rope_theta_comes_back_with_the_saved_model(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    seen = trained(monkeypatch)
    config = settings(tiny, tuning=tuning, lora_r=4, rope_theta=1e6, epochs=2)
    result, _ = train(config, bundles(), tmp_path)
    quantize = "nf4" if tuning == "qlora" else None
    mine = logits(tmp_path / "model", quantize=quantize)
    assert torch.allclose(mine, seen[0], atol=1e-5)
    assert load_config(tmp_path / "model").rope_parameters["rope_theta"] == 1e6
    without = logits(tmp_path / "model", quantize=quantize, rope_theta=1e4)
    assert not torch.allclose(without, seen[0], atol=1e-3)
    if tuning != "full":
        assert "rope_theta" in result.notes[0]


@pytest.mark.parametrize(
    "tuning", ["lora", *(pytest.param(one, marks=pytest.mark.slow) for one in ("qlora", "full"))]
)
def test_training_goes_on_from_an_adapter(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    """What is saved after a second training is what that training left, and it began where the first ended."""
    seen = trained(monkeypatch)
    quantize = "nf4" if tuning == "qlora" else None
    start = settings(
        tiny, tuning="qlora" if quantize else "lora", lora_r=4, lora_alpha=8, rope_theta=1e5, epochs=3
    )
    train(start, bundles(), tmp_path / "a")
    first = tmp_path / "a/model"
    same = {"lora_r": 4, "lora_alpha": 8, "tuning": tuning, "gradient_checkpointing": True}
    train(settings(first, learning_rate=1e-12, max_steps=1, **same), bundles(), tmp_path / "still")
    assert torch.allclose(
        seen[1], seen[0], atol=1e-4
    )  # merging rounds, and training on begins at the same place
    train(settings(first, epochs=3, **same), bundles(), tmp_path / "b")
    assert not torch.allclose(seen[2], seen[0], atol=1e-2)
    assert torch.allclose(logits(tmp_path / "b/model", quantize=quantize), seen[2], atol=1e-5)
    assert (tmp_path / "b/model/adapter_config.json").is_file() == (tuning != "full")


def test_an_adapter_of_another_shape_is_refused_with_its_own(tiny: Path, tmp_path: Path) -> None:
    train(
        settings(tiny, tuning="lora", lora_r=4, lora_targets="q_proj,v_proj", max_steps=1),
        bundles(3),
        tmp_path / "a",
    )
    first = tmp_path / "a/model"
    with pytest.raises(UsageError, match="another shape") as bad:
        train(settings(first, tuning="lora", lora_r=8), bundles(3), tmp_path / "b")
    assert (
        "lora_r=4, lora_targets=q_proj,v_proj; asked for: lora_r=8, lora_targets=all-linear" in bad.value.why
    )
    assert "--set train.lora_r=4 --set train.lora_targets=q_proj,v_proj" in bad.value.hint
    assert "train.tuning=full" in bad.value.hint
    fits = settings(first, tuning="lora", lora_r=4, lora_targets="v_proj,q_proj", max_steps=1)
    assert train(fits, bundles(3), tmp_path / "c")[0].counts["steps"] == 1


def test_a_processor_that_computes_in_bf16_is_told_of(tiny: Path) -> None:
    def note(
        size: int = 10**9, device: str = "cpu", flags: str = "avx512_bf16 amx_bf16", **options: Any
    ) -> str:
        given = settings(tiny, **options)
        return cpu.bf16_note(given, torch.device(device), size, frozenset(flags.split()))

    assert "has amx_bf16: precision=bf16 is less exact" in note()
    assert "has avx512_bf16:" in note(flags="avx2 avx512_bf16")
    assert not any((note(10**6), note(device="cuda"), note(flags="avx2"), note(precision="fp32")))


def test_bf16_trains(tiny: Path, tmp_path: Path) -> None:
    _, curve = train(settings(tiny, precision="bf16", epochs=4), bundles(), tmp_path)
    assert losses(curve)[-1] < losses(curve)[0]
    assert all(value.dtype is torch.float32 for value in weights(tmp_path / "model").values())


def test_a_saved_folder_is_complete_and_readable_elsewhere(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    load_model(tiny, dtype="bf16", device="cpu").save_pretrained(base)
    tokenizer = load_tokenizer(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<x>"]})
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(base)
    carried = {
        "LICENSE.txt": "mine",
        "USE_POLICY.md": "be kind",
        "generation_config.json": '{"temperature": 0.6}',
    }
    for name, text in carried.items():
        (base / name).write_text(text)
    (base / "README.md").write_text("a card of the base")
    options = {"max_steps": 1, "gradient_checkpointing": True, "rope_theta": 1e6, "learning_rate": 0.1}
    result, _ = train(settings(base, save_steps=1, **options), bundles(3), tmp_path / "full")
    train(settings(base, tuning="lora", **options), bundles(3), tmp_path / "lora")
    places = [tmp_path / part for part in ("full/model", "lora/model", "full/checkpoints/checkpoint-1")]
    for place in places:
        assert {name: (place / name).read_text() for name in carried} == carried
        assert not (place / "README.md").is_file() or "a card of" not in (place / "README.md").read_text()
        assert (place / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
        told = json.loads((place / "tokenizer_config.json").read_text())
        assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert told["additional_special_tokens"] == ["<x>"]
        assert "extra_special_tokens" not in told
        again = load_tokenizer(place)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again.chat_template == tokenizer.chat_template
        assert again.all_special_tokens == load_tokenizer(base).all_special_tokens
    config = json.loads((tmp_path / "full/model/config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": 1e6, "rope_type": "default"}
    assert (config["rope_theta"], config["rope_scaling"], config["use_cache"]) == (1e6, None, True)
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    saved = load_file(tmp_path / "full/model/model.safetensors")
    assert {one.dtype for one in saved.values()} == {torch.bfloat16}
    assert any("saved in bf16, as its base is" in note for note in result.notes)
    kept, _ = train(settings(base, save_precision="fp32", **options), bundles(3), tmp_path / "kept")
    exact = load_file(tmp_path / "kept/model/model.safetensors")
    assert {one.dtype for one in exact.values()} == {torch.float32}
    assert all(torch.equal(exact[name].bfloat16(), one) for name, one in saved.items())
    assert not kept.notes


def test_configs_of_other_ropes_are_readable_elsewhere() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    made = for_other_readers({"rope_parameters": {**yarn, "rope_theta": 1e6, "partial_rotary_factor": 0.5}})
    assert (made["rope_scaling"], made["rope_theta"], made["partial_rotary_factor"]) == (yarn, 1e6, 0.5)
    layers = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    made = for_other_readers({"text_config": {"rope_parameters": layers, "dtype": "bfloat16"}})["text_config"]
    assert (made["rope_theta"], made["rope_local_base_freq"], made["torch_dtype"]) == (1e6, 1e4, "bfloat16")
    assert made["rope_parameters"] == layers


READ_ELSEWHERE = """
import json, sys
import numpy, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

assert transformers.__version__.startswith("4.51."), transformers.__version__
for folder in sys.argv[2:]:
    place, base = folder, None
    try:
        base = json.load(open(f"{folder}/adapter_config.json"))["base_model_name_or_path"]
    except FileNotFoundError:
        pass
    model = AutoModelForCausalLM.from_pretrained(base or folder, torch_dtype=torch.float32)
    if base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([json.loads(sys.argv[1])])
    with torch.no_grad():
        numpy.save(f"{folder}/elsewhere.npy", model.eval()(input_ids=ids).logits[0].numpy())
    print(json.dumps([type(tokenizer).__name__, tokenizer("w1 w2")["input_ids"]]))
"""


@pytest.mark.nightly
def test_saved_folders_are_read_by_transformers_4_51(tiny: Path, tmp_path: Path) -> None:
    """A whole model with other rope settings, an adapter, and the two merged: the same logits as here."""
    packages = os.environ.get("LCX_TRANSFORMERS_4_51") or str(tmp_path / "packages")
    if not Path(packages).is_dir():
        wanted = ("transformers==4.51.3", "tokenizers<0.22", "huggingface_hub<1")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-compile",
            "--target",
            packages,
        ]
        got = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        if got.returncode:
            last = (got.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            pytest.skip(f"transformers 4.51 cannot be had here: {last}")
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    train(settings(tiny, max_steps=1, rope=yarn, rope_theta=1e6), bundles(3), tmp_path / "full")
    train(settings(tiny, max_steps=1, tuning="lora"), bundles(3), tmp_path / "lora")
    adapter = tmp_path / "lora" / "model"
    train(settings(adapter, max_steps=1, learning_rate=1e-9), bundles(3), tmp_path / "merged")
    folders = [tmp_path / name / "model" for name in ("full", "lora", "merged")]
    ids = [3 + number % 50 for number in range(120)]
    read = subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE, json.dumps(ids), *map(str, folders)],
        env={**os.environ, "PYTHONPATH": packages, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr[-2000:]
    said = [json.loads(line) for line in read.stdout.splitlines()]
    assert said == [["PreTrainedTokenizerFast", load_tokenizer(tiny)("w1 w2")["input_ids"]]] * 3
    for folder in folders:
        with torch.no_grad():
            ours = (
                load_model(folder, device="cpu", dtype="fp32").eval()(input_ids=torch.tensor([ids])).logits[0]
            )
        assert np.abs(np.load(folder / "elsewhere.npy") - ours.numpy()).max() < 1e-5, folder


def test_rows_beyond_the_window(tiny: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    long = EncodedBundle("long", random.integers(3, VOCAB, 140), (EncodedBranch([5, 6, 7], 1),))
    data = [*bundles(3), long]
    with pytest.raises(LcxError, match=r"bundle long has a row of 143 tokens, .* window of 128"):
        train(settings(tiny), data, tmp_path / "a")
    dropped, _ = train(settings(tiny, too_long="drop"), data, tmp_path / "b")
    assert dropped.counts["bundles"] == 3
    assert dropped.counts["dropped_too_long"] == 1
    cut, _ = train(settings(tiny, too_long="truncate-middle"), data, tmp_path / "c")
    assert cut.counts["bundles"] == 4
    assert cut.counts["truncated_tokens"] == 15
    with pytest.raises(LcxError, match="more than max_tokens of 16"):
        train(settings(tiny, max_tokens=16), bundles(3), tmp_path / "d")
    with pytest.raises(LcxError, match="nothing to train on"):
        train(settings(tiny, too_long="drop"), [long], tmp_path / "e")
    far = EncodedBundle("far", np.arange(3, 7), (EncodedBranch([5, 6], 1),), np.array([0, 1, 2, 126]))
    with pytest.raises(LcxError, match="position 128; the model's window ends at 127"):
        train(settings(tiny), [far], tmp_path / "f")


def test_nan_is_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(LcxError, match="became"):
        train(
            settings(tiny, learning_rate=1e30, optimizer="sgd", max_grad_norm=0, epochs=9),
            bundles(),
            tmp_path,
        )


def test_an_answerless_branch_is_an_error(tiny: Path, tmp_path: Path) -> None:
    data = [EncodedBundle("query", np.arange(3, 9), (EncodedBranch([5, 6], 2, "query"),))]
    with pytest.raises(LcxError, match="bundle query: a branch has no answer tokens"):
        train(settings(tiny), data, tmp_path)


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_progress_off_a_terminal_is_plain_lines_on_our_console(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    ctx = context()
    _, curve = train(settings(tiny, engine=engine), bundles(), tmp_path, ctx)
    told = ctx.console.file.getvalue()  # type: ignore[attr-defined]
    assert "12 contexts, 24 answers" in told
    last = re.search(r"training: 3 of 3 steps, loss (\d\.\d+), [\d.]+K? tokens/s, .* in \d+s\n", told)
    assert last
    assert last[1] == f"{curve[-1]['loss']:.4f}"
    assert "\x1b" not in told
    assert capsys.readouterr().out == ""


WORKER = """
import io, json, os, sys
from pathlib import Path
from rich.console import Console
from lcx.context import Context
sys.path.insert(0, {tests!r})
from lcx.modeling.load import load_tokenizer
from lcx.training.runner import train_sft
from test_sft import bundles, settings
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
assert world == 2
ctx = Context(console=Console(file=io.StringIO()), device="cpu", rank=rank, world_size=world)
config = settings(Path({model!r}), batch=8, epochs=2, optimizer="sgd", learning_rate=0.5, save_steps=2)
train_sft(config, bundles(11), load_tokenizer(config.model), Path({out!r}), ctx)
if world > 1:  # a process that just ended could abort in its exit
    import torch.distributed as dist
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.nightly  # the quick tier has it by the command line: tests/training/test_launch.py
def test_two_processes_equal_one(tiny: Path, tmp_path: Path) -> None:
    """11 contexts over two processes: the last step is uneven, and a filler of weight 0 makes it even."""
    _, curve = train(
        settings(tiny, batch=8, epochs=2, optimizer="sgd", learning_rate=0.5), bundles(11), tmp_path / "one"
    )
    script = tmp_path / "worker.py"
    out = tmp_path / "two"
    out.mkdir()
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), model=str(tiny), out=str(out)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0"]  # --cpu would start one process
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(json.loads((out / "curve.json").read_text())) == pytest.approx(losses(curve), rel=1e-5)
    assert_same_weights(out / "model", tmp_path / "one/model")


def test_tokens_beyond_the_embedding_are_told(tiny: Path, tmp_path: Path) -> None:
    """torch would say `index out of range in self`, and a GPU nothing that anybody understands."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    data, beyond = bundles(), config["vocab_size"]
    odd = replace(data[0], prefix=np.array([*data[0].prefix, beyond]))
    with pytest.raises(
        UsageError, match=f"token {beyond:,} of the tokenizer lies beyond the {beyond:,} tokens"
    ):
        train(settings(folder, max_steps=1), [*data, odd], tmp_path / "run")
