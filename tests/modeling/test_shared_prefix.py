"""Shared-prefix attention equals one plain row a branch: logits and gradients, by transformers' own SDPA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lcx.modeling import shared_prefix as sp
from lcx.modeling.load import add_lora, load_model
from lcx.modeling.support import FULL_ATTENTION
from lcx.records import EncodedBranch, EncodedBundle

VOCAB = 97
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
}
EXTRA = {
    "mistral": {"sliding_window": None, "head_dim": 8},
    "starcoder2": {"sliding_window": None, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "qwen3": {"head_dim": 8},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8},
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.2},
}


FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "glm4")
"""Those that every way of training is held to; the other model types share their layers' interface."""
TRAINED = [
    pytest.param(
        kind, some, marks=[] if (kind, some) in {("llama", True), ("glm4", False)} else [pytest.mark.slow]
    )
    for kind in FAMILIES
    for some in (False, True)
]
"""Families without and with checkpointing; the quick tier sees one of each."""


@contextmanager
def shared_prefix(model: Any) -> Iterator[Any]:
    """Shared-prefix attention inside the block, whatever the model had before after it."""
    before = model.config._attn_implementation
    try:
        yield sp.use_shared_prefix(model)
    finally:
        sp.restore(model, before)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another cost models this small far more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(kind: str = "llama", **extra: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **EXTRA.get(kind, {}), **extra})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().train()
    # The default initialisation is so small that a wrong mask would hardly show.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def bundle(
    name: str = "b",
    prefix: int = 23,
    branches: tuple[tuple[int, int], ...] = ((9, 4), (6, 0), (14, 11)),
    positions: object = None,
) -> EncodedBundle:
    """Random ids; a branch is (tokens, where its answer starts)."""
    random = np.random.default_rng(len(name) + prefix)
    return EncodedBundle(
        id=name,
        prefix=random.integers(3, VOCAB, prefix),
        branches=tuple(EncodedBranch(random.integers(3, VOCAB, n).tolist(), start) for n, start in branches),
        positions=positions,
    )


def packed_logprobs(model: torch.nn.Module, bundles: list[EncodedBundle], **options: object) -> torch.Tensor:
    """[t]: log-probabilities of all answer tokens by the packed row."""
    row = sp.pack(bundles)
    out = model(
        input_ids=torch.from_numpy(row.input_ids)[None],
        position_ids=torch.from_numpy(row.position_ids)[None],
        segments=row.segments,
        logits_to_keep=torch.from_numpy(row.logit_index),
        use_cache=False,
        **options,
    )
    return out.logits[0].log_softmax(-1).gather(-1, torch.from_numpy(row.targets)[:, None])[:, 0]


def separate_logprobs(model: torch.nn.Module, bundles: list[EncodedBundle]) -> torch.Tensor:
    """[t]: the same, one row a branch, nothing packed and nothing padded."""
    pieces = []
    for b in bundles:
        for branch in b.branches:
            ids = torch.tensor([[*b.prefix.tolist(), *branch.ids]])
            extra: dict[str, torch.Tensor] = {}
            if b.positions is not None:
                after = b.positions[-1] + 1 + np.arange(len(branch.ids))
                extra["position_ids"] = torch.from_numpy(np.concatenate([b.positions, after]))[None]
                extra["attention_mask"] = torch.ones(
                    1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool
                ).tril()
            logits = model(input_ids=ids, use_cache=False, **extra).logits[0]
            first = len(b.prefix) + branch.answer_start
            pieces.append(logits[first - 1 : -1].log_softmax(-1).gather(-1, ids[0, first:, None])[:, 0])
    return torch.cat(pieces)


