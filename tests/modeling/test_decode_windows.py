"""Sliding windows in branch decoding: tokens and logits against full recomputation without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lcx.modeling import decode_kv
from lcx.modeling.decode_kv import BranchDecoder, why_not_decoded
from tests.modeling.families import FULL, VOCAB, WINDOWS, build, recomputed

PREFIX, LENGTHS, NEW = 60, (3, 22, 1, 7), 6


def material(seed: int = 0) -> tuple[list[int], list[list[int]]]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, VOCAB, PREFIX).tolist(), [rng.integers(1, VOCAB, n).tolist() for n in LENGTHS]


def decoded(
    model: Any, chunk: int = 8192, batch: int = 64, new: int = NEW
) -> tuple[list[list[int]], dict[tuple[int, ...], Any], Any]:
    """Answers, and the logits that each text of a branch so far was answered from."""
    prefix, prompts = material()
    seen: dict[tuple[int, ...], Any] = {}
    decoder = BranchDecoder(model, chunk=chunk)
    decoder.prefill(prefix)
    forward = decoder._forward

    def spy(ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        logits = forward(ids, places)
        for row, tokens in enumerate(ids.tolist()):
            pad = int(decoder.state.pads[row]) if ids.shape[1] > 1 else 0
            key = tuple(tokens[pad:]) if ids.shape[1] > 1 else (*spy_rows[row], tokens[0])
            spy_next.append(key)
            seen[key] = logits[row, -1].float()
        spy_rows[:] = spy_next
        spy_next.clear()
        return logits

    spy_rows: list[tuple[int, ...]] = []
    spy_next: list[tuple[int, ...]] = []
    decoder._forward = spy  # type: ignore[method-assign]
    return decoder.answer(prompts, max_new_tokens=new, batch=batch), seen, decoder


@pytest.mark.parametrize("name", [*FULL, *WINDOWS])
def test_tokens_and_logits_equal_full_recomputation(name: str) -> None:
    family, changes = {**FULL, **WINDOWS}[name]
    model = build(family, **changes)
    assert why_not_decoded(model.config) is None
    prefix, prompts = material()
    expected = [recomputed(model, prefix + prompt, NEW) for prompt in prompts]
    for chunk, batch in ((8192, 64), (13, 2)):
        answers, seen, decoder = decoded(model, chunk, batch)
        assert answers == [tokens for tokens, _ in expected]
        for prompt, (tokens, logits) in zip(prompts, expected, strict=True):
            for step in range(NEW):
                ours = seen[(prefix[-1], *prompt, *tokens[:step])]
                torch.testing.assert_close(ours, logits[step], rtol=1e-3, atol=2e-4)
        held = {part[0].shape[2] for part in decoder.state.prefix.values()}
        window = changes.get("sliding_window")
        assert held <= {PREFIX - 1, *([min(PREFIX - 1, window - 1)] if window else [])}
        assert not window or min(held) == min(PREFIX - 1, window - 1)


def test_a_window_is_no_full_attention() -> None:
    """The comparison above can fail: the same weights without a window answer otherwise."""
    prefix, prompts = material()
    family, changes = WINDOWS["mistral, all layers"]
    narrow, wide = build(family, **changes), build(family, sliding_window=None)
    assert [recomputed(narrow, prefix + p, NEW)[0] for p in prompts] != decoded(wide)[0]


def test_blocks_of_any_size_attend_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    family, changes = WINDOWS["qwen3, mixed"]
    model = build(family, **changes)
    plain = decoded(model)[0]
    monkeypatch.setattr(decode_kv, "WINDOW_ROWS", 5)
    monkeypatch.setattr(decode_kv, "SCORE_BYTES", 4 * 4 * 70 * 3)
    monkeypatch.setattr(decode_kv, "split_kernel", lambda *_: None)
    assert decoded(model, chunk=31)[0] == plain


def test_long_answers_leave_the_window_behind() -> None:
    model = build("Mistral", sliding_window=7)
    prefix, prompts = material()
    answers, _, _ = decoded(model, new=20)
    assert answers == [recomputed(model, prefix + prompt, 20)[0] for prompt in prompts]


def test_what_a_model_adds_to_its_scores_is_refused() -> None:
    model = build("Llama")
    decoder = BranchDecoder(model)
    with pytest.raises(RuntimeError, match="softcap"):
        decode_kv.branch_attention(
            model.model.layers[0].self_attn, *[torch.zeros(1, 4, 2, 8)] * 3, None,
            lcx_decode=decoder.state, softcap=30.0,
        )  # fmt: skip
