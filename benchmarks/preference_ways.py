"""Ways to take one step of a preference loss on the same model and data: lcx's trainer, rows of one's own, TRL's.

Every way has a model of its own with the same weights. A step is a forward and a backward pass from cleared
gradients, without the optimizer; what the data loader gives is made beforehand. The trainers are the real ones
and run their own `training_step`, metrics included.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from lcx.modeling.shared_prefix import use_shared_prefix
from lcx.modeling.tiny import build_tokenizer
from lcx.records import EncodedBranch, EncodedBundle
from lcx.training.collate import Item, collate
from lcx.training.losses import DPO, LOGO, SIMPO, Loss
from lcx.training.preference import PreferenceTrainer

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

OPTIONS: dict[str, dict[str, Any]] = {
    "logo": {"beta": 10.0, "gamma": 3.0, "sft_weight": 0.1},
    "dpo": {"beta": 0.15, "sft_weight": 0.1, "ce": "token"},
    "simpo": {"beta": 2.0, "gamma": 1.0, "sft_weight": 0.0},
}
"""The papers' settings, of LongReward for DPO."""


@dataclass(frozen=True)
class Sizes:
    """The model and the data of a step: one prompt, a chosen and `rejected` other answers of equal length."""

    prompt: int = 4096
    answer: int = 128
    rejected: int = 2
    layers: int = 4
    width: int = 256
    vocab: int = 8192

    def bundle(self, rejected: int | None = None) -> EncodedBundle:
        """The data as random token ids."""
        random = np.random.default_rng(0)
        prefix = random.integers(3, self.vocab, self.prompt)
        roles = ["chosen"] + ["rejected"] * (self.rejected if rejected is None else rejected)
        branches = tuple(
            EncodedBranch(random.integers(3, self.vocab, self.answer).tolist(), 0, role) for role in roles
        )
        return EncodedBundle("benchmark", prefix, branches)

    def model(self, seed: int = 0) -> LlamaForCausalLM:
        """A random Llama with grouped heads, the same for every call with the same seed."""
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.width,
            intermediate_size=self.width * 43 // 16,
            num_hidden_layers=self.layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=self.prompt + 4096,
            attn_implementation="sdpa",
        )
        return LlamaForCausalLM(config).train()


@dataclass
class Way:
    """A model, and a step that leaves its gradients there and returns its loss."""

    model: Any
    step: Callable[[], float]


ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "remove_unused_columns": False,
}


def arguments() -> dict[str, Any]:
    """What all trainers are told alike."""
    return {**ARGUMENTS, "output_dir": tempfile.gettempdir()}


def shared(sizes: Sizes, loss: Loss, rejected: int | None = None, reference: str = "") -> Way:
    """lcx's trainer. `reference` is `model` (a frozen one, asked in every step), `cached`, or "" for none."""
    bundle = sizes.bundle(rejected)
    model = use_shared_prefix(sizes.model())
    frozen = use_shared_prefix(sizes.model(1).eval().requires_grad_(False)) if reference else None
    trainer = PreferenceTrainer(
        model,
        TrainingArguments(**arguments()),
        [bundle],
        loss=loss,
        options=OPTIONS[loss.name],
        frozen=frozen,
    )
    batch = collate([Item(bundle, 1.0)])
    if reference == "cached":
        batch["reference"] = trainer.reference_sums(model, batch)
        trainer.frozen = frozen = None
    return trained(trainer, model, batch)


def trained(trainer: Any, model: Any, batch: Mapping[str, Any]) -> Way:
    """A step as the trainer takes it."""
    trainer.current_gradient_accumulation_steps = 1  # its training loop would say so
    return Way(model, lambda: float(trainer.training_step(model, dict(batch))))


def rows_of(bundle: EncodedBundle) -> torch.Tensor:
    """The bundle as separate rows [b, prompt + answer]."""
    return torch.tensor([[*bundle.prefix.tolist(), *branch.ids] for branch in bundle.branches])


def means_of(model: Any, rows: torch.Tensor, answer: int, full: bool) -> torch.Tensor:
    """Mean log-probability of each row's answer [b], by the answers' logits alone or by those of all tokens."""
    keep = {} if full else {"logits_to_keep": answer + 1}
    logits = model(rows, use_cache=False, **keep).logits[:, -answer - 1 : -1]
    chosen = rows[:, -answer:, None]
    return logits.log_softmax(-1).gather(-1, chosen)[..., 0].mean(-1)


def logo(means: torch.Tensor) -> torch.Tensor:
    """LOGO's loss of one prompt from the means of its answers, the chosen one's first."""
    beta, gamma, weight = (OPTIONS["logo"][name] for name in ("beta", "gamma", "sft_weight"))
    return -logsigmoid(beta * (means[0] - means[1:].mean()) - gamma) - weight * means[0]


def separate(sizes: Sizes, full: bool = False) -> Way:
    """LOGO on separate rows in one batch."""
    model, rows = sizes.model(), rows_of(sizes.bundle())

    def step() -> float:
        loss = logo(means_of(model, rows, sizes.answer, full))
        loss.backward()
        return loss.item()

    return Way(model, step)


