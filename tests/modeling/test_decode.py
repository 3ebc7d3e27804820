"""Branch decoding against `generate` on the full prompt, row by row, with the library's own attention."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

from lcx.modeling import decode_kv, support
from lcx.modeling import sampling as drawing
from lcx.modeling.decode import SHARED, decode_branches, pick_strategy
from lcx.modeling.decode_kv import BranchDecoder, Sampling
from lcx.records import EncodedBranch, EncodedBundle
from tests.modeling.families import SIZES, VOCAB

FAMILIES = {
    "Llama": {},
    "Qwen2": {"use_sliding_window": False},
    "Qwen3": {"head_dim": 8, "use_sliding_window": False},
    "Mistral": {"sliding_window": None},
    "Glm4": {"head_dim": 8},
}


def make(family: str = "Llama", seed: int = 0, **changes: Any) -> Any:
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **FAMILIES.get(family, {}), **changes})
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM"))(
            config
        ).eval()


def bundle(prefix: int = 60, lengths: tuple[int, ...] = (3, 11, 1, 7, 11, 5), seed: int = 0) -> EncodedBundle:
    rng = np.random.default_rng(seed)
    branches = []
    for length in lengths:
        ids = rng.integers(1, VOCAB, length + 4).tolist()  # four answer tokens, which must not be read
        branches.append(EncodedBranch(ids, length, "query"))
    return EncodedBundle("b", rng.integers(1, VOCAB, prefix), tuple(branches))


def decode_bundle(
    model: Any,
    encoded: EncodedBundle,
    *,
    eos_ids: Any = (),
    on_done: Any = None,
    on_refused: Any = None,
    **options: Any,
) -> list[list[int]]:
    """Every branch of a bundle by the best way that its model can take."""
    way = pick_strategy(model)
    if way.name != SHARED and on_refused:
        on_refused(way.reason)
    told = (lambda number, answer: on_done(1)) if on_done else None
    prompts = [branch.ids[: branch.answer_start] for branch in encoded.branches]
    options = {"positions": encoded.positions, "eos_ids": eos_ids, "on_answer": told, **options}
    return decode_branches(way, model, encoded.prefix, prompts, **options)


def reference(model: Any, encoded: EncodedBundle, new: int, eos: tuple[int, ...] = ()) -> list[list[int]]:
    answers = []
    for branch in encoded.branches:
        ids = torch.tensor([[*encoded.prefix.tolist(), *branch.ids[: branch.answer_start]]])
        options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        config = GenerationConfig(**options, **({"eos_token_id": list(eos)} if eos else {}))
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        tokens = made[0, ids.shape[1] :].tolist()
        answers.append(tokens[: next((i for i, token in enumerate(tokens) if token in eos), new)])
    return answers


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_greedy_tokens_equal_generate(family: str) -> None:
    model, encoded = make(family), bundle()
    expected = reference(model, encoded, 12)
    assert len({token for answer in expected for token in answer}) > 12, "the model must not be degenerate"
    assert decode_bundle(model, encoded, max_new_tokens=12, eos_ids=()) == expected
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("batch", "chunk"), [(64, 8192), (2, 8192), (1, 7), (4, 16), (3, 59), (64, 60)])
def test_batches_and_chunks_change_nothing(batch: int, chunk: int) -> None:
    model, encoded = make(), bundle()
    expected = reference(model, encoded, 8)
    assert decode_bundle(model, encoded, max_new_tokens=8, eos_ids=(), batch=batch, chunk=chunk) == expected


def test_without_a_flash_kernel_and_with_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_kv, "split_kernel", lambda *_: None)
    monkeypatch.setattr(decode_kv, "SCORE_BYTES", 4 * 4 * 70 * 3)
    model, encoded = make(), bundle()
    made = decode_bundle(model, encoded, max_new_tokens=8, eos_ids=(), chunk=31)
    assert made == reference(model, encoded, 8)


def test_ends_at_each_end_token_and_leaves_it_out() -> None:
    model, encoded = make(seed=3), bundle(lengths=(4, 9, 2, 6, 6, 3, 8, 5))
    free = reference(model, encoded, 20)
    eos = (free[0][2], free[3][7])
    expected = reference(model, encoded, 20, eos)
    assert len({len(answer) for answer in expected}) > 2, "branches must end at different times"
    done: list[int] = []
    made = decode_bundle(model, encoded, max_new_tokens=20, eos_ids=eos, batch=8, on_done=done.append)
    assert made == expected
    assert sum(done) == 8
    assert len(done) > 1


def test_an_answer_that_ends_at_once_is_empty() -> None:
    model, encoded = make(), bundle(lengths=(4, 6))
    first = [answer[0] for answer in reference(model, encoded, 1)]
    assert decode_bundle(model, encoded, max_new_tokens=5, eos_ids=first) == [[], []]


def test_columns_grow_past_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_kv, "ROOM", 3)
    model, encoded = make(), bundle()
    assert decode_bundle(model, encoded, max_new_tokens=25, eos_ids=()) == reference(model, encoded, 25)


def test_empty_prompts_and_a_prefix_of_one_token() -> None:
    model = make()
    for encoded in (bundle(prefix=30, lengths=(0, 0, 4)), bundle(prefix=1, lengths=(5, 2, 0))):
        assert decode_bundle(model, encoded, max_new_tokens=9, eos_ids=()) == reference(model, encoded, 9)


def test_a_prefix_may_be_asked_twice_and_replaced() -> None:
    model, one, two = make(), bundle(seed=1), bundle(prefix=33, seed=2)
    decoder = BranchDecoder(model)
    prompts = [branch.ids[: branch.answer_start] for branch in one.branches]
    decoder.prefill(one.prefix)
    first = decoder.answer(prompts, max_new_tokens=6)
    assert decoder.answer(prompts[::-1], max_new_tokens=6)[::-1] == first == reference(model, one, 6)
    decoder.prefill(two.prefix)
    prompts = [branch.ids[: branch.answer_start] for branch in two.branches]
    assert decoder.answer(prompts, max_new_tokens=6) == reference(model, two, 6)


def test_two_models_decode_in_turns() -> None:
    models, encoded = [make(seed=1), make("Qwen3", seed=2)], bundle()
    decoders = [BranchDecoder(model) for model in models]
    for decoder in decoders:
        decoder.prefill(encoded.prefix)
    prompts = [branch.ids[: branch.answer_start] for branch in encoded.branches]
    for decoder, model in zip(decoders, models, strict=True):
        assert decoder.answer(prompts, max_new_tokens=6) == reference(model, encoded, 6)


def test_synthetic_positions_reach_every_chunk() -> None:
    model, encoded = make(), bundle(prefix=40)
    positions = np.sort(np.random.default_rng(5).choice(400, 40, replace=False))
    spread = EncodedBundle("b", encoded.prefix, encoded.branches, positions)
    made = decode_bundle(model, spread, max_new_tokens=8, eos_ids=(), chunk=9)
    # The reference never stores keys: it recomputes the whole row for every token, with an explicit mask,
    # because the library would otherwise take gaps between positions for the borders of packed texts.
    for branch, answer in zip(spread.branches, made, strict=True):
        row = [*spread.prefix.tolist(), *branch.ids[: branch.answer_start]]
        for token in answer:
            places = [*positions.tolist(), *range(positions[-1] + 1, positions[-1] + 1 + len(row) - 40)]
            mask = torch.ones(1, 1, len(row), len(row), dtype=torch.bool).tril()
            with torch.inference_mode():
                logits = model(
                    torch.tensor([row]), attention_mask=mask, position_ids=torch.tensor([places])
                ).logits
            assert token == int(logits[0, -1].argmax())
            row.append(token)
    other = spread.prefix.copy()
    other[:9] = (other[:9] + 1) % VOCAB
    changed = EncodedBundle("b", other, encoded.branches, positions)
    assert decode_bundle(model, changed, max_new_tokens=8, eos_ids=(), chunk=9) != made


def test_bf16_statistics_stay_close_to_fp32() -> None:
    """Keys in bf16, softmax in fp32: the output differs from fp32's by the rounding of bf16 only."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 70, 16) for _ in range(3))
    pads = torch.zeros(1, dtype=torch.long)
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, :, 60:]
    for kind, bound in ((torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        a, b, c = (part.to(kind) for part in (q, k, v))
        far = decode_kv._to_prefix(a[:, :, 60:], (b[:, :, :60], c[:, :, :60]), 0.25)
        near = decode_kv._to_own(a[:, :, 60:], (b[:, :, 60:], c[:, :, 60:]), 0.25, pads)
        assert far[1].dtype == near[1].dtype == torch.float32
        assert (decode_kv._join(far, near) - whole).abs().max() < bound
    model = make().to(torch.bfloat16)
    assert all(len(answer) == 5 for answer in decode_bundle(model, bundle(), max_new_tokens=5, eos_ids=()))


def test_a_model_that_cannot_share_says_so() -> None:
    model, encoded = make("GPT2"), bundle()
    said: list[str] = []
    made = decode_bundle(model, encoded, max_new_tokens=6, eos_ids=(), on_refused=said.append)
    assert made == reference(model, encoded, 6)
    assert len(said) == 1
    assert "gpt2" in said[0]
    with pytest.raises(ValueError, match="share their context"):
        BranchDecoder(model)


def test_positions_that_depend_on_length_are_refused() -> None:
    config = copy.deepcopy(make().config)
    assert support.why_not_decoded(config) is None
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert "length" in (support.why_not_decoded(config) or "")


def test_samples_depend_on_the_seed_and_not_on_the_batch() -> None:
    model, encoded = make(initializer_range=0.1), bundle()
    draw = lambda seed, batch: decode_bundle(  # noqa: E731
        model, encoded, max_new_tokens=10, eos_ids=(), batch=batch, sampling=Sampling(0.8, 0.9, seed)
    )
    assert draw(1, 64) == draw(1, 2)
    assert draw(1, 64) != draw(2, 64)
    cold = decode_bundle(model, encoded, max_new_tokens=10, eos_ids=(), sampling=Sampling(temperature=0.0))
    assert cold == reference(model, encoded, 10)


def test_sampled_tokens_have_the_models_chances() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.05, 0.3, 0.15]])).repeat(4000, 1)
    for top_p, chances in ((1.0, [0.5, 0.05, 0.3, 0.15]), (0.6, [0.625, 0, 0.375, 0]), (0.5, [1, 0, 0, 0])):
        sampling = Sampling(1.0, top_p, 7)
        tokens = drawing.pick(logits, sampling, [drawing.generator(sampling, n) for n in range(4000)])
        seen = torch.bincount(tokens, minlength=4) / 4000
        assert (seen - torch.tensor(chances)).abs().max() < 0.03
        assert all(seen[i] == 0 for i in range(4) if chances[i] == 0)


def test_small_models_use_one_thread_and_give_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded, seen = make(), bundle(), []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decode_bundle(
            model,
            encoded,
            max_new_tokens=2,
            eos_ids=(),
            on_done=lambda _: seen.append(torch.get_num_threads()),
        )
        assert torch.get_num_threads() == 2
        monkeypatch.setattr("lcx.modeling.load.SMALL", 10)
        decode_bundle(
            model,
            encoded,
            max_new_tokens=2,
            eos_ids=(),
            on_done=lambda _: seen.append(torch.get_num_threads()),
        )
    finally:
        torch.set_num_threads(before)
    assert seen == [1] * 6 + [2] * 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_greedy_tokens_equal_generate_on_cuda() -> None:
    model, encoded = make().cuda(), bundle()
    expected = reference(make(), encoded, 8)
    assert decode_bundle(model, encoded, max_new_tokens=8, eos_ids=()) == expected
