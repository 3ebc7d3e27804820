"""The `tiny` model: a 2-layer, width-64 Llama with its own word-level tokenizer, small enough to train on the spot.

The tokenizer knows whole words only. A token is a literal piece of text (a word with the space before it, a bare word
at the start of a line, or a newline), so decoding is plain concatenation: `decode(encode(text)) == text` for every text
of known words, and pieces that were tokenised apart decode to the joined text.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
SPECIAL = (PAD, UNK, EOS)
NEWLINE = "\n"
LINE_STARTS = ("*", "?")
"""Words that may start a line: `*` a record, `?` a query."""
MARKS = ("=", ";")
"""Words inside a line: `=` stands between a query and its answer, `;` ends the answer."""

_PIECE = Regex(r"\n| ?[^ \n]+| ")


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer for `words`; the ids depend on the set of words only, not on their order."""
    inner = sorted(set(words) | set(LINE_STARTS) | set(MARKS))
    pieces = [*SPECIAL, NEWLINE, *LINE_STARTS, " ", *(f" {word}" for word in inner)]
    core = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(_PIECE, behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        padding_side="left",  # batched generation needs every prompt to end at the same column
        clean_up_tokenization_spaces=False,
        model_max_length=int(1e9),  # the rotary positions set no limit of their own
    )


def tiny_config(
    vocab_size: int, *, pad_token_id: int = 0, eos_token_id: int = 2, hidden_size: int = 64, layers: int = 2, heads: int = 2
) -> LlamaConfig:
    """Configuration of the tiny Llama; token ids are those of `build_tokenizer`."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        eos_token_id=eos_token_id,
    )


def new_model(seed: int, vocab_size: int) -> LlamaForCausalLM:
    """A freshly initialised tiny model; the caller's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config(vocab_size))