def micro(sizes: Sizes) -> Way:
    """LOGO on separate rows, one at a time.

    The loss needs all answers before any can be learnt from, so that each row is run twice: once for its
    log-probability, and again for the gradient, by what the loss says of it.
    """
    model, rows = sizes.model(), rows_of(sizes.bundle())

    def step() -> float:
        with torch.no_grad():
            means = torch.cat([means_of(model, row[None], sizes.answer, False) for row in rows])
        loss = logo(means.requires_grad_())
        (weights,) = torch.autograd.grad(loss, means)
        for row, weight in zip(rows, weights, strict=True):
            (weight * means_of(model, row[None], sizes.answer, False)[0]).backward()
        return loss.item()

    return Way(model, step)


def floor(sizes: Sizes) -> Way:
    """Plain causal language modelling on one row of the prompt and all answers, with the answers' logits."""
    model, bundle = sizes.model(), sizes.bundle()
    row = torch.tensor([[*bundle.prefix.tolist(), *(word for one in bundle.branches for word in one.ids)]])
    length = row.shape[1] - sizes.prompt

    def step() -> float:
        loss = -means_of(model, row, length, False)[0]
        loss.backward()
        return loss.item()

    return Way(model, step)


@cache
def pairs_trainer() -> Any:
    """TRL's DPO trainer on rows that hold token ids already; lcx's ways run where TRL is not installed."""
    from trl import DPOTrainer

    class Pairs(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    return Pairs


def pair_of(bundle: EncodedBundle) -> dict[str, list[int]]:
    """The bundle as TRL's collator for DPO takes it."""
    chosen, rejected = (list(branch.ids) for branch in bundle.branches)
    return {"prompt_ids": bundle.prefix.tolist(), "chosen_ids": chosen, "rejected_ids": rejected}


def trl_dpo(sizes: Sizes, reference: str = "model") -> Way:
    """TRL's DPOTrainer with a cross-entropy term; reference log-probs by a frozen model, or computed before."""
    from datasets import Dataset
    from trl import DPOConfig

    pair = pair_of(sizes.bundle(1))
    args = DPOConfig(
        **arguments(),
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, OPTIONS["dpo"]["sft_weight"]],
        beta=OPTIONS["dpo"]["beta"],
        max_length=None,
    )
    model = sizes.model()
    trainer = pairs_trainer()(
        model=model,
        ref_model=sizes.model(1).eval().requires_grad_(False),
        args=args,
        train_dataset=Dataset.from_list([pair]),
        processing_class=build_tokenizer(["word"]),
    )
    batch = trainer.data_collator([pair])
    if reference == "cached":
        sums = trainer.compute_ref_log_probs(trainer.ref_model, batch)
        batch |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), sums, strict=True))
        trainer.precompute_ref_logps, trainer.ref_model = True, None
    return trained(trainer, model, batch)


def trl_simpo(sizes: Sizes) -> Way:
    """TRL's CPOTrainer with SimPO's loss."""
    from datasets import Dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, says TRL
        from trl.experimental.cpo import CPOConfig, CPOTrainer

    bundle = sizes.bundle(1)
    args = CPOConfig(
        **arguments(),
        loss_type="simpo",
        beta=OPTIONS["simpo"]["beta"],
        simpo_gamma=OPTIONS["simpo"]["gamma"],
        cpo_alpha=OPTIONS["simpo"]["sft_weight"],
        max_length=sizes.prompt + sizes.answer,
    )
    model = sizes.model()
    words = {"prompt": "word", "chosen": "word word", "rejected": "word"}  # it wants text; the batch is ours
    trainer = CPOTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([words]),
        processing_class=build_tokenizer(["word"]),
    )
    features = {}
    for branch, row in zip(bundle.branches, rows_of(bundle).tolist(), strict=True):
        features[f"{branch.role}_input_ids"] = row
        features[f"{branch.role}_attention_mask"] = [1] * len(row)
        features[f"{branch.role}_labels"] = [-100] * sizes.prompt + row[sizes.prompt :]
    return trained(trainer, model, trainer.data_collator([features]))


@dataclass(frozen=True)
class Kind:
    """How a way is called, and which other it computes the same as (none for the floor)."""

    label: str
    same_as: str
    make: Callable[[Sizes], Way]


KINDS: dict[str, Kind] = {
    "logo": Kind("LOGO, lcx", "logo", lambda sizes: shared(sizes, LOGO)),
    "rows": Kind("  rows in one batch, answers' logits", "logo", separate),
    "full": Kind("  rows in one batch, all logits", "logo", lambda sizes: separate(sizes, full=True)),
    "micro": Kind("  rows one at a time", "logo", micro),
    "floor": Kind("  floor: causal LM on the same tokens", "", floor),
    "dpo": Kind("DPO + CE, lcx", "dpo", lambda sizes: shared(sizes, DPO, 1, "model")),
    "trl-dpo": Kind("  TRL's DPOTrainer", "dpo", trl_dpo),
    "dpo-cached": Kind(
        "DPO + CE, lcx, reference cached", "dpo", lambda sizes: shared(sizes, DPO, 1, "cached")
    ),
    "trl-dpo-cached": Kind(
        "  TRL's DPOTrainer, reference cached", "dpo", lambda sizes: trl_dpo(sizes, "cached")
    ),
    "simpo": Kind("SimPO, lcx", "simpo", lambda sizes: shared(sizes, SIMPO, 1)),
    "trl-simpo": Kind("  TRL's CPOTrainer", "simpo", trl_simpo),
}


def quiet() -> None:
    """Trainers and data sets say nothing while they are measured."""
    with suppress(ImportError):  # TRL brings it; lcx's own ways need none
        from datasets import logging as datasets_logging

        datasets_logging.disable_progress_bar()
    for name in ("transformers", "trl", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
