"""A small random model on disk, as `save_pretrained` leaves one."""

from __future__ import annotations

from pathlib import Path

from tests.data.tokenizers_for_tests import byte_level

WINDOW = 256


def tiny_llama(folder: Path) -> Path:
    """A Llama of two layers with a window of 256 tokens, and a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>", bos_token="<s>")
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=WINDOW,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            initializer_range=0.3,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
