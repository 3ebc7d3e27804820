"""Memory of a training step on one GPU (or of one process on the CPU): the highest of its moments.

A step's moments differ in what is alive: at the head all activations wait for the backward pass; in the
backward pass they go layer by layer while gradients come; the optimizer has gradients and states, and no
activations. Calibrated against PyTorch's own count of live bytes, which it meets within a few per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from lcx.forecast import states
from lcx.forecast.layers import LayerMemory, layer_memory, no_grad_layer, norm_saved
from lcx.forecast.plans import Plan

TILE_BYTES = 128 << 20
"""Most fp32 bytes of the logits that the shared-prefix engine's head holds at a time."""
TILE_ROWS = 1024
"""Rows of logits that are turned to fp32 at a time."""
SCALED_HEAD = {"granite"}
"""Model types whose logits are scaled behind the head, and therefore made whole."""
CONTEXT_BYTES = 600 << 20
"""CUDA's own memory in a process, its libraries' kernels included."""
BLAS_BYTES = 40 << 20
"""Working memory of cuBLAS."""
FRAGMENTS = 0.05
"""Share of the tensors that a GPU's allocator loses to gaps."""
PROCESS_BYTES = 5 << 20
"""What a process on the CPU needs beside tensors once everything is imported."""


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose at the highest moment of a step, which `moment` names.

    `activations` wait for the backward pass, `keys` are the keys and values among them, `work` lives within a
    layer's backward pass or an optimizer's step, `exchange` is between GPUs, `workspace` is no tensor's.
    """

    weights: int = 0
    adapters: int = 0
    reference: int = 0
    optimizer: int = 0
    gradients: int = 0
    activations: int = 0
    keys: int = 0
    logits: int = 0
    work: int = 0
    exchange: int = 0
    workspace: int = 0
    moment: str = ""

    @property
    def total(self) -> int:
        """All bytes."""
        return self.tensors + self.workspace

    @property
    def tensors(self) -> int:
        """All but what libraries and the allocator hold for themselves: torch's peak of allocated bytes."""
        return sum(getattr(self, name) for name in PARTS) - self.workspace


PARTS = tuple(field.name for field in fields(Memory) if field.name != "moment")


def step_memory(plan: Plan) -> Memory:
    """The highest moment of an optimizer step after the first, when all states are there."""
    highest = max(moments(plan), key=lambda memory: memory.tensors)
    if plan.device == "cpu":
        return replace(highest, workspace=PROCESS_BYTES)
    return replace(highest, workspace=CONTEXT_BYTES + BLAS_BYTES + int(FRAGMENTS * highest.tensors))


def moments(plan: Plan) -> Iterator[Memory]:
    """The moments of a step that can be its highest."""
    layer, last = layer_memory(plan), plan.shape.layers
    base = Memory(
        weights=states.weights(plan),
        adapters=states.adapters(plan),
        reference=states.reference(plan),
        optimizer=states.optimizer(plan),
        exchange=states.exchange(plan),
    )
    everything = states.gradients(plan, plan.trained)
    before = everything if plan.passes > 1 else 0  # what earlier passes of the step have summed up
    head = head_memory(plan)
    stack = _stack(plan, layer, last, head=True)
    casts = last * layer.casts if plan.checkpointing else 0  # autocast's own, until the forward pass ends
    yield replace(
        base,
        gradients=before,
        **stack,
        logits=head.forward,
        work=casts,
        moment="the head, forward",
    )
    yield replace(base, gradients=before, **stack, logits=head.backward, moment="the head, backward")
    for at, name in ((last, "the last layer, backward"), (1, "the first layer, backward")):
        done = states.gradients(plan, head.trained + (last - at) * layer.trained)
        yield replace(
            base,
            gradients=before or done,
            **_stack(plan, layer, at),
            work=layer.backward,
            moment=name,
        )
    yield replace(base, gradients=everything, work=states.optimizer_work(plan), moment="the optimizer's step")
    if plan.reference in ("adapter", "model"):
        logits = whole_logits(plan) if plan.reference == "model" else head.forward
        yield replace(
            base,
            gradients=before,
            activations=_tables(plan) + no_grad_layer(plan),
            logits=logits,
            moment="the reference, forward",
        )


def _stack(plan: Plan, layer: LayerMemory, at: int, head: bool = False) -> dict[str, int]:
    """Activations while layer `at` runs backward, or the head over all of them."""
    rest = _tables(plan) + (norm_saved(plan, plan.shape.hidden, plan.residual) if head else 0)
    if not plan.checkpointing:
        return {"activations": rest + at * (layer.saved - layer.keys), "keys": at * layer.keys}
    inputs = at * layer.input
    if head:
        return {"activations": rest + inputs}
    again = layer.saved - layer.keys
    if plan.residual == 4:  # the recomputed layer's first norm keeps the very tensor that was its input
        again -= layer.input
    return {"activations": rest + inputs + again, "keys": layer.keys}


def _tables(plan: Plan) -> int:
    """Rotary tables of the row, its token ids, positions and places."""
    return plan.row.tokens * (2 * plan.shape.head_dim * plan.residual + 3 * 8)


@dataclass(frozen=True)
class HeadMemory:
    """Bytes that the output head adds in its forward and backward pass, and its trained parameters."""

    forward: int
    backward: int
    trained: int


def head_memory(plan: Plan) -> HeadMemory:
    """The head over the answer tokens: logits of one tile, their gradient, and a part of them in fp32."""
    shape, t, c = plan.shape, plan.row.targets, plan.compute
    full = plan.tuning == "full"
    tile = t if shape.kind in SCALED_HEAD else min(t, max(1, TILE_BYTES // (4 * shape.vocab)))
    logits = tile * shape.vocab * c
    part = (
        4 * min(tile, TILE_ROWS) * shape.vocab * (1 if c == 4 else 2)
    )  # fp32 numbers, and a copy to get them
    inputs = t * shape.hidden * c
    # a low-precision copy of fp32 weights; LoRA's frozen ones are low already
    cast = 0 if c == 4 or plan.tuning == "lora" or states.low_weights(plan) else c * shape.embedding
    summed = 4 * shape.embedding if full and tile < t else 0  # of earlier tiles, for the head's weights
    own = (4 + (c if c != 4 else 0)) * shape.embedding if full else 0
    return HeadMemory(
        forward=inputs + cast + logits + part,
        backward=inputs + cast + summed + max(2 * logits + part, logits + own),
        trained=shape.embedding if full else 0,
    )


def whole_logits(plan: Plan) -> int:
    """Logits of all answer tokens at once, as another model than the trained one gives them."""
    part = 4 * min(plan.row.targets, TILE_ROWS) * plan.shape.vocab
    return plan.row.targets * plan.shape.vocab * plan.compute + 2 * part


def largest_context(plan_of: Callable[[int], Plan], capacity: float, limit: int = 1 << 24) -> int:
    """Most context tokens whose step stays within `capacity` bytes, 0 where none does."""

    def fits(context: int) -> bool:
        return step_memory(plan_of(context)).total <= capacity

    if not fits(2):
        return 0
    low, high = 2, 4
    while high < limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
