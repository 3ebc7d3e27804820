"""Floating-point operations of a training step: a multiplication and an addition are two.

A matrix of in x out weights costs 2 in out a token forward, as much again for the gradient of its input, and as
much for that of its weights where they are trained. Attention costs 4 D a query head and query-key pair forward
(scores and values) and twice that backward. `model` counts these; `hardware` adds what is computed again: scores
in a flash kernel's backward pass, and the layers under gradient checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcx.forecast.memory import SCALED_HEAD, TILE_BYTES
from lcx.forecast.plans import Plan


@dataclass(frozen=True)
class Flops:
    """Operations of one optimizer step over all GPUs, and the tokens that they process."""

    model: int
    hardware: int
    tokens: int

    def seconds(self, gpus: int, tflops: float, utilisation: float) -> float:
        """Time of a step at a share (MFU) of the peak of so many cards."""
        return self.model / (gpus * tflops * 1e12 * utilisation)


def step_flops(plan: Plan) -> Flops:
    """Operations of an optimizer step, reference passes included."""
    shape, row = plan.shape, plan.row
    full = plan.tuning == "full"
    frozen = 2 * row.tokens * shape.layers * shape.layer_linear
    adapter = 2 * row.tokens * shape.layers * plan.layer_adapter
    attention = 4 * row.pairs * shape.query * shape.layers
    head = 2 * row.targets * shape.embedding
    forward = frozen + adapter + attention + head
    weights = frozen + head if full else 0
    backward = frozen + head + weights + 2 * adapter + 2 * attention
    model = forward + backward
    again = attention // 2  # the scores, one of the two products
    if plan.checkpointing:
        again += frozen + adapter + attention
        last = shape.linears()[-1]
        if last not in plan.adapted:  # recomputing stops where nothing more is needed: before the last matrix
            again -= 2 * row.tokens * shape.layers * last.weights
    if plan.engine == "shared-prefix" and _tiled(plan):
        again += head
    reference = frozen + attention + head if plan.reference in ("adapter", "model") else 0
    passes = plan.passes * plan.gpus
    return Flops(
        model=passes * (model + reference),
        hardware=passes * (model + reference + again),
        tokens=passes * row.tokens,
    )


def _tiled(plan: Plan) -> bool:
    """Whether the answers' logits take more than one tile, and are therefore computed again."""
    return plan.shape.kind not in SCALED_HEAD and plan.row.targets * 4 * plan.shape.vocab > TILE_BYTES
