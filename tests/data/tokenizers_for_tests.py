"""Tokenizers of every kind that joins differently, trained here on a few texts: no download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

PROSE = [
    "The river ran past the mill, and the miller counted sacks of grain until evening came.",
    "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return",
    "A second look showed   three spaces,\ttabs\tand a trailing space. \nNew line; numbers 12 345 6789.",
    "漢字とかな、それから日本語の文章です。中文也在这里。 한국어 문장도 있습니다.",
    "Café naïve co\u0302te\u0301, ﬁne ligatures, e\u0301clair — “quotes” and … dots.",
    "Families 👨‍👩‍👧‍👦 and flags 🇫🇷🇯🇵, thumbs 👍🏽, hearts ❤️ everywhere.",
] * 30

LITERAL_MARKER = "▁ a literal marker"
"""No Metaspace tokenizer can tell this sign from a space."""

TRICKY = [
    *PROSE[:6],
    "  leading spaces",
    "\tleading tab",
    "trailing spaces   ",
    "blank lines\n\n\n  between them\n",
    "\nstarts with a newline",
    "line one\n\nline three\n\n",
    "</s><s> names of special tokens <unk>",
    "x",
    " ",
    "\u0301starts with a mark",
]


@lru_cache(maxsize=1)
def byte_level() -> Any:
    """GPT-2's kind: bytes, no prefix space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.ByteLevel(trim_offsets=True)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        PROSE,
        trainers.BpeTrainer(
            vocab_size=600, initial_alphabet=alphabet, special_tokens=["<unk>", "<s>", "</s>"]
        ),
    )
    return core


@lru_cache(maxsize=1)
def byte_level_prefixed() -> Any:
    """The byte-level kind that puts a space before every text."""
    from tokenizers import Tokenizer, pre_tokenizers

    core = Tokenizer.from_str(byte_level().to_str())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return core


def _byte_pieces() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _train_metaspace() -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    draft = Tokenizer(models.BPE(unk_token="<unk>"))
    draft.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    latin = [text.replace("\t", " ").replace("\n", " ") for text in PROSE if text.isascii()]
    draft.train_from_iterator(latin, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"]))
    model = json.loads(draft.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    pieces = ["<unk>", "<s>", "</s>", *_byte_pieces(), *(p for p in model["vocab"] if p != "<unk>")]
    return {piece: number for number, piece in enumerate(pieces)}, merges


@lru_cache(maxsize=1)
def llama_legacy() -> Any:
    """Llama-2's kind: a normalizer prepends the marker, unknown characters fall back to bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab, merges = _train_metaspace()
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return core


@lru_cache(maxsize=1)
def metaspace() -> Any:
    """Newer conversions of SentencePiece: a Metaspace pre-tokenizer that prepends to the first piece only."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab, merges = _train_metaspace()
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return core


@lru_cache(maxsize=1)
def unigram() -> Any:
    """A Unigram model behind Metaspace, with byte fallback."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab, _ = _train_metaspace()
    scores = [(piece, -2.0 - 0.01 * number) for piece, number in vocab.items()]
    core = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def word_level(texts: list[str]) -> Any:
    """Whole words with the space before them, like the tiny model's: it knows the given texts only."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^ \n]+| "), "isolated")
    core.decoder = decoders.Fuse()
    words = sorted({piece for text in texts for piece, _ in core.pre_tokenizer.pre_tokenize_str(text)})
    vocab = {word: number for number, word in enumerate(["<unk>", *words])}
    core.model = models.WordLevel(vocab, unk_token="<unk>")
    return core


def lowercasing() -> Any:
    """A tokenizer that loses case and white space: everything is lossy."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    core = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "river": 2, "mill": 3}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return core


KINDS = {
    "byte-level": byte_level,
    "byte-level-prefixed": byte_level_prefixed,
    "llama-legacy": llama_legacy,
    "metaspace": metaspace,
    "unigram": unigram,
}


def as_transformers(core: Any, **special: Any) -> Any:
    """A backend wrapped as a transformers tokenizer."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def prompt_text(assembler: Any, bundle: Any, branch: Any) -> str:
    """The whole prompt of one branch as text, chat turn included and the opening token left out."""
    before, between, after = assembler.around(bundle)
    return str(before + assembler.context_text(bundle) + between + branch.question + after)
