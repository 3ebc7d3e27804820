"""What autograd keeps of one decoder layer, and what its backward pass holds besides. Bytes throughout.

Read off PyTorch's graph of transformers' Llama: `saved` is alive from the layer's forward to its backward pass.
`c` are the bytes of a number in the computation, `r` in the residual stream (and behind the norms). Under
autocast every linear layer makes a copy of its own of an input in another precision; LoRA's does so always,
by way of fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcx.forecast.plans import Plan
from lcx.forecast.shapes import Linear
from lcx.forecast.states import low_weights

ATTENTION_INPUTS = {"q_proj", "k_proj", "v_proj", "qkv_proj"}
MLP_INPUTS = {"gate_proj", "up_proj", "gate_up_proj", "c_fc"}


@dataclass(frozen=True)
class LayerMemory:
    """One layer's bytes: `saved` for the backward pass (keys and values of it in `keys`, copies of weights in
    `casts`), the most that its backward pass adds on top (`backward`), its input, and its
    trained parameters.
    """

    saved: int
    keys: int
    casts: int
    backward: int
    input: int
    trained: int


def layer_memory(plan: Plan) -> LayerMemory:
    """The bytes of one layer under a plan."""
    saved = _norms(plan) + _attention(plan) + _mlp(plan)
    casts = _casts(plan)
    trained = plan.shape.layer_linear + plan.shape.layer_rest if plan.tuning == "full" else plan.layer_adapter
    return LayerMemory(
        saved=saved + casts,
        keys=_keys(plan),
        casts=casts,
        backward=_backward(plan),
        input=plan.row.tokens * plan.shape.hidden * plan.residual,
        trained=trained,
    )


def norm_saved(plan: Plan, width: int, bytes_in: int) -> int:
    """An RMS norm over rows of `width`: its input in fp32, 1/rms, and the normed rows if its weight is trained."""
    normed = bytes_in if plan.tuning == "full" else 0
    return plan.row.tokens * width * (4 + normed)


def _norms(plan: Plan) -> int:
    shape, n = plan.shape, plan.row.tokens
    found = shape.norms * (norm_saved(plan, shape.hidden, plan.residual) + 4 * n)
    if shape.qk_norm:
        heads = shape.heads + shape.kv_heads if shape.qk_norm == "head" else 2
        found += norm_saved(plan, shape.query + shape.key, _outputs(plan)) + 4 * n * heads
    return found


def _outputs(plan: Plan) -> int:
    """Bytes of a number that a linear layer behind a norm puts out: bitsandbytes' gives its input's type."""
    return plan.residual if plan.tuning == "qlora" else plan.compute


def _inputs(plan: Plan, names: set[str], bytes_in: int) -> int:
    """Bytes a token kept as inputs of the linear layers of these names, which read one tensor together."""
    c, shape = plan.compute, plan.shape
    mine = [one for one in shape.linears() if one.name in names]
    if plan.tuning == "full":
        copies = len(mine) if bytes_in != c else 1
        return copies * mine[0].inputs * c
    adapted = [one for one in mine if one in plan.adapted]
    if not adapted:
        return 0
    copies = len(adapted) if c != 4 else 1
    return copies * mine[0].inputs * c + sum(plan.lora_r * c for _ in adapted)


def _attention(plan: Plan) -> int:
    shape, c, n = plan.shape, plan.compute, plan.row.tokens
    inputs = _inputs(plan, ATTENTION_INPUTS, plan.residual) + _inputs(plan, {"o_proj"}, c)
    own = 2 * shape.query * c + 4 * shape.heads  # queries, what attention put out, its log-sum-exp
    return n * (inputs + own) + _keys(plan)


def _keys(plan: Plan) -> int:
    """Keys and values; flash-attn's kernels are handed (and keep) a copy of the prefix's for every branch."""
    tokens = plan.row.tokens
    if plan.kernels == "flash" and plan.engine == "shared-prefix":
        tokens += plan.row.copies
    return tokens * 2 * plan.shape.key * plan.compute


def _mlp(plan: Plan) -> int:
    shape, n, m = plan.shape, plan.row.tokens, plan.shape.intermediate
    inner = _outputs(plan)
    last = shape.linears()[-1]
    inputs = _inputs(plan, MLP_INPUTS, plan.residual) + _inputs(plan, {last.name}, inner)
    kept = 3 if shape.gated else 1  # gate, its activation, up: what the product and the activation need
    return n * (inputs + kept * m * inner)


def _casts(plan: Plan) -> int:
    """Low-precision copies of trained fp32 weights, kept by autograd where autocast made them."""
    if plan.compute == 4 or low_weights(plan):
        return 0
    weights = plan.shape.layer_linear if plan.tuning == "full" else plan.layer_adapter
    return weights * plan.compute


def no_grad_layer(plan: Plan) -> int:
    """A layer's forward pass that keeps nothing: the residual stream, and the MLP's factors."""
    shape = plan.shape
    return plan.row.tokens * (3 * shape.hidden * plan.residual + 3 * shape.intermediate * _outputs(plan))


def _backward(plan: Plan) -> int:
    """Most that is alive beside `saved` while a layer runs backward: around the MLP, its widest part.

    First the gradient of the down projection's input, by way of fp32 for an adapter; then those of both
    factors of the product. The gradient of the residual stream is there all along.
    """
    shape, c, n = plan.shape, plan.compute, plan.row.tokens
    inner = _outputs(plan)
    wide = n * shape.intermediate
    down = shape.linears()[-1]
    first = wide * c
    if down in plan.adapted:
        first = wide * (inner + 4)
        if plan.residual == 2 and plan.checkpointing:  # reached while the layer is computed again
            first += 4 * n * shape.hidden * plan.residual
    freed = n * _inputs(plan, {down.name}, inner)
    second = wide * inner * (3 if shape.gated else 2) - freed
    stream = n * shape.hidden * (plan.residual + (c if plan.residual != c else 0))
    return stream + max(first, second, 0) + _weight_work(plan, down)


def _weight_work(plan: Plan, down: Linear) -> int:
    """A gradient before it is added up, or a 4-bit matrix while it is unpacked."""
    if plan.tuning == "full":
        return down.weights * (4 + (plan.compute if plan.compute != 4 else 0))
    return down.weights * plan.compute if plan.tuning == "qlora" else 0
