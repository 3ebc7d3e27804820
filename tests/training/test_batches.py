"""Settings, the shape of a step, the order of an epoch, the dataset, and small words of progress."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcx.errors import UsageError
from lcx.records import Branch, Bundle, EncodedBranch, EncodedBundle
from lcx.settings import validate
from lcx.training.collate import EpochOrder, Item, collate
from lcx.training.data import EncodedDataset, fit_all, span
from lcx.training.settings import TrainSettings, rate_factor, step_shape, warmup_steps


def test_defaults_are_the_papers() -> None:
    paper = TrainSettings()
    assert (paper.batch, paper.epochs, paper.learning_rate, paper.schedule) == (128, 1, 1e-6, "cosine")
    assert (paper.warmup, paper.tuning, paper.loss_weighting) == (0.03, "full", "branch")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lr", "learning_rate"),
        ("num_train_epochs", "epochs"),
        ("per_device_train_batch_size", "micro_batch"),
        ("gradient_accumulation_steps", "batch"),
        ("load_in_4bit", "qlora"),
        ("warmup_ratio", "warmup"),
        ("learning_rat", "learning_rate"),
        ("sequence_len", "'max_tokens'"),
        ("base_model", "'model'"),
        ("dataset", "'input'"),
        ("quantization_bit", "qlora"),
        ("adapter", "'tuning': lora"),
        ("deepspeed", "--strategy: zero2"),
        ("packing", "without a setting"),
        ("evaluation_strategy", "'eval_steps'"),
    ],
)
def test_the_names_of_other_trainers_lead_to_ours(theirs: str, ours: str) -> None:
    with pytest.raises(UsageError, match=f"unknown key '{theirs}'.*{ours}"):
        validate(TrainSettings, {theirs: 1}, where="step 'train'")


def test_adapter_settings_of_a_full_training_are_said() -> None:
    assert "lora_r will not be used" in TrainSettings(lora_r=64).unused_lora()
    assert TrainSettings(lora_r=64, tuning="lora").unused_lora() == TrainSettings().unused_lora() == ""


def test_settings_need_no_torch() -> None:
    code = (
        "import sys, lcx.training.settings; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_from_a_command_line() -> None:
    values = {
        "report_to": "wandb, tensorboard",
        "lora_targets": "q_proj",
        "batch": "64",
        "learning_rate": "1e-4",
    }
    found = validate(TrainSettings, values, where="train")
    assert isinstance(found, TrainSettings)
    assert found.report_to == ("wandb", "tensorboard")
    assert found.lora_targets == ("q_proj",)
    assert found.batch == 64
    assert TrainSettings(report_to="none").report_to == ()
    with pytest.raises(UsageError, match="learning_rate"):
        validate(TrainSettings, {"learning_rat": 1}, where="train")
    with pytest.raises(UsageError, match="0 steps"):
        validate(TrainSettings, {"max_steps": 0}, where="train")


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "mean", "shape"),
    [
        (128, 1, 1, 1.0, (1, 128, 128)),
        (128, 1, 1, 8.0, (1, 16, 16)),
        (128, 16, 1, 8.0, (16, 1, 16)),
        (128, 32, 1, 8.0, (16, 1, 16)),
        (128, 2, 4, 8.0, (2, 2, 16)),
        (128, 4, 4, 8.0, (4, 1, 16)),
        (128, 1, 1, 3.0, (1, 43, 43)),
        (1, 1, 1, 8.0, (1, 1, 1)),
        (8, 1, 4, 8.0, (1, 1, 4)),
    ],
)
def test_step_shape(batch: int, micro: int, processes: int, mean: float, shape: tuple[int, int, int]) -> None:
    assert step_shape(batch, micro, processes, mean) == shape


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9), st.floats(1, 20))
def test_steps_are_full_passes_near_the_batch(batch: int, micro: int, processes: int, mean: float) -> None:
    shape = step_shape(batch, micro, processes, mean)
    assert shape.bundles == shape.micro * shape.passes * processes
    assert 1 <= shape.micro <= micro
    wanted = max(1, round(batch / mean))
    assert shape.bundles == processes or abs(shape.bundles - wanted) <= shape.micro * processes / 2


def test_epochs_are_permutations_that_fillers_do_not_change() -> None:
    epoch = 0
    order = EpochOrder(10, 10, 3, lambda: epoch)
    first = list(order)
    assert sorted(first) == list(range(10))
    assert list(EpochOrder(10, 12, 3, lambda: 0)) == [*first, 10, 11]
    longest = EpochOrder(10, 12, 3, lambda: epoch, [7, 2])
    assert list(longest) == [7, 2, *(place for place in first if place not in (7, 2)), 10, 11]
    epoch = 1
    assert list(order) != first
    assert [number - 12 for number in longest][:10] == [number - 10 for number in order]
    assert list(EpochOrder(10, 10, 4, lambda: 0)) != first


def test_fillers_weigh_nothing() -> None:
    bundle = EncodedBundle("a", np.arange(3, 8), (EncodedBranch([4, 5, 6], 1), EncodedBranch([7], 0)))
    batch = collate([Item(bundle, 1.0), Item(bundle, 0.0)])
    assert batch["weights"].tolist() == [1, 1, 0, 0]
    assert (batch["branches"], batch["answer_tokens"]) == (2, 3)
    assert batch["input_ids"].shape == batch["position_ids"].shape == (1, 20)
    assert batch["bundle"].tolist() == [0, 0, 1, 1]


class Letters:
    """An encoder of one token a letter."""

    def encode(self, bundle: Bundle) -> EncodedBundle:
        branches = tuple(
            EncodedBranch([ord(c) for c in b.question + b.answer], len(b.question)) for b in bundle.branches
        )
        return EncodedBundle(bundle.id, np.array([ord(c) for c in bundle.context or "?"]), branches)


def test_encoding_on_access_and_length_policies() -> None:
    bundles = [Bundle(str(n), (Branch("q", "an"), Branch("qq", "a")), context="x" * n) for n in (4, 9, 6)]
    dataset = EncodedDataset(bundles, Letters())
    assert len(dataset) == 3
    assert len(dataset[1].prefix) == 9
    assert [b.id for b in dataset[:2]] == ["4", "9"]
    dropped = fit_all(dataset, window=10, policy="drop")
    assert [b.id for b in dropped] == ["4", "6"]
    assert dropped.branches == [2, 2]
    cut = fit_all(dataset, window=100, max_tokens=10, policy="truncate-middle")
    assert [len(b.prefix) for b in cut] == [4, 7, 6]
    assert cut.answer_lengths == {1, 2}


def test_span_counts_positions() -> None:
    branches = (EncodedBranch([1, 2], 0), EncodedBranch([1, 2, 3], 0))
    assert span(EncodedBundle("a", np.arange(5), branches)) == 8
    assert span(EncodedBundle("a", np.arange(5), branches, np.array([0, 1, 5, 6, 40]))) == 44


@settings(deadline=None)
@given(st.floats(0, 0.99) | st.integers(1, 300), st.integers(1, 200), st.sampled_from(["cosine", "linear"]))
def test_every_step_has_a_rate_and_behind_the_warm_up_it_is_transformers(
    warmup: float, steps: int, schedule: str
) -> None:
    warm = warmup_steps(warmup, steps)
    assert 0 <= warm < steps
    rates = [rate_factor(step, steps, warm, schedule) for step in range(steps)]
    assert min(rates) > 0
    assert max(rates) == rates[warm] == 1.0, "a step is left to train at the peak"
    assert rates[:warm] == sorted(rates[:warm])
    import torch
    from transformers import get_scheduler

    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = get_scheduler(schedule, torch.optim.SGD([weight], lr=1.0), warm, steps).lr_lambdas[0]
    assert rates[warm:] == pytest.approx([theirs(step) for step in range(warm, steps)])


@pytest.mark.parametrize(
    ("warmup", "steps", "warm"), [(0.03, 1, 0), (0.03, 2, 1), (0.05, 60, 3), (100, 10, 9), (4, 9, 4)]
)
def test_warm_up_in_steps(warmup: float, steps: int, warm: int) -> None:
    assert warmup_steps(warmup, steps) == warm
