"""Small models and preference bundles, and a naive trainer of separate rows to compare with."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from lcx.context import Context, StepResult
from lcx.modeling.load import load_model, load_tokenizer
from lcx.modeling.tiny import build_tokenizer
from lcx.records import Branch, Bundle, EncodedBranch, EncodedBundle
from lcx.training.losses import DPO, LOGO, ORPO, SIMPO, loss_options
from lcx.training.preference import train_preference
from lcx.training.settings import PreferenceSettings

VOCAB = 64
WORDS = [f"w{number}" for number in range(50)]
LOSSES = {loss.name: loss for loss in (LOGO, SIMPO, DPO, ORPO)}


def context(**options: Any) -> Context:
    return Context(console=Console(file=io.StringIO(), width=200), device="cpu", **options)


def small_model(folder: Path, seed: int = 1, **changes: Any) -> Path:
    """A Llama of two layers whose weights are large enough that answers differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.15,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 2,
            **changes,
        }
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer(WORDS).save_pretrained(folder)
    return folder


def bundles(count: int = 12, rejected: int | None = 2, seed: int = 5) -> list[Bundle]:
    """Bundles of a context, a question, a chosen answer and `rejected` others (None: one to three)."""
    random = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return " ".join(random.choice(WORDS, int(random.integers(least, most))))

    made = []
    for number in range(count):
        question, context_text = words(2, 4), words(10, 20 + number)
        answers = [words(2, 7) for _ in range(2 + (number % 3 if rejected is None else rejected - 1))]
        roles = ["chosen"] + ["rejected"] * (len(answers) - 1)
        branches = tuple(Branch(question, a, role) for a, role in zip(answers, roles, strict=True))
        made.append(Bundle(f"b{number}", branches, context=context_text))
    return made


class Words:
    """Encodes `context \\n question = answer <eos>`, a token a word."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, bundle: Bundle) -> EncodedBundle:
        text = np.array(self.ids(" " + (bundle.context or "")))
        branches = []
        for branch in bundle.branches:
            question = self.ids("\n? " + branch.question + " =")
            branches.append(
                EncodedBranch([*question, *self.ids(" " + branch.answer), 2], len(question), branch.role)
            )
        third = max(1, len(text) // 3)
        chunks = tuple(len(part) for part in (text[:third], text[third : 2 * third], text[2 * third :]))
        return EncodedBundle(bundle.id, text, tuple(branches), head=0, chunks=chunks)


def settings(model: Path, **options: Any) -> PreferenceSettings:
    base = {
        "model": str(model),
        "batch": 4,
        "learning_rate": 0.05,
        "warmup": 0.0,
        "schedule": "constant",
        "optimizer": "sgd",
        "max_grad_norm": 0,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_steps": 0,
        "loss": "logo",
    }
    return PreferenceSettings(**{**base, **options})


def train(
    config: PreferenceSettings, data: list[Bundle], out: Path, ctx: Context | None = None
) -> tuple[StepResult, list[dict[str, float]]]:
    folder = Path(config.model or "")
    loss = LOSSES[config.loss]
    given = {
        "beta": config.beta,
        "gamma": config.gamma,
        "sft_weight": config.sft_weight,
        **config.loss_options,
    }
    result = train_preference(
        config,
        loss,
        loss_options(loss, given),
        data,
        Words(folder),
        load_tokenizer(folder),
        out,
        ctx or context(),
    )
    if ctx is not None and ctx.rank:  # the first process alone writes
        return result, []
    return result, json.loads((out / "curve.json").read_text())


def row_logprobs(model: Any, bundle: EncodedBundle, positions: Any = None) -> list[tuple[torch.Tensor, int]]:
    """Summed log-probability and length of each answer, every branch as a row of its own with full logits."""
    found = []
    for branch in bundle.branches:
        ids = torch.tensor([[*np.asarray(bundle.prefix).tolist(), *branch.ids]])
        first = len(bundle.prefix) + branch.answer_start
        place = None
        if positions is not None:
            place = torch.tensor(np.concatenate([positions, positions[-1] + 1 + np.arange(len(branch.ids))]))[
                None
            ]
        logits = model(ids, attention_mask=torch.ones_like(ids), position_ids=place, use_cache=False).logits
        token = logits[0, first - 1 : -1].log_softmax(-1).gather(1, ids[0, first:, None])
        found.append((token.sum(), ids.shape[1] - first))
    return found


def naive_loss(
    name: str, rows: list[tuple[torch.Tensor, int]], reference: list[float] | None, **o: Any
) -> torch.Tensor:
    """A prompt's loss by the papers' formulas, the chosen row first, in plain Python over scalars."""

    def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
        return -torch.log1p(torch.exp(-x))

    means = [total / length for total, length in rows]
    if name == "logo":
        pull = sum(mean for mean in means[1:]) / (len(means) - 1)
        return -log_sigmoid(o["beta"] * means[0] - o["beta"] * pull - o["gamma"]) - o["sft_weight"] * means[0]
    if name == "simpo":
        pairs = [-log_sigmoid(o["beta"] * (means[0] - mean) - o["gamma"]) for mean in means[1:]]
        return sum(pairs) / len(pairs) - o["sft_weight"] * means[0]
    if name == "dpo":
        assert reference is not None
        ratio = [total - ref for (total, _), ref in zip(rows, reference, strict=True)]
        pairs = [-log_sigmoid(o["beta"] * (ratio[0] - one)) for one in ratio[1:]]
        ce = means[0] if o.get("ce", "token") == "token" else rows[0][0]
        return sum(pairs) / len(pairs) - o["sft_weight"] * ce
    odds = [mean - torch.log(1 - torch.exp(mean)) for mean in means]
    pairs = [-log_sigmoid(odds[0] - one) for one in odds[1:]]
    return -means[0] + o["beta"] * sum(pairs) / len(pairs)


def naive_step(
    config: PreferenceSettings, model: Any, reference: Any, data: list[Bundle], positions: Any = None
) -> float:
    """Loss of one step over all of `data` by separate rows; gradients are left in the model."""
    loss = LOSSES[config.loss]
    given = {
        "beta": config.beta,
        "gamma": config.gamma,
        "sft_weight": config.sft_weight,
        **config.loss_options,
    }
    options = loss_options(loss, given)
    encoder = Words(Path(config.model or ""))
    total = 0.0
    for bundle in data:
        encoded = encoder.encode(bundle)
        rows = row_logprobs(model, encoded, None if positions is None else positions(encoded))
        before = None
        if reference is not None:
            with torch.no_grad():
                before = [float(total) for total, _ in row_logprobs(reference, encoded)]
        one = naive_loss(config.loss, rows, before, **options) / len(data)
        one.backward()
        total += one.item()
    return total


def gradient_norm(model: Any) -> float:
    return math.sqrt(sum(float(p.grad.norm() ** 2) for p in model.parameters() if p.grad is not None))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder, device="cpu").state_dict())


def assert_same_weights(one: Path, two: Path, bound: float = 1e-5) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).norm() <= bound * b[name].norm() + 1e-9, name
