"""Models that cannot share keys and values: copies of their cache where that is proved, else whole prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from lcx.modeling import decode
from lcx.modeling.decode import COPIED, SHARED, WHOLE, decode_branches, generate_rows, pick_strategy, trace
from lcx.modeling.support import why_not_decoded
from tests.modeling.families import JAMBA, OTHERS, VOCAB, build, recomputed

NEW = 6


def material(lengths: tuple[int, ...] = (3, 9, 1, 3)) -> tuple[list[int], list[list[int]]]:
    rng = np.random.default_rng(1)
    return rng.integers(1, VOCAB, 50).tolist(), [rng.integers(1, VOCAB, n).tolist() for n in lengths]


def expected(model: Any, new: int = NEW) -> list[list[int]]:
    prefix, prompts = material()
    return [recomputed(model, prefix + prompt, new)[0] for prompt in prompts]


@pytest.mark.parametrize("name", OTHERS)
def test_copies_of_the_cache_give_the_same_tokens(name: str) -> None:
    family, changes, why = OTHERS[name]
    model = build(family, **changes)
    way = pick_strategy(model)
    assert way.name == COPIED
    assert way.reason.startswith("cache copied per query")
    assert why in way.reason
    prefix, prompts = material()
    told: dict[int, list[int]] = {}
    made = decode_branches(way, model, prefix, prompts, max_new_tokens=NEW, on_answer=told.__setitem__)
    assert made == expected(model)
    assert [told[number] for number in range(len(prompts))] == made
    assert decode_branches(way, model, prefix, prompts, max_new_tokens=NEW, batch=1) == made


def test_a_model_that_does_not_go_on_from_its_cache_is_found_out() -> None:
    """Jamba starts its states anew when more than one token follows a filled cache."""
    model = build("Jamba", **JAMBA)
    way = pick_strategy(model)
    assert way.name == WHOLE
    assert "anew" in way.reason
    assert "does not go on from a filled cache" in way.reason
    prefix, prompts = material()
    assert decode_branches(way, model, prefix, prompts, max_new_tokens=NEW) == expected(model)


def test_the_proof_notices_a_cache_that_loses_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("GPT2")
    assert decode.why_not_copied(model) is None
    real = decode.CopyDecoder._copies

    def forgets(self: Any, rows: int) -> Any:
        made = real(self, rows)
        made.layers[0].values[:, :, :20] = 0
        return made

    monkeypatch.setattr(decode.CopyDecoder, "_copies", forgets)
    assert "filled cache" in (decode.why_not_copied(model) or "")
    monkeypatch.setattr(decode.CopyDecoder, "_copies", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in (decode.why_not_copied(model) or "")


def test_short_prefixes_and_ends() -> None:
    family, changes, _ = OTHERS["bamba"]
    model = build(family, **changes)
    way = pick_strategy(model)
    for prefix in ([5], [5, 6]):
        whole = [recomputed(model, [*prefix, *prompt], NEW)[0] for prompt in ([], [7], [8])]
        assert decode_branches(way, model, prefix, [[], [7], [8]], max_new_tokens=NEW) == whole
    prefix, prompts = material()
    free = expected(model)
    eos = (free[0][2], free[1][4])
    made = decode_branches(way, model, prefix, prompts, max_new_tokens=NEW, eos_ids=eos)
    ends = [next((i for i, token in enumerate(one) if token in eos), NEW) for one in free]
    assert made == [one[:end] for one, end in zip(free, ends, strict=True)]
    assert min(ends) < NEW


def test_encoder_decoders_and_foreign_code_are_refused() -> None:
    model = build("GPT2")
    model.config.auto_map = {"AutoModelForCausalLM": "x.Y"}
    way = pick_strategy(model)
    assert way.name == WHOLE
    assert "own code" in way.reason
    model = build("GPT2")
    model.config.is_encoder_decoder = True
    assert "encoder-decoder" in (why_not_decoded(model.config) or "")
    assert "encoder-decoder" in (decode.why_not_copied(model) or "")


def test_plain_batches_are_right_for_uneven_prompts() -> None:
    prefix, prompts = material((3, 9, 1, 40))
    rows = [prefix + prompt for prompt in prompts]
    for model in (build("Llama"), build("Bamba", **OTHERS["bamba"][1])):
        free = [recomputed(model, row, NEW)[0] for row in rows]
        for batch in (1, 3, 8):
            told: dict[int, list[int]] = {}
            made = generate_rows(model, rows, max_new_tokens=NEW, batch=batch, on_answer=told.__setitem__)
            assert made == free
            assert [told[number] for number in range(len(rows))] == made
        eos = (free[0][1], free[2][3])
        ended = generate_rows(model, rows, max_new_tokens=NEW, eos_ids=eos, batch=4)
        ends = [next((i for i, token in enumerate(one) if token in eos), NEW) for one in free]
        assert ended == [one[:end] for one, end in zip(free, ends, strict=True)]


def test_prompts_of_different_lengths_stay_apart_where_padding_is_not_neutral() -> None:
    """Rotary positions that follow the longest row of a batch: a short prompt may not meet a long one."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    model = build("Llama", rope_parameters=rope, max_position_embeddings=64)
    prefix, prompts = material((3, 9, 3, 60))
    rows = [prefix + prompt for prompt in prompts]
    alone = generate_rows(model, rows, max_new_tokens=NEW)
    assert generate_rows(model, rows, max_new_tokens=NEW, batch=4) == alone
    # A short proof would not see that the keys of a context depend on what comes after it.
    way = pick_strategy(model)
    assert way.name == WHOLE
    assert "dynamic" in way.reason
    assert decode_branches(way, model, prefix, prompts, max_new_tokens=NEW) == alone


