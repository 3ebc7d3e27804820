"""Strategies on real GPUs: FSDP and ZeRO with all weights, adapters and 4-bit weights. Needs two GPUs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lcx.modeling.load import load_model
from tests.training.launch_runs import Start, losses, prepare, worst

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")
STRATEGIES = [
    ("ddp",),
    ("fsdp",),
    pytest.param(("zero2",), marks=deepspeed),
    pytest.param(("zero3",), marks=deepspeed),
]
OFFLOADS = [
    ("fsdp", "--offload", "cpu"),
    pytest.param(("zero2", "--offload", "cpu"), marks=deepspeed),
    pytest.param(("zero3", "--offload", "cpu"), marks=deepspeed),
]


@pytest.fixture(scope="module")
def begun(lcx_program: str, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return prepare(lcx_program, tmp_path_factory.mktemp("begun"))


@pytest.mark.parametrize("strategy", [*STRATEGIES, *OFFLOADS])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_weights(begun: Start, tmp_path: Path, strategy: tuple[str, ...], precision: str) -> None:
    settings = {"precision": precision, "epochs": "2", "optimizer": "adamw_torch"}
    one = begun.train(tmp_path / "one", "--device", "cuda:0", **settings)
    assert one.returncode == 0, one.stderr
    two = begun.train(tmp_path / "two", "--gpus", "2", "--strategy", *strategy, "--json", **settings)
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["state"] == "done"
    exact = precision == "fp32"
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4 if exact else 5e-2)
    if exact:
        assert worst(tmp_path / "two", tmp_path / "one") < 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_adapters(begun: Start, tmp_path: Path, strategy: tuple[str, ...], tuning: str) -> None:
    settings = {"tuning": tuning, "lora_r": "4", "epochs": "2", "gradient_checkpointing": "true"}
    one = begun.train(tmp_path / "one", "--device", "cuda:0", **settings)
    assert one.returncode == 0, one.stderr
    two = begun.train(tmp_path / "two", "--gpus", "2", "--strategy", *strategy, **settings)
    assert two.returncode == 0, two.stderr
    assert losses(tmp_path / "two")[0] == pytest.approx(losses(tmp_path / "one")[0], rel=2e-2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.1)
    assert (tmp_path / "two/train/model/adapter_model.safetensors").is_file()
    load_model(tmp_path / "two/train/model", device="cpu")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("tuning", ["full", "qlora"])
def test_checkpoints_resume(begun: Start, tmp_path: Path, strategy: tuple[str, ...], tuning: str) -> None:
    words = ("--gpus", "2", "--strategy", *strategy)
    settings = {"tuning": tuning, "lora_r": "4", "schedule": "constant", "warmup": "0", "precision": "bf16"}
    whole = begun.train(tmp_path / "whole", *words, max_steps="8", **settings)
    assert whole.returncode == 0, whole.stderr
    half = begun.train(tmp_path / "half", *words, max_steps="4", keep_checkpoints="true", **settings)
    assert half.returncode == 0, half.stderr
    manifest = tmp_path / "half/manifest.json"  # as if it had been killed after step 4 of 8
    record = json.loads(manifest.read_text())
    record["steps"]["train"]["state"] = "interrupted"
    record["steps"]["train"]["fingerprint"]["settings"]["max_steps"] = 8
    manifest.write_text(json.dumps(record))
    rest = begun.train(tmp_path / "half", *words, max_steps="8", **settings)
    assert rest.returncode == 0, rest.stderr
    assert "resumed at step 4" in rest.stderr
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "whole"), rel=2e-2)
