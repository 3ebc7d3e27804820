"""The group of processes that train together: meeting, waiting for each other, and parting."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from accelerate import PartialState

from lcx.context import Context
from lcx.modeling.load import pick_device
from lcx.training.launch.sharding import allow_fsdp_on_cpu, strategy

STEP_TIMEOUT = timedelta(minutes=30)
"""How long one exchange between processes may take in training; transformers' own value."""
WAIT_TIMEOUT = timedelta(days=1)
"""How long processes wait for the first one, which may be building a token store."""


def join(ctx: Context) -> None:
    """Meet the other processes; from then on `ctx.wait` waits for all of them.

    The group has to be there before a model is loaded: only then does transformers let one process read the
    weights and the others wait for their parts.
    """
    cpu = pick_device(ctx.device).type == "cpu"
    if cpu and strategy() == "fsdp":
        allow_fsdp_on_cpu()
    # accelerate meets as its config says; what follows finds the group there
    PartialState(cpu=cpu, timeout=STEP_TIMEOUT)
    waiting = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)

    def wait() -> None:
        dist.barrier(waiting)

    ctx.wait = wait


def part(ctx: Context) -> None:
    """Wait for the others once more, and leave the group: a process that just ended could abort in its exit."""
    ctx.wait()
    ctx.wait = Context.wait
    dist.destroy_process_group()
