"""A model on disk that a real server can load, and that judges: its weights say `facts and statement`, a rating, stop.

Attention and feed-forward parts are zero, so the next token follows from the last one: anything is followed by one
token that holds a fact, a statement and a level of support, that one by any of the ratings alike, a rating by the end.
"""

from __future__ import annotations

from pathlib import Path

from tests.data.tokenizers_for_tests import byte_level

START = "1. A fact.\n<statement>A statement.</statement> [[Partially supported]] "
RATINGS = [f"[[{n}]]" for n in range(11)]
WIDTH, SURE = 32, 5.0


def served_model(folder: Path) -> Path:
    """Save the model and its tokenizer, whose chat template joins the messages."""
    import torch
    from tokenizers import AddedToken
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>", bos_token="<s>")
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in (START, *RATINGS)])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=65536,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    start = tokenizer.convert_tokens_to_ids(START)
    ratings = [tokenizer.convert_tokens_to_ids(text) for text in RATINGS]
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1
        for place, tokens in ((1, [start]), (2, ratings)):
            model.model.embed_tokens.weight[tokens, 0] = 0
            model.model.embed_tokens.weight[tokens, place] = 1
        model.lm_head.weight.zero_()
        model.lm_head.weight[start, 0] = SURE
        model.lm_head.weight[ratings, 1] = SURE
        model.lm_head.weight[tokenizer.eos_token_id, 2] = SURE
    model.save_pretrained(folder)
    GenerationConfig(do_sample=True, eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    return folder
