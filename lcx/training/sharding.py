"""What weights that are cut up over processes need: FSDP2 and DeepSpeed ZeRO, by the variables that accelerate sets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from lcx.errors import LcxError, UsageError

NAMES = {"ddp": "one process or ddp"}
OPTIMIZER_PARTS = "*_optim_states.pt"
"""Files of a DeepSpeed checkpoint, one a process."""


def strategy() -> str:
    """ddp, fsdp, zero1, zero2 or zero3 for this process; "" where it is alone."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "fsdp"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return f"zero{_zero_stage()}"
    return "ddp" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""


def _zero_stage() -> int:
    from accelerate.utils import DeepSpeedPlugin

    return int(DeepSpeedPlugin().deepspeed_config["zero_optimization"]["stage"])


def cuts_weights() -> bool:
    """True if the frozen weights too are cut up over processes."""
    return strategy() in ("fsdp", "zero3")


def allow_fsdp_on_cpu() -> None:
    """Let accelerate use FSDP on the CPU, where it would train with whole weights and not say so."""
    from accelerate import state
    from accelerate.utils import DistributedType

    if getattr(state.AcceleratorState, "_lcx_fsdp", False):
        return
    plain = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = plugin
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = init  # type: ignore[method-assign]
    state.AcceleratorState._lcx_fsdp = True  # type: ignore[attr-defined]


@contextmanager
def loading(precision: str, *, at_once: bool = True) -> Iterator[None]:
    """The time in which weights are read, which ZeRO-3 cuts up while they come.

    Without `at_once` it does so when training begins: 4-bit weights have to be made first, and copies of
    modules that are trained whole would be cut up in another precision than the rest. `precision` is the
    computation's.
    """
    if not at_once or strategy() != "zero3":
        yield
        return
    from accelerate.utils import DeepSpeedPlugin

    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision({"fp32": "no"}.get(precision, precision))
    plugin.set_deepspeed_weakref()  # transformers looks at it as long as the plugin lives
    yield
    del plugin


@contextmanager
def whole() -> Iterator[None]:
    """The time in which a model is loaded that stays whole on every process, whatever the strategy."""
    from transformers.integrations import deepspeed

    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before, held = os.environ.get(name), deepspeed._hf_deepspeed_config_weak_ref
    os.environ[name] = "false"
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def prepare(trainer: Any) -> None:
    """Ready a trainer's FSDP settings: results and gradient sums stay in fp32, 4-bit weights are watched.

    accelerate would round what the model returns to the precision of the computation; here that is the
    log-probabilities of the answers, and sums of them are compared.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = plugin.mixed_precision_policy
    if policy is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )
    marks = bits(trainer.model)
    if marks:
        trainer.add_callback(BitsKept(marks))


def gather(trainer: Any) -> None:
    """Have the next save write the whole model, also where checkpoints are written in parts."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.set_state_dict_type("FULL_STATE_DICT")


def bits(model: Any) -> dict[str, str]:
    """A hash of the bytes of each 4-bit weight, by module name."""
    return {
        name: _hash(module.weight)
        for name, module in model.named_modules()
        if type(getattr(module, "weight", None)).__name__ == "Params4bit"
    }


def _hash(weight: torch.Tensor) -> str:
    # A copy in any case: storage that numpy has looked at cannot be freed by FSDP any more
    data = weight.detach().flatten().view(torch.uint8).to("cpu", copy=True)
    return hashlib.blake2b(data.numpy().tobytes(), digest_size=8).hexdigest()


class BitsKept(TrainerCallback):
    """Proves, before the first step, that cutting up 4-bit weights left their bytes alone.

    They are stored as floats so that FSDP takes them, and a float that happens to look like NaN may be
    rewritten on its way; training would go on with other weights and not say so.
    """

    def __init__(self, marks: dict[str, str]) -> None:
        self.marks = marks

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Gather every part of the model in turn and compare."""
        from torch.distributed.fsdp import FSDPModule

        left = dict(self.marks)
        for part in [module for module in model.modules() if isinstance(module, FSDPModule)][::-1]:
            part.unshard()
            for name, module in model.named_modules():
                if name not in left or hasattr(module.weight, "device_mesh"):
                    continue  # none of ours, or still in parts
                if _hash(module.weight) != left.pop(name):
                    raise LcxError(
                        "FSDP changed the 4-bit weights when it cut them up",
                        why=f"First in {name}.",
                        hint="--strategy zero3, or ddp where the 4-bit model fits one GPU",
                    )
            part.reshard()
        if left:
            raise LcxError("FSDP lost 4-bit weights", why=f"First {next(iter(left))}.")


def saved_by(checkpoint: Path) -> str:
    """The kind of strategy that wrote a checkpoint: fsdp, zero2, zero3, or ddp (one process writes the same)."""
    if any(checkpoint.glob("pytorch_model_fsdp*")):
        return "fsdp"
    parts = list(checkpoint.glob(f"global_step*/{OPTIMIZER_PARTS}"))
    if parts:
        third = any(parts[0].parent.glob("zero_pp_rank_0_mp_rank_*_model_states.pt"))
        return "zero3" if third else "zero2"
    return "ddp"


def check_resume(checkpoint: Path, processes: int) -> None:
    """Raise UsageError where training cannot go on from a checkpoint with this strategy or number of processes."""
    saved, own = saved_by(checkpoint), strategy() or "ddp"
    parts = len(list(checkpoint.glob(f"global_step*/{OPTIMIZER_PARTS}")))
    over = "--force starts training over"
    if saved != own.replace("zero1", "zero2"):
        again = "without --strategy" if saved == "ddp" else f"with --strategy {saved}"
        again += f" --gpus {parts}" if parts else ""
        raise UsageError(
            f"the checkpoint {checkpoint.name} was saved by {NAMES.get(saved, saved)}, and this is "
            f"{NAMES.get(own, own)}",
            why="Each keeps the optimizer's states in a way of its own.",
            hint=f"The same command {again} goes on from it; {over}.",
        )
    if parts and parts != processes:
        raise UsageError(
            f"the checkpoint {checkpoint.name} was saved by {parts} processes, and these are {processes}",
            why="DeepSpeed keeps a part of the optimizer's states for each process.",
            hint=f"--gpus {parts} goes on from it (over all machines); {over}. ddp and fsdp resume on any number.",
        )
