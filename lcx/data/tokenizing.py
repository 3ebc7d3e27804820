"""Where tokens lie in a text: the dependency-free `simple` tokenizer, and any fast Hugging Face tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lcx.errors import LcxError
from lcx.hub import load_tokenizer
from lcx.work.files import sha256_text


class SpanTokenizer(Protocol):
    """Cuts text into tokens known by their places only. `fingerprint` changes when the cuts may."""

    name: str
    fingerprint: str

    def spans(self, text: str) -> list[tuple[int, int]]:
        """`[start, end)` of every token, in characters (code points), in order of their starts."""
        ...

    def starts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text the start of every token, int64 and ascending: all that counting tokens needs."""
        ...


# Chinese, Japanese kana and Korean syllables: most vocabularies spend about one token on each.
_WIDE = "\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_SIMPLE = re.compile(
    r"\n"
    r"| ?[A-Za-z]{1,6}"  # a word's first piece takes the space before it, as byte-level vocabularies do
    r"| ?[0-9]{1,3}"
    r"|[^\S\n]+"
    rf"|(?:(?![{_WIDE}])[^\W\d_]){{1,2}}"  # other scripts and accented letters are cut finer
    r"|.",
    re.DOTALL,
)


_WORDS = re.compile(r"\n| ?[^ \n]+| ")


class RegexTokenizer:
    """Counts tokens by one regular expression whose matches cover the text without gaps."""

    def __init__(self, name: str, pattern: re.Pattern[str]) -> None:
        self.name = name
        self.fingerprint = sha256_text(pattern.pattern)
        self._pattern = pattern

    def spans(self, text: str) -> list[tuple[int, int]]:
        """`[start, end)` of every token, in characters."""
        return [match.span() for match in self._pattern.finditer(text)]

    def starts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Starts of the tokens of each text, int64."""
        return [np.fromiter((m.start() for m in self._pattern.finditer(text)), np.int64) for text in texts]


HINT = "a local folder with tokenizer.json, or `simple`, which needs no download and counts rather too many tokens"

BUILTIN = {
    "simple": RegexTokenizer("simple", _SIMPLE),  # rather more tokens than a language model's
    "words": RegexTokenizer("words", _WORDS),  # whole words and newlines, as the tiny model reads
}


class FastTokenizer:
    """A fast (Rust) tokenizer seen as spans; no special tokens are added, and none are read in the text."""

    def __init__(self, backend: Any, name: str) -> None:
        self.name = name
        self._backend = plain_backend(backend)
        self.fingerprint = backend_fingerprint(backend)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """`[start, end)` of every token, in characters; several tokens of one character share its span."""
        return list(self._backend.encode(text, add_special_tokens=False).offsets)

    def starts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Starts of the tokens of each text, int64; the texts are cut in parallel."""
        found = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [np.fromiter((start for start, _ in one.offsets), np.int64) for one in found]


def open_span_tokenizer(spec: str | Path) -> SpanTokenizer:
    """The tokenizer that a spec names: `simple`, `words`, a folder, a tokenizer.json, or a Hugging Face id.

    Raises MissingError where it cannot be loaded, LcxError for a slow tokenizer, which knows no offsets.
    """
    if str(spec) in BUILTIN:
        return BUILTIN[str(spec)]
    return FastTokenizer(load_backend(spec), str(spec))


def load_backend(spec: str | Path) -> Any:
    """The `tokenizers.Tokenizer` of a local folder or file, or of a Hugging Face id.

    A local tokenizer.json is read without importing transformers. Raises MissingError within seconds.
    """
    from tokenizers import Tokenizer

    path = Path(spec).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file() and file.suffix == ".json":
        try:
            return Tokenizer.from_file(str(file))
        except Exception as bad:
            raise LcxError(
                f"{file} is not a tokenizer",
                why=str(bad),
                hint="Save it again with `tokenizer.save_pretrained`.",
            ) from bad
    return backend_of(load_tokenizer(spec, hint=HINT))


def backend_of(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` inside a transformers tokenizer. Raises LcxError for a slow one."""
    from tokenizers import Tokenizer

    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise LcxError(
            f"{type(tokenizer).__name__} is a slow tokenizer",
            why="It cannot say where in the text its tokens lie, which cutting segments needs.",
            hint="Convert it once: `save_pretrained` its fast version into a folder.",
        )
    return backend


_CONTROL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|<[|｜][^\s]*[|｜]>")


def is_control(name: str) -> bool:
    """Whether an added token is a command by its looks (`<tool_call>`, `[INST]`), and not a run of spaces or a word."""
    return _CONTROL.fullmatch(name) is not None


def plain_backend(backend: Any) -> Any:
    """A copy that neither truncates nor pads, and takes control tokens' names found in the text for plain text.

    Control tokens are the special ones and those that look like one: many vocabularies add `<tool_call>` and its like
    without calling them special.
    """
    from tokenizers import Tokenizer

    text = backend.to_str()
    added = backend.get_added_tokens_decoder().values()
    if any(is_control(one.content) and not one.special for one in added):
        rules = json.loads(text)
        for one in rules["added_tokens"]:
            one["special"] = one["special"] or is_control(one["content"])
        text = json.dumps(rules)
    copy = Tokenizer.from_str(text)
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def backend_fingerprint(backend: Any) -> str:
    """Hex digest of a tokenizer's rules and vocabulary; padding and truncation do not count."""
    return sha256_text(plain_backend(backend).to_str())
