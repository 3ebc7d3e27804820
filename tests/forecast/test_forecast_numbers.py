"""Rows, states and operations against what PyTorch, bitsandbytes and the engine really make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from lcx.errors import UsageError
from lcx.forecast import memory as costs
from lcx.forecast.cards import CARDS, find_card
from lcx.forecast.memory import largest_context, step_flops, step_memory
from lcx.forecast.model import NAMED, Plan, Shape, packed_row, separate_rows
from lcx.forecast.steps import passes_a_step
from lcx.modeling.load import add_lora
from lcx.modeling.shared_prefix import branch_mask, pack
from lcx.records import EncodedBranch, EncodedBundle
from lcx.training.settings import step_shape

SMALL = Shape(layers=3, hidden=64, heads=4, kv_heads=2, intermediate=176, vocab=512)
ROW = packed_row(300, 20, 30, 2)


def model_of(shape: Shape, attention: str = "eager") -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            attn_implementation=attention,
        )
    )


@pytest.mark.parametrize("micro", [1, 3])
def test_a_packed_row_is_what_the_engine_packs(micro: int) -> None:
    bundle = EncodedBundle("b", [1] * 50, tuple(EncodedBranch([2] * 12, 5) for _ in range(3)))
    packed = pack([bundle] * micro)
    row = packed_row(50, 5, 7, 3, micro)
    assert (row.tokens, row.targets) == (len(packed.input_ids), len(packed.targets))
    pairs = 0
    for prefix, *branches in packed.segments:
        pairs += int(torch.ones(prefix, prefix).tril().sum() + branch_mask(prefix, branches).sum())
    assert row.pairs == pairs
    assert separate_rows(50, 5, 7, rows=3).pairs == 3 * int(torch.ones(62, 62).tril().sum())


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 8), st.integers(1, 6))
@settings(deadline=None)
def test_passes_are_those_of_training(batch: int, micro: int, processes: int, branches: int) -> None:
    expected = step_shape(batch, micro, processes, branches)
    assert passes_a_step(batch / branches, micro, processes) == (expected.micro, expected.passes)


def counted(model: torch.nn.Module, tokens: int, checkpointing: bool = False) -> int:
    """Operations of a forward and a backward pass over one row, as PyTorch counts them."""
    ids = torch.randint(0, 512, (1, tokens))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counter.get_total_flops()


def whole_square(tokens: int) -> Plan:
    """A plan of a row whose logits are all learnt, and whose attention is computed without regard to order."""
    row = replace(packed_row(tokens, 0, 1, 1), tokens=tokens, targets=tokens, pairs=tokens * tokens)
    return Plan(SMALL, row, precision="fp32", checkpointing=False, device="cpu")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_equal_pytorchs_count(checkpointing: bool) -> None:
    plan = replace(whole_square(96), checkpointing=checkpointing)
    scores = 2 * plan.row.pairs * SMALL.query * SMALL.layers  # eager attention keeps them
    found = step_flops(plan)
    count = counted(model_of(SMALL), 96, checkpointing)
    assert (found.hardware - scores if checkpointing else found.model) == count
    assert found.hardware > found.model


def test_operations_of_adapters_equal_pytorchs_count() -> None:
    model = add_lora(model_of(SMALL), r=4, alpha=4)
    model.enable_input_require_grads()
    plan = replace(whole_square(96), tuning="lora", lora_r=4)
    assert step_flops(plan).model == counted(model, 96)


def test_steps_and_references_multiply_operations() -> None:
    plan = Plan(SMALL, ROW, tuning="lora", checkpointing=False)
    one = step_flops(plan)
    assert step_flops(replace(plan, passes=4, gpus=2)).model == 8 * one.model
    assert step_flops(replace(plan, passes=4, gpus=2)).tokens == 8 * ROW.tokens
    big = replace(plan, shape=NAMED["llama3-8b"])
    ratio = step_flops(replace(big, reference="adapter")).model / step_flops(big).model
    assert 1.4 < ratio < 1.5  # a third forward-like pass beside forward, and gradients of inputs only
    assert step_flops(replace(plan, reference="cached")).model == one.model
    assert one.seconds(4, 1e-6, 0.5) == one.model / 2e6


@pytest.mark.parametrize("shape", [(688, 256), (100, 70), (4096, 64)])
def test_bytes_of_nf4_are_those_of_bitsandbytes(shape: tuple[int, int]) -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(shape), quant_type="nf4", compress_statistics=True)
    tensors = [packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    assert costs.nf4_bytes(shape[0] * shape[1]) == sum(one.numel() * one.element_size() for one in tensors)


@pytest.mark.parametrize("name", ["adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"])
def test_bytes_of_optimizer_states(name: str) -> None:
    from transformers.optimization import Adafactor

    kinds = {
        "adamw_torch": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "rmsprop": torch.optim.RMSprop,
        "adafactor": Adafactor,
    }
    model = model_of(SMALL)
    optimizer = kinds[name](model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(
        one.numel() * one.element_size()
        for state in optimizer.state.values()
        for one in state.values()
        if isinstance(one, torch.Tensor)
    )
    expected = costs.optimizer_bytes(Plan(SMALL, ROW, optimizer=name, device="cpu"))
    slack = (
        0.01 * expected if name != "adafactor" else expected
    )  # rows and columns weigh more in a small model
    assert abs(held - expected) <= slack


def test_what_a_strategy_shares() -> None:
    plan = Plan(NAMED["llama3-8b"], packed_row(8192, 0, 256, 3), passes=8, gpus=8, strategy="ddp")
    parameters = plan.shape.parameters
    fsdp, zero2, zero3 = (replace(plan, strategy=name) for name in ("fsdp", "zero2", "zero3"))
    assert costs.weight_bytes(plan) == 4 * parameters
    assert costs.weight_bytes(fsdp) == 4 * parameters // 8
    assert costs.weight_bytes(zero2) == 2 * parameters  # in bf16, with an fp32 copy in the optimizer's share
    assert costs.weight_bytes(zero3) == 2 * parameters // 8
    assert costs.optimizer_bytes(plan) == 8 * parameters
    assert costs.optimizer_bytes(zero2) == costs.optimizer_bytes(zero3) == 12 * parameters // 8
    assert costs.gradient_bytes(zero3, parameters) == 2 * parameters // 8
    assert costs.exchange_bytes(plan) == 4 * parameters  # ddp's buckets
    away = replace(zero3, offload=True)
    assert (
        costs.weight_bytes(away) == costs.optimizer_bytes(away) == costs.gradient_bytes(away, parameters) == 0
    )
    order = [step_memory(one).total for one in (away, zero3, zero2, plan)]
    assert order == sorted(order)


def test_a_frozen_reference_weighs_a_model() -> None:
    plan = Plan(NAMED["llama3-8b"], packed_row(8192, 0, 256, 3), tuning="lora")
    assert step_memory(plan).reference == 0
    assert step_memory(replace(plan, reference="model")).reference == 2 * plan.shape.parameters
    assert step_memory(replace(plan, tuning="qlora", reference="model")).reference == costs.quantized_weights(
        plan
    )


@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_longest_context_is_the_longest_that_fits(tuning: str, checkpointing: bool) -> None:
    plan = Plan(NAMED["llama3.2-1b"], ROW, tuning=tuning, checkpointing=checkpointing)
    capacity = 40.0 * (1 << 30)

    def at(context: int) -> Plan:
        return replace(plan, row=packed_row(context, 0, 256, 3))

    longest = largest_context(at, capacity)
    assert longest > 2
    assert step_memory(at(longest)).total <= capacity < step_memory(at(longest + 1)).total
    assert largest_context(at, 1 << 20) == 0
    assert largest_context(at, 1e15, limit=5000) in (4999, 5000)


def test_memory_grows_with_everything_that_takes_memory() -> None:
    base = Plan(NAMED["qwen3-8b"], packed_row(8192, 0, 256, 3), tuning="lora")
    less = step_memory(base).total
    for more in (
        {"row": packed_row(8193, 0, 256, 3)},
        {"row": packed_row(8192, 0, 257, 3)},
        {"row": packed_row(8192, 0, 256, 4)},
        {"checkpointing": False},
        {"precision": "fp32"},
        {"tuning": "full"},
        {"lora_r": 64},
        {"reference": "model"},
        {"kernels": "flash"},
    ):
        assert step_memory(replace(base, **more)).total > less, more


def test_logits_do_not_grow_with_the_context() -> None:
    plan = Plan(NAMED["llama3-8b"], packed_row(4096, 0, 512, 3))
    long = replace(plan, row=packed_row(65536, 0, 512, 3))
    from lcx.forecast.memory import head_memory

    assert head_memory(plan) == head_memory(long)


def test_plans_that_cannot_be() -> None:
    plan = Plan(SMALL, ROW, tuning="lora", lora_targets=("k_prof",))
    with pytest.raises(UsageError, match="name no layer") as raised:
        _ = plan.checked
    assert "k_proj" in raised.value.why
    with pytest.raises(UsageError, match="offload"):
        _ = Plan(SMALL, ROW, strategy="ddp", gpus=2, offload=True).checked


def test_cards() -> None:
    assert find_card("RTX_3090").gib == 24
    assert find_card("NVIDIA A100 80GB") is CARDS["a100-80"]
    assert find_card("24").capacity == find_card("24GB").capacity == 24 * 2**30
    assert find_card("cpu").gib > 0.5
    assert all(0 < card.gib < 300 and (card.tflops or 1) > 10 for card in CARDS.values())
    with pytest.raises(UsageError, match="Did you mean 'h100'"):
        find_card("h10O")
    with pytest.raises(UsageError, match="GB"):
        find_card("-3")