def test_a_models_own_generation_settings_are_left_out_and_left_alone() -> None:
    """A repetition penalty would answer otherwise than the branches, which take the likeliest token."""
    model = build("Llama")
    prefix, prompts = material()
    whole = [prefix + prompt for prompt in prompts]
    own = GenerationConfig(repetition_penalty=3.0, max_length=10, eos_token_id=None, do_sample=True)
    model.generation_config = own
    assert generate_rows(model, whole, max_new_tokens=NEW, batch=2) == expected(model)
    traced = trace(model, whole[0], max_new_tokens=NEW)
    tokens, logits = recomputed(model, whole[0], NEW)
    assert traced.ids == tokens
    torch.testing.assert_close(torch.stack(traced.logits), logits, rtol=1e-3, atol=2e-4)
    assert model.generation_config is own
    with pytest.raises(RuntimeError, match="no more"):
        generate_rows(model, whole, max_new_tokens=NEW, on_answer=_stop)
    assert model.generation_config is own


def _stop(*_: Any) -> None:
    raise RuntimeError("no more")


def test_reuse_can_be_declined() -> None:
    model = build("Llama")
    assert pick_strategy(model).name == SHARED
    way = pick_strategy(model, reuse=False)
    assert (way.name, "as asked" in way.reason) == (WHOLE, True)
    prefix, prompts = material()
    assert decode_branches(way, model, prefix, prompts, max_new_tokens=NEW) == expected(model)
    with pytest.raises(ValueError, match="synthetic positions"):
        decode_branches(way, model, prefix, prompts, max_new_tokens=NEW, positions=list(range(50)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_answers_as_its_merged_model() -> None:
    from peft import LoraConfig, get_peft_model

    base = build("Llama", seed=2)
    own = base.generation_config = GenerationConfig(repetition_penalty=3.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(base, made).eval()
    prefix, prompts = material()
    rows = [prefix + prompt for prompt in prompts]
    plain = generate_rows(model, rows, max_new_tokens=NEW, batch=2)
    traced = trace(model, rows[0], max_new_tokens=NEW)
    shared = decode_branches(pick_strategy(model), model, prefix, prompts, max_new_tokens=NEW)
    assert model.get_base_model().generation_config is own
    merged = model.merge_and_unload()
    assert plain == shared == expected(merged)
    assert traced.ids == plain[0]
    assert plain != expected(build("Llama", seed=2))
