"""FSDP in a group of one process: precision of what it returns, and 4-bit weights that keep their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lcx.errors import LcxError
from lcx.training import sharding


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def four_bit(storage: torch.dtype) -> Any:
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    layers = [
        Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=storage, quant_storage=storage)
        for _ in range(2)
    ]
    return torch.nn.Sequential(*layers).to("cpu")


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
def test_4_bit_weights_that_are_cut_up_keep_their_bytes(group: None, storage: torch.dtype) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = four_bit(storage)
    marks = sharding.bits(model)
    assert sorted(marks) == ["0", "1"]
    row = torch.randn(3, 64, dtype=storage)
    before = model(row)
    for layer in model:
        fully_shard(layer, mp_policy=MixedPrecisionPolicy(param_dtype=storage))
    fully_shard(model)
    assert hasattr(model[0].weight, "device_mesh"), "FSDP left the weight whole"
    sharding.BitsKept(marks).on_train_begin(None, None, None, model=model)
    assert torch.allclose(model(row), before)


def test_4_bit_weights_that_change_are_an_error(group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = four_bit(torch.float32)
    marks = sharding.bits(model)
    fully_shard(model)
    with pytest.raises(LcxError, match="changed the 4-bit weights") as bad:
        sharding.BitsKept({**marks, "1": "other"}).on_train_begin(None, None, None, model=model)
    assert "First in 1." in bad.value.why
    with pytest.raises(LcxError, match="lost 4-bit weights"):
        sharding.BitsKept({**marks, "2": "more"}).on_train_begin(None, None, None, model=model)


def test_other_storage_than_the_computations_is_changed_by_fsdp(group: None) -> None:
    """Why the storage follows the precision: FSDP casts what it gathers, and these numbers are none."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = four_bit(torch.float32)
    marks = sharding.bits(model)
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with pytest.raises(LcxError, match="changed the 4-bit weights"):
        sharding.BitsKept(marks).on_train_begin(None, None, None, model=model)


def test_results_are_not_rounded() -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    rounding = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    plugin = SimpleNamespace(mixed_precision_policy=rounding)
    state = SimpleNamespace(fsdp_plugin=plugin)
    sharding.prepare(SimpleNamespace(accelerator=SimpleNamespace(state=state), model=torch.nn.Linear(1, 1)))
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (
        torch.bfloat16,
        torch.float32,
        None,
    )


def test_the_strategy_by_accelerates_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert sharding.strategy() == ""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sharding.strategy() == "ddp"
    assert not sharding.cuts_weights()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding.strategy() == "fsdp"
    assert sharding.cuts_weights()


def test_a_model_is_loaded_whole_whatever_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import deepspeed, is_deepspeed_zero3_enabled

    class Config:
        def is_zero3(self) -> bool:
            return True

    held = Config()
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    deepspeed.set_hf_deepspeed_config(held)
    try:
        with sharding.whole():
            import os

            assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
            assert not is_deepspeed_zero3_enabled()
        assert is_deepspeed_zero3_enabled()
        assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
    finally:
        deepspeed.unset_hf_deepspeed_config()