def gradients(model: torch.nn.Module, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.cos(torch.arange(len(logprobs), dtype=torch.float32))
    (logprobs.float() * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(mine: torch.Tensor, theirs: torch.Tensor, bound: float = 1e-5, what: str = "") -> None:
    error = (mine.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-12)
    assert error <= bound, f"{what} differs by {error:.2e}"


def assert_same(
    model: torch.nn.Module, bundles: list[EncodedBundle], bound: float = 1e-5, **options: object
) -> None:
    theirs = separate_logprobs(model, bundles)
    expected = gradients(model, theirs)
    with shared_prefix(model):
        mine = packed_logprobs(model, bundles, **options)
        found = gradients(model, mine)
    assert_close(mine, theirs, bound, "log-probabilities")
    assert found.keys() == expected.keys()
    assert found
    largest = max(float(g.norm()) for g in expected.values())
    for name, gradient in expected.items():
        if (
            gradient.norm() > 1e-6 * largest
        ):  # a key bias has no gradient but rounding: softmax ignores shifts
            assert_close(found[name], gradient, bound, name)


@pytest.fixture(params=["split", "masked"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute branches: softmax statistics, and a mask where no kernel has proved itself."""
    if request.param == "masked":
        monkeypatch.setattr(sp, "split_kernel", lambda *tensors: None)
    return request.param


@pytest.mark.parametrize("kind", sorted(FULL_ATTENTION))
def test_logits_and_gradients_equal_separate_rows(kind: str, path: str) -> None:
    assert_same(
        build(kind), [bundle("one"), bundle("three", 5, ((3, 1),)), bundle("fifteen", 40, ((2, 0), (30, 8)))]
    )


@pytest.mark.parametrize("kind", sorted(FULL_ATTENTION))
def test_the_last_layer_may_leave_the_prefix_out(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes where only answers are asked for, and one layer less attends for the prefix's rows."""
    model, seen, causal = build(kind), [], sp._causal

    def counted(q: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(q.shape[2])
        return causal(q, *rest)

    monkeypatch.setattr(sp, "_causal", counted)
    assert_same(model, [bundle(), bundle("other", 5), bundle("one", 7, ((4, 1),))], answers_only=True)
    assert seen.count(22) == seen.count(4) == SIZES["num_hidden_layers"] - 1
    alone = SIZES["num_hidden_layers"] - (path == "split")  # without the kernel it would need a mask
    assert seen.count(6 + 5) == alone


@pytest.mark.parametrize(("kind", "reentrant"), TRAINED)
def test_gradient_checkpointing(kind: str, reentrant: bool, path: str) -> None:
    model = build(kind)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert_same(model, [bundle(), bundle("other", 11)])


def test_the_first_use_may_be_inside_a_checkpointed_layer() -> None:
    from lcx.modeling import split_softmax

    split_softmax._proven.cache_clear()
    model = build()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with shared_prefix(model):
        packed_logprobs(model, [bundle()]).sum().backward()
    assert split_softmax._proven.cache_info().currsize == 1


def adapt(model: torch.nn.Module, checkpointing: bool) -> torch.nn.Module:
    """The model with adapters on all linear layers, as training makes them, that already change its output."""
    adapted = add_lora(model, 4, 8).train()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    if checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
        adapted.enable_input_require_grads()
    return adapted


@pytest.mark.parametrize(("kind", "checkpointing"), TRAINED)
def test_lora(kind: str, checkpointing: bool, path: str) -> None:
    assert_same(adapt(build(kind), checkpointing), [bundle(), bundle("other", 11)])


@pytest.mark.parametrize(("kind", "checkpointing"), TRAINED)
def test_4_bit_weights(kind: str, tmp_path: Path, checkpointing: bool, path: str) -> None:
    build(kind).save_pretrained(tmp_path)
    model = adapt(load_model(tmp_path, quantize="nf4", device="cpu"), checkpointing)
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    assert_same(model, [bundle(), bundle("other", 11)])


def test_synthetic_positions() -> None:
    positions = np.sort(np.random.default_rng(3).choice(3000, 23, replace=False))
    assert_same(build(), [bundle(positions=positions), bundle("other", 11)])


def test_edges_one_token_prefix_and_one_branch(path: str) -> None:
    assert_same(build(), [bundle("x", 1), bundle("y", 2, ((1, 0),)), bundle("z", 1, ((4, 3),))])


def test_position_gaps_are_no_boundaries() -> None:
    """transformers reads a jump in positions as a new document where no mask is given; ours must not."""
    model = build().eval()
    positions = np.concatenate([np.arange(8), 500 + np.arange(8), 2000 + np.arange(8)])
    ids = np.random.default_rng(0).integers(3, VOCAB, 24)
    changed = ids.copy()
    changed[0] = (changed[0] + 1) % VOCAB
    branches = (EncodedBranch([5, 6, 7], 1), EncodedBranch([8, 9], 0))
    with torch.no_grad(), shared_prefix(model):
        for count in (1, 2):
            before, after = (
                packed_logprobs(model, [EncodedBundle("p", p, branches[:count], positions)])
                for p in (ids, changed)
            )
            assert ((before - after).abs() > 1e-6).all()
        # also as a plain row, without segments
        plain = [
            model(
                torch.from_numpy(p)[None], position_ids=torch.from_numpy(positions)[None], use_cache=False
            ).logits
            for p in (ids, changed)
        ]
        assert ((plain[0] - plain[1])[0, -8:].abs().amax(-1) > 1e-6).all()


def test_branches_do_not_see_each_other() -> None:
    model = build().eval()
    with torch.no_grad(), shared_prefix(model):
        one = packed_logprobs(model, [bundle(branches=((9, 4), (6, 0)))])
        both = bundle(branches=((9, 4), (6, 0)))
        other = EncodedBundle("b", both.prefix, (both.branches[0], EncodedBranch([1] * 6, 0)))
        assert torch.equal(one[:5], packed_logprobs(model, [other])[:5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, path: str) -> None:
    model = build().to(dtype)
    bound = 6e-2 if dtype is torch.bfloat16 else 1e-6  # norms compute in fp32
    assert_same(model, [bundle(), bundle("other", 11)], bound)


def test_autocast(path: str) -> None:
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model, [bundle()], 6e-2)


def test_padded_batches_and_generation_still_work() -> None:
    model = build().eval()
    ids = torch.randint(3, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    with shared_prefix(model):
        assert torch.equal(
            model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False), expected
        )
    assert model.config._attn_implementation == "sdpa"


def test_cached_rows_without_a_mask_stand_at_the_end() -> None:
    model = build().eval()
    ids = torch.randint(3, VOCAB, (1, 12), generator=torch.Generator().manual_seed(1))
    whole = model(ids).logits
    with torch.no_grad(), shared_prefix(model):
        cache = model(ids[:, :7], use_cache=True).past_key_values
        assert_close(model(ids[:, 7:], past_key_values=cache).logits, whole[:, 7:])


def test_wrong_segments_are_an_error() -> None:
    model = build()
    ids = torch.ones(1, 12, dtype=torch.long)
    with shared_prefix(model):
        with pytest.raises(ValueError, match="segments of 10 rows"):
            model(ids, segments=[[4, 3, 3]], use_cache=False)
        padded = torch.ones_like(ids)
        padded[0, 0] = 0
        with pytest.raises(ValueError, match="mask True"):
            model(ids, segments=[[4, 4, 4]], attention_mask=padded, use_cache=False)


def test_saved_models_do_not_remember_the_attention(tmp_path: Path) -> None:
    model = sp.use_shared_prefix(build())
    model.save_pretrained(tmp_path)
    assert sp.NAME not in (tmp_path / "config.json").read_text()


def test_layout() -> None:
    row = sp.pack(
        [
            EncodedBundle(
                "a", np.array([10, 11, 12]), (EncodedBranch([20, 21], 1), EncodedBranch([30], 0, "chosen"))
            ),
            EncodedBundle("b", np.array([40]), (EncodedBranch([50, 51], 0),), np.array([7])),
        ]
    )
    assert row.input_ids.tolist() == [10, 11, 12, 20, 21, 12, 30, 40, 50, 51]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 3, 7, 8, 9]
    assert row.segments == [[2, 3, 2], [0, 3]]
    assert row.logit_index.tolist() == [3, 5, 7, 8]
    assert row.targets.tolist() == [21, 30, 50, 51]
    assert row.branch_of_target.tolist() == [0, 1, 2, 2]
    assert row.bundle_of_branch.tolist() == [0, 0, 1]
    assert row.roles == ("answer", "chosen", "answer")
    assert row.labels.tolist() == [-100, -100, -100, -100, 21, -100, 30, -100, 50, 51]
    for bad in (bundle(prefix=0), bundle(branches=((0, 0),)), bundle(positions=np.arange(4))):
        with pytest.raises(ValueError, match="bundle b"):
            sp.pack([bad])
