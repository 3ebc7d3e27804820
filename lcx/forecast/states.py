"""What stands in memory through a whole step: weights, gradients, optimizer states, and each GPU's share of them.

Shares by strategy on N GPUs: ddp none; zero2 gradients and optimizer; zero3 and fsdp weights too.
"""

from __future__ import annotations

from lcx.forecast.plans import Plan

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
    """Whether every GPU holds a share of the weights only."""
    return plan.strategy in ("fsdp", "zero3")


def low_weights(plan: Plan) -> bool:
    """Whether trained weights are computed with in 16 bits without autocast: fsdp and DeepSpeed cast them."""
    return plan.strategy in ("fsdp", "zero2", "zero3") and plan.compute == 2


def deepspeed(plan: Plan) -> bool:
    """Whether DeepSpeed runs the step; in 16 bits it keeps an fp32 copy of the trained weights of its own."""
    return plan.strategy in ("zero2", "zero3")


def master(plan: Plan) -> bool:
    """Whether the optimizer holds an fp32 copy of the weights."""
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


def weights(plan: Plan) -> int:
    """Bytes of base weights on each GPU between forward passes."""
    if not sharded(plan):
        return whole_weights(plan)
    return 0 if plan.offload else whole_weights(plan) // plan.gpus


def adapters(plan: Plan) -> int:
    """Bytes of adapter weights on each GPU."""
    whole = trained_bytes(plan) * plan.adapter
    if not sharded(plan):
        return whole
    return 0 if plan.offload else whole // plan.gpus


def gradients(plan: Plan, parameters: int) -> int:
    """Bytes of the gradients of so many trained parameters on each GPU."""
    if plan.strategy in ("single", "ddp"):
        return 4 * parameters
    if plan.offload:
        return 0
    return trained_bytes(plan) * parameters // plan.gpus


def optimizer(plan: Plan) -> int:
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


def exchange(plan: Plan) -> int:
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


def reference(plan: Plan) -> int:
    """A frozen copy of the model, whole on every GPU, where reference log-probs come from one."""
    if plan.reference != "model":
        return 0
    if plan.tuning == "qlora":
        return quantized_weights(plan)
    return plan.compute * plan.shape.parameters
