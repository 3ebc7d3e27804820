"""What a training step costs: memory on one GPU (or of one process on the CPU), and floating-point operations.

First what stands in memory through a whole step (weights, gradients, optimizer states, each GPU's share of them: ddp
shares none on N GPUs, zero2 gradients and optimizer, zero3 and fsdp weights too). Then what autograd keeps of one
decoder layer, read off PyTorch's graph of transformers' Llama: `saved` is alive from the layer's forward to its
backward pass; `c` are the bytes of a number in the computation, `r` in the residual stream (and behind the norms).
Under autocast every linear layer makes a copy of its own of an input in another precision; LoRA's does so always, by
way of fp32. Then the moments of a step, which differ in what is alive: at the head all activations wait for the
backward pass; in the backward pass they go layer by layer while gradients come; the optimizer has gradients and states,
and no activations. Calibrated against PyTorch's own count of live bytes, which it meets within a few per cent.

Operations: a multiplication and an addition are two. A matrix of in x out weights costs 2 in out a token forward, as
much again for the gradient of its input, and as much for that of its weights where they are trained. Attention costs
4 D a query head and query-key pair forward (scores and values) and twice that backward. `model` counts these;
`hardware` adds what is computed again: scores in a flash kernel's backward pass, and the layers under gradient
checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

from lcx.forecast.model import Linear, Plan

QUANTIZED_BLOCK, QUANTIZED_NESTED = 64, 256
"""Weights that share a scale in NF4, and scales that share a scale of their own."""
QUANTIZED_TABLES = 4 * (16 + 256 + 1)
"""Bytes of a quantised matrix's code tables and offset."""

STATES: dict[str, float] = {
    "adafactor": 0.1,  # sums of rows and columns only
    "adagrad": 4.0,
    "adalomo": 0.1,
    "ademamix": 12.0,
    "ademamix_8bit": 3.1,
    "adamw_8bit": 2.1,
    "adamw_bnb_8bit": 2.1,
    "adamw_torch_4bit": 1.1,
    "adamw_torch_8bit": 2.1,
    "lion_32bit": 4.0,
    "lion_8bit": 1.05,
    "lomo": 0.0,
    "paged_adamw_8bit": 2.1,
    "paged_ademamix_32bit": 12.0,
    "paged_ademamix_8bit": 3.1,
    "paged_lion_32bit": 4.0,
    "paged_lion_8bit": 1.05,
    "rmsprop": 4.0,
    "rmsprop_bnb": 4.0,
    "rmsprop_bnb_32bit": 4.0,
    "rmsprop_bnb_8bit": 1.05,
    "schedule_free_sgd": 4.0,
    "sgd": 0.0,
}
"""Bytes of state a trained parameter; Adam's 8 (two moments in fp32) for every other optimizer."""
ADAM = 8.0
REDUCED, LIVE = 500_000_000, 1_000_000_000
"""DeepSpeed's defaults: gradients summed up at a time, and gathered weights that ZeRO-3 lets stand."""
LISTWISE = {"adamw_torch", "adagrad", "rmsprop", "sgd"}
"""torch's own optimizers: on a GPU they work on the list of all parameters at once, unless fused."""


def state_bytes(optimizer: str) -> float:
    """Bytes of optimizer state a trained parameter."""
    return STATES.get(optimizer, ADAM)


def sharded(plan: Plan) -> bool:
    """True if every GPU holds a share of the weights only."""
    return plan.strategy in ("fsdp", "zero3")


def low_weights(plan: Plan) -> bool:
    """True if trained weights are computed with in 16 bits without autocast: fsdp and DeepSpeed cast them."""
    return plan.strategy in ("fsdp", "zero2", "zero3") and plan.compute == 2


def deepspeed(plan: Plan) -> bool:
    """True if DeepSpeed runs the step; in 16 bits it keeps an fp32 copy of the trained weights of its own."""
    return plan.strategy in ("zero2", "zero3")


def master(plan: Plan) -> bool:
    """True if the optimizer holds an fp32 copy of the weights."""
    return deepspeed(plan) and plan.compute == 2


def trained_bytes(plan: Plan) -> int:
    """Bytes of a trained weight between steps: fp32, or 16 bits where DeepSpeed keeps the fp32 copy."""
    return plan.compute if master(plan) else 4


def whole_weights(plan: Plan) -> int:
    """Bytes of all base weights, adapters left out, before they are shared out."""
    shape = plan.shape
    if plan.tuning == "full":
        return trained_bytes(plan) * shape.parameters
    if plan.tuning == "lora":
        return plan.compute * shape.parameters
    return quantized_weights(plan)


def quantized_weights(plan: Plan) -> int:
    """A 4-bit model: the layers' matrices in NF4; embeddings, norms and head in fp32."""
    shape = plan.shape
    layer = sum(nf4_bytes(one.weights) for one in shape.linears())
    return shape.layers * layer + 4 * (shape.parameters - shape.layers * shape.layer_linear)


