"""The forecast against memory that training really takes: resident memory of a process, and tensors alive."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.memory_cases import forecast_of, save_model, trainer_of

ROOT = Path(__file__).parents[2]
PLAIN = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""glibc gives freed blocks back at once. By default it keeps those under 32 MiB, between which gaps are left:
resident memory is then 1.2 to 3 times what a small model needs, differently in every run."""
QUICK = [
    {"shape": "square", "context": 768},
    {"shape": "deep", "context": 512, "branches": 3, "loss": "logo"},
    {"shape": "wide", "context": 512, "tuning": "lora", "checkpointing": True, "answer": 720, "steps": 1},
]
WAYS = [
    {},
    {"checkpointing": True},
    {"branches": 3, "loss": "logo"},
    {"branches": 3, "loss": "logo", "checkpointing": True},
    {"tuning": "lora", "steps": 1},
    {"tuning": "lora", "checkpointing": True, "branches": 3, "loss": "logo", "steps": 1},
]
LARGE = [
    {"shape": "large", "context": 8600, "steps": 1, "tuning": "lora"},
    {"shape": "flat", "context": 4400, "checkpointing": True},
    {"shape": "broad", "context": 8300, "branches": 3, "loss": "logo"},
]
"""Activations of 32 MiB and more, which glibc never keeps."""
ALIVE: list[dict[str, Any]] = [
    {},
    {"branches": 3},
    {"branches": 3, "micro": 2, "checkpointing": True},
    {"passes": 2},
    {"precision": "bf16"},
    {"precision": "bf16", "checkpointing": True},
    {"precision": "bf16", "checkpointing": True, "passes": 2},
    {"tuning": "lora"},
    {"tuning": "lora", "settings": {"lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}},
    {"tuning": "lora", "precision": "bf16", "checkpointing": True},
    {"tuning": "qlora", "precision": "bf16"},
    {"tuning": "qlora", "precision": "bf16", "checkpointing": True},
    {"settings": {"optimizer": "sgd"}},
    {"loss": "logo", "branches": 4, "checkpointing": True},
    {"loss": "dpo", "branches": 2, "reference": "model"},
    {"loss": "dpo", "branches": 2, "tuning": "lora", "reference": "adapter"},
]

FEW: list[dict[str, Any]] = [{"precision": "bf16", "checkpointing": True}, {"tuning": "lora"}]
"""The ways that the quick tier sees; the rest of ALIVE is slow."""


def processes(cases: list[dict[str, Any]], folder: Path, environment: dict[str, str]) -> list[int]:
    """Peak resident memory of each case's training, above the process after imports."""
    for shape in {"small", *(case["shape"] for case in cases)}:
        save_model(shape, folder / shape)
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.memory_cases", str(folder)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.strip().splitlines()[-1]))


def assert_near(cases: list[dict[str, Any]], peaks: list[int]) -> None:
    for case, peak in zip(cases, peaks, strict=True):
        expected = forecast_of(case)
        print(case, f"{peak / 1e6:.1f} MB measured, {expected.total / 1e6:.1f} forecast, {expected.moment}")
    for case, peak in zip(cases, peaks, strict=True):
        assert forecast_of(case).total == pytest.approx(peak, rel=0.15), case


@pytest.mark.nightly  # tensors alive are counted in the slow tier
def test_resident_memory_is_within_15_per_cent(tmp_path: Path) -> None:
    assert_near(QUICK, processes(QUICK, tmp_path, PLAIN))


@pytest.mark.nightly
@pytest.mark.parametrize("shape", ["square", "deep", "wide"])
def test_resident_memory_at_4096_tokens(shape: str, tmp_path: Path) -> None:
    cases = [{"shape": shape, "context": 4096, "answer": 128, **way} for way in WAYS]
    assert_near(cases, processes(cases, tmp_path, PLAIN))


@pytest.mark.nightly
def test_resident_memory_of_large_activations_with_the_default_allocator(tmp_path: Path) -> None:
    assert_near(LARGE, processes(LARGE, tmp_path, {}))


def held() -> int:
    """Bytes behind all tensors of this process."""
    gc.collect()
    storages = {
        thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
        for thing in gc.get_objects()
        if isinstance(thing, torch.Tensor)
    }
    return sum(storages.values())


def alive(case: dict[str, Any], folder: Path, out: Path) -> int:
    """Most bytes of tensors alive at once in a case's training, as PyTorch's profiler saw them come and go."""
    from torch.profiler import ProfilerActivity, profile

    from lcx.modeling.load import quiet

    with quiet():
        before = held()
        trainer = trainer_of(case, folder, out)
        now = peak = held() - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            trainer.train()
    events = [
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
        if event.name() == "[memory]"
    ]
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        peak = max(peak, now)
    return peak


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("small", tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in FEW else [pytest.mark.slow]) for case in ALIVE],
    ids=lambda case: "-".join(map(str, case.values())) or "full",
)
def test_tensors_alive_are_within_5_per_cent(case: dict[str, Any], small: Path, tmp_path: Path) -> None:
    case = {"shape": "small", "context": 640, "answer": 48, **case}
    assert forecast_of(case).tensors == pytest.approx(alive(case, small, tmp_path), rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", ["square", "wide", "large"])
@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_allocated_memory_of_a_gpu_is_within_15_per_cent(
    shape: str, tuning: str, checkpointing: bool, tmp_path: Path
) -> None:
    from lcx.modeling.load import quiet

    case = {
        "shape": shape,
        "tuning": tuning,
        "checkpointing": checkpointing,
        "context": 16384,
        "answer": 256,
        "branches": 3,
        "loss": "logo",
        "precision": "bf16",
        "device": "cuda",
    }
    folder = save_model(shape, tmp_path / "model")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with quiet():
        trainer = trainer_of(case, folder, tmp_path / "out")
        trainer.train()
    peak = torch.cuda.max_memory_allocated() - before
    del trainer
    assert forecast_of(case).tensors == pytest.approx(peak, rel=0.15)
