"""Small GGUF files: a llama of random weights with a byte-level tokenizer, written as llama.cpp's converter does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 512
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot|>")
MERGES = ("Ċ Ċ", "Ġ Ġ", "ĊĊ Ġ", "ĊĊ ĠĠ")


def vocabulary() -> list[str]:
    """Special tokens, all bytes, and what the merges make."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]


def llama_model() -> Any:
    """A llama of two layers with random weights, in eval mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _tensors(model: Any) -> dict[str, np.ndarray]:
    config = model.config
    found = {}
    for name, weight in model.state_dict().items():
        value = weight.float().numpy()
        parts = name.removesuffix(".weight").split(".")
        if parts[:2] == ["model", "layers"]:
            kind = NAMES[".".join(parts[3:])]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(kind)
            if heads:  # llama.cpp turns neighbouring numbers of a head, transformers those half a head apart
                halves = value.reshape(heads, 2, value.shape[0] // heads // 2, value.shape[1])
                value = halves.swapaxes(1, 2).reshape(value.shape)
            found[f"blk.{parts[2]}.{kind}.weight"] = value
        elif name == "model.embed_tokens.weight":
            found["token_embd.weight"] = value
        elif name == "model.norm.weight":
            found["output_norm.weight"] = value
    return found


def write_gguf(
    path: Path,
    model: Any,
    *,
    architecture: str = "llama",
    values: Mapping[str, str] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    without: Sequence[str] = (),
) -> Path:
    """Write a llama as a GGUF file; `values` and `extra` are metadata and tensors besides."""
    from gguf import GGUFWriter, TokenType

    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_name("Small")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    words = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types(
        [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(words) - len(SPECIAL))
    )
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(3)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for key, value in (values or {}).items():
        writer.add_string(key, value)
    for name, value in {**_tensors(model), **(extra or {})}.items():
        if name not in without:
            writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