def nf4_bytes(weights: int) -> int:
    """A matrix in NF4 with doubly quantised scales: 4 bits a weight, 8 a block, fp32 a block of blocks."""
    blocks = -(-weights // QUANTIZED_BLOCK)
    return -(-weights // 2) + blocks + 4 * -(-blocks // QUANTIZED_NESTED) + QUANTIZED_TABLES


def weight_bytes(plan: Plan) -> int:
    """Bytes of base weights on each GPU between forward passes."""
    if not sharded(plan):
        return whole_weights(plan)
    return 0 if plan.offload else whole_weights(plan) // plan.gpus


def adapter_bytes(plan: Plan) -> int:
    """Bytes of adapter weights on each GPU."""
    whole = trained_bytes(plan) * plan.adapter
    if not sharded(plan):
        return whole
    return 0 if plan.offload else whole // plan.gpus


def gradient_bytes(plan: Plan, parameters: int) -> int:
    """Bytes of the gradients of so many trained parameters on each GPU."""
    if plan.strategy in ("single", "ddp"):
        return 4 * parameters
    if plan.offload:
        return 0
    return trained_bytes(plan) * parameters // plan.gpus


def optimizer_bytes(plan: Plan) -> int:
    """Bytes of optimizer state on each GPU, DeepSpeed's fp32 copy of the weights included."""
    each = state_bytes(plan.optimizer)
    whole = each * plan.trained + (4 * plan.trained if master(plan) else 0)
    if "8bit" in plan.optimizer and plan.tuning == "full":  # bitsandbytes leaves embeddings at 32 bits
        whole += (ADAM - each) * plan.shape.embedding
    if plan.strategy in ("single", "ddp"):
        return int(whole)
    return 0 if plan.offload else int(whole) // plan.gpus


def optimizer_work(plan: Plan) -> int:
    """Bytes that an optimizer's step works with besides: on a GPU a list of all updates, else one tensor's."""
    if plan.offload and plan.strategy not in ("single", "ddp"):
        return 0
    if plan.device == "cuda":
        whole = 4 * plan.trained if plan.optimizer in LISTWISE - {"sgd"} or deepspeed(plan) else 0
        return whole if plan.strategy in ("single", "ddp") else whole // plan.gpus
    if plan.tuning == "full":
        return 8 * max(plan.shape.embedding, *(one.weights for one in plan.shape.linears()))
    return 8 * plan.lora_r * max(max(one.inputs, one.outputs) for one in (*plan.adapted, *plan.outer))


def exchange_bytes(plan: Plan) -> int:
    """Buffers that processes exchange: ddp's copy of all gradients, or what is gathered of shared weights.

    fsdp gathers a layer while the next one is fetched, keeps embeddings and head whole through a pass, and sums
    a layer's gradients in fp32. DeepSpeed keeps up to so many gathered weights and so many unsummed gradients.
    """
    if plan.gpus == 1:
        return 0
    if plan.strategy == "ddp":
        return 4 * plan.trained
    if deepspeed(plan):
        bucket = plan.compute * min(REDUCED, plan.trained)
        gathered = min(LIVE * plan.compute, whole_weights(plan)) if plan.strategy == "zero3" else 0
        return bucket + gathered
    shape = plan.shape
    layer = shape.layer_linear + shape.layer_rest
    if plan.tuning == "qlora":
        layer_bytes = sum(nf4_bytes(one.weights) for one in shape.linears()) + 4 * shape.layer_rest
        outer = 4 * (shape.embedding + shape.head)
    else:
        layer_bytes, outer = plan.compute * layer, plan.compute * (shape.embedding + shape.head)
    gathered = 2 * (layer_bytes + plan.compute * plan.layer_adapter) + outer
    trained = max(layer, shape.embedding + shape.head) if plan.tuning == "full" else plan.layer_adapter
    return gathered + (plan.compute + 4) * trained


def reference_bytes(plan: Plan) -> int:
    """A frozen copy of the model, whole on every GPU, where reference log-probs come from one."""
    if plan.reference != "model":
        return 0
    if plan.tuning == "qlora":
        return quantized_weights(plan)
    return plan.compute * plan.shape.parameters


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
"""Bytes that a process on the CPU needs beside tensors once everything is imported."""


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
        weights=weight_bytes(plan),
        adapters=adapter_bytes(plan),
        reference=reference_bytes(plan),
        optimizer=optimizer_bytes(plan),
        exchange=exchange_bytes(plan),
    )
    everything = gradient_bytes(plan, plan.trained)
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
        done = gradient_bytes(plan, head.trained + (last - at) * layer.trained)
        yield replace(
            base,
            gradients=before or done,
            **_stack(plan, layer, at),
            work=layer.backward,
            moment=name,
        )
    yield replace(base, gradients=everything, work=optimizer_work(plan), moment="the optimizer's step")
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
    cast = 0 if c == 4 or plan.tuning == "lora" or low_weights(plan) else c * shape.embedding
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
    """True if the answers' logits take more than one tile, and are therefore computed again."""
    return plan.shape.kind not in SCALED_HEAD and plan.row.targets * 4 * plan.shape.vocab > TILE_BYTES
