"""Random-weight models of a given shape, made on the device they run on, and the FLOPs of training them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from lcx.forecast.model import Shape, parse_shape

TOY = "layers=2,hidden=64,heads=4,kv_heads=2,intermediate=128,vocab=512"
KINDS = ("llama", "mistral", "qwen3")
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense bf16 peaks by data sheet. The first name that a card's own contains counts."""


def shape_of(name: str) -> Shape:
    """A shape by name or by hand, as `lcx forecast` takes it; `toy` is for tests."""
    return parse_shape(TOY if name == "toy" else name)


def config_of(shape: Shape, window: int) -> PreTrainedConfig:
    """transformers' configuration of a shape, with room for `window` positions."""
    if shape.kind not in KINDS:
        raise SystemExit(f"a model of type {shape.kind} cannot be made here; types: {', '.join(KINDS)}")
    return AutoConfig.for_model(
        shape.kind,
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=max(window, shape.window),
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        **({"sliding_window": None} if shape.kind == "mistral" else {}),
    )


def random_model(shape: Shape, window: int, device: torch.device, *, quantize: bool) -> Any:
    """A bf16 model with random weights; with `quantize`, its layers' matrices are NF4 (double-quantised).

    Weights are made one after another where they stay, so that no more than one matrix in bf16 is held beside
    what the model takes. The same seed gives the same weights on the same kind of device.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config_of(shape, window), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if quantize and type(module) is nn.Linear and module is not head:
            model.set_submodule(name, _nf4(module, device))
            continue
        for key, held in list(module.named_parameters(recurse=False)):
            made = torch.ones if held.dim() == 1 else torch.randn
            value = made(held.shape, dtype=held.dtype, device=device)
            setattr(module, key, nn.Parameter(value if held.dim() == 1 else value.mul_(0.02)))
    rotary = model.model.rotary_emb
    with torch.device(device):
        model.model.rotary_emb = type(rotary)(model.config)
    model.tie_weights()
    model.is_loaded_in_4bit = quantize
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model.requires_grad_(False).train()


def _nf4(linear: nn.Linear, device: torch.device) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    assert linear.bias is None
    with torch.device("meta"):
        made = Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
            compress_statistics=True,
        )
    weight = torch.randn(linear.weight.shape, dtype=torch.bfloat16, device=device).mul_(0.02)
    made.weight = Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    )
    return made.to(device)  # quantises


@dataclass(frozen=True)
class Pass:
    """Rows of one forward pass: their tokens, query-key pairs and scored tokens; `learns` if one back follows.

    `spared` are pairs that one layer leaves out.
    """

    tokens: int
    pairs: int
    scored: int
    learns: bool
    spared: int = 0


def causal(tokens: int) -> int:
    """Pairs of a row that attends causally to itself."""
    return tokens * (tokens + 1) // 2


def separate_rows(prompt: int, answer: int, rows: int, learns: bool) -> Pass:
    """A prompt with one answer a row."""
    whole = prompt + answer
    return Pass(rows * whole, rows * causal(whole), rows * answer, learns)


def shared_rows(prompt: int, answer: int, branches: int, learns: bool) -> Pass:
    """A prompt once, and every answer behind it; the prompt's last token heads each, and the last layer's
    answers alone attend.
    """
    prefix, branch = prompt - 1, answer + 1
    pairs = causal(prefix) + branches * (branch * prefix + causal(branch))
    return Pass(prefix + branches * branch, pairs, branches * answer, learns, causal(prefix))


def adapter_weights(shape: Shape, rank: int, targets: Sequence[str]) -> int:
    """Weights of LoRA adapters on the named matrices of every layer."""
    return shape.layers * sum(
        rank * (one.inputs + one.outputs) for one in shape.linears() if one.name in targets
    )


def model_flops(shape: Shape, passes: Sequence[Pass], adapter: int) -> float:
    """FLOPs that a LoRA step needs; what checkpointing computes again, norms and activations are not counted.

    Forward: 2 n (W + A) + 4 L p q + 2 t V h, for n tokens, W weights of the layers' matrices, A of adapters, L
    layers, p causal query-key pairs (fewer in the last layer where the trainer leaves some out), q the queries'
    width, t scored tokens, V words and width h. Backward: as
    much again for frozen matrices and head (gradients of inputs alone), twice for adapters and attention.
    """
    total = 0.0
    for one in passes:
        frozen = 2.0 * one.tokens * shape.layers * shape.layer_linear
        head = 2.0 * one.scored * shape.vocab * shape.hidden
        pairs = 4.0 * (shape.layers * one.pairs - one.spared) * shape.query
        adapters = 2.0 * one.tokens * adapter
        total += (2 if one.learns else 1) * (frozen + head) + (3 if one.learns else 1) * (pairs + adapters)
    return total


def peak_flops(card: str) -> float | None:
    """A card's bf16 peak in FLOP/s by data sheet, None where it is not in the table."""
    return next((1e12 * peak for name, peak in PEAK_TFLOPS.items() if name.lower() in card.lower()), None)
