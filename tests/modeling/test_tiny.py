"""The tiny model: a tokenizer that keeps every space, a small Llama, and branches that see only themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lcx.data.stdlib import catalogue_documents, load_entities, record_text, vocabulary
from lcx.modeling.tiny import (
    ANSWER,
    BRANCH,
    RECORDS,
    SPANS,
    World,
    answer_logits,
    build_tokenizer,
    draw_contexts,
    load_world,
    new_model,
    probe,
    with_queries,
)


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_decoding_gives_the_text_back(world: World) -> None:
    text = next(catalogue_documents(1, 3))["text"]
    entity = load_entities()[5]
    text += f"\n? {entity.name} = {entity.name} {entity.module} ;\n\n"
    encoded = world.tokenizer(text, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    assert world.tokenizer.unk_token_id not in ids
    assert world.tokenizer.decode(ids) == text
    pieces = [text[a:b] for a, b in encoded["offset_mapping"]]
    assert "".join(pieces) == text
    assert pieces == world.tokenizer.convert_ids_to_tokens(ids)


def test_records_tokenised_apart_join_to_the_same_tokens(world: World) -> None:
    lines = [record_text(entity, entity.module) for entity in load_entities()[:5]]
    apart = [world.tokenizer(line)["input_ids"] for line in lines]
    joined = apart[0] + [token for ids in apart[1:] for token in [world.newline, *ids]]
    assert joined == world.tokenizer("\n".join(lines))["input_ids"]


def test_vocabulary_order_does_not_matter_and_unknown_words_are_unknown() -> None:
    words = vocabulary(load_entities()[:10])
    assert build_tokenizer(words).get_vocab() == build_tokenizer(reversed(words)).get_vocab()
    tokenizer = build_tokenizer(words)
    assert tokenizer("* zzz_unknown")["input_ids"][1] == tokenizer.unk_token_id
    assert {tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token} == {"<pad>", "<unk>", "<eos>"}


def test_a_saved_model_and_tokenizer_load_as_any_other(world: World, tmp_path: Path) -> None:
    model = new_model(0, len(world.tokenizer)).eval()
    model.save_pretrained(tmp_path)
    world.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    text = next(catalogue_documents(1, 3, records=4))["text"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.padding_side == "left"
    inputs = tokenizer(text, return_tensors="pt")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.config.eos_token_id == tokenizer.eos_token_id
    assert loaded.config.pad_token_id == tokenizer.pad_token_id


def test_a_model_depends_on_its_seed_and_leaves_the_random_state(world: World) -> None:
    before = torch.get_rng_state()
    one, same, other = (new_model(seed, len(world.tokenizer)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_rows_are_the_tokens_of_the_template(world: World) -> None:
    contexts = draw_contexts(world, 1, 3, generator())
    row = with_queries(world, contexts, torch.tensor([[1]]))[0].tolist()
    lines = world.tokenizer.decode(contexts.flatten()[:-1]).split("\n")
    _, name, module, *_ = lines[1].split()
    text = "\n".join(lines) + f"\n? {name} = {name} {module} ;"
    assert world.tokenizer.decode(row) == text
    assert world.tokenizer(text)["input_ids"] == row


def test_contexts_hold_distinct_keys_and_dealt_modules(world: World) -> None:
    contexts = draw_contexts(world, 6, RECORDS, generator())
    assert all(len(set(keys)) == RECORDS for keys in contexts[:, :, 1].tolist())
    assert set(contexts[:, :, 2].flatten().tolist()) <= set(world.modules.tolist())


def test_a_branch_answers_as_if_it_were_alone(world: World) -> None:
    model = new_model(0, len(world.tokenizer)).eval()
    contexts = draw_contexts(world, 2, 4, generator())
    gold = torch.tensor([[0, 3, 2], [1, 1, 0]])
    with torch.no_grad():
        together, targets = answer_logits(model, with_queries(world, contexts, gold), 3)
        for number in range(3):
            row = with_queries(world, contexts, gold[:, number : number + 1])
            plain = model(row).logits[:, -BRANCH:][:, list(ANSWER)]
            torch.testing.assert_close(together[:, number], plain, atol=1e-5, rtol=1e-4)
            assert torch.equal(targets[:, number], row[:, -3:])


def test_probe_has_one_share_a_span_and_keeps_the_mode(world: World) -> None:
    model = new_model(0, len(world.tokenizer)).train()
    spans = probe(model, world, per_span=64)
    assert len(spans) == SPANS
    assert all(0 <= share <= 0.1 for share in spans)
    assert model.training
