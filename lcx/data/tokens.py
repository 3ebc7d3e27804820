"""Tokens of texts: where they lie, how pieces are tokenised so that they join, and the store of a table's tokens.

Span tokenizers count (`simple` needs no download); `PieceTokenizer` encodes pieces whose tokens together decode to the
joined text; `TokenStore` keeps a segment table's tokens on disk, one for each tokenizer.

Three things stand in the way of joining. SentencePiece-like tokenizers put a space before whatever they are given, so a
piece that does not come first needs rules without that space. Special tokens' names inside a corpus must stay plain
text. And some tokenizers normalise or know only part of the alphabet: then a piece is *lossy*, which is counted, not
hidden.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lcx.errors import LcxError
from lcx.hub import load_tokenizer
from lcx.storage import disk_errors, make_folder, read_json, sha256_json, sha256_text, write_json

if TYPE_CHECKING:
    from lcx.data.table import SegmentTable


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
        found = []
        for text in texts:
            # Without gaps between them, a token begins where the lengths of those before it add up to
            lengths = np.fromiter(map(len, self._pattern.findall(text)), np.int64)
            found.append(np.cumsum(lengths) - lengths)
        return found


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


def is_control(name: str) -> bool:
    """Whether an added token is a command by its looks and not a run of spaces, an arrow or a word.

    Commands are such as `<tool_call>`, `[INST]`, `<|im_end|>`, and DeepSeek's `｜DSML｜` and `<dsml:`.
    """
    if any(sign.isspace() for sign in name) or not any(sign.isalnum() for sign in name):
        return False
    return any(sign in name for sign in "<>|｜") or (name[0] == "[" and name[-1] == "]")


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


class Shown:
    """Contexts as a preview shows them: as their token ids decode, part by part, where the tokenizer has ids."""

    def __init__(self, spec: str) -> None:
        """`spec` is the step's tokenizer; one that only counts leaves texts as they are written."""
        self.spec = spec
        self._pieces = None if spec in BUILTIN else PieceTokenizer(load_backend(spec))

    @property
    def note(self) -> str:
        """What the reader of a preview has to know."""
        if self._pieces is None:
            return (
                f"Texts are shown as they are written: `{self.spec}` counts tokens and has no ids. "
                "`lcx train --preview 3` shows rows as their token ids decode."
            )
        return f"Contexts are shown as their token ids by `{self.spec}` decode, put together as training does it."

    def context(self, texts: Sequence[str], marks: Mapping[int, str]) -> list[str]:
        """A context in Markdown: the marked parts, those at both ends, and how much lies between."""
        if self._pieces is None:
            return []
        ids, lossy = self._pieces.later_batch([*texts, SEPARATOR])
        separator = ids.pop()
        said = self._pieces.decode_later(ids)
        whole = sum(map(len, ids)) + len(separator) * (len(texts) - 1)
        lines = [f"The context, {whole:,} token ids in {len(texts)} parts:", ""]
        left_out: list[int] = []
        for place, text in enumerate(said):
            if place not in marks and ENDS <= place < len(texts) - ENDS:
                left_out.append(len(ids[place]) + len(separator))
                continue
            lines += _left_out(left_out)
            name = f"{marks[place]}, part" if place in marks else "part"
            other = ", not as it is written" if place in lossy else ""
            lines += [f"- {name} {place + 1}, {len(ids[place]):,} ids{other}:", "", *_indented(text), ""]
        return lines

    def text(self, text: str) -> str:
        """A text as its token ids decode."""
        if self._pieces is None:
            return text
        return self._pieces.decode_later([self._pieces.later(text)])[0]


ENDS = 1
"""Parts at either end of a context that a preview shows."""


def _left_out(tokens: list[int]) -> list[str]:
    if not tokens:
        return []
    line = f"- … {len(tokens):,} parts, {sum(tokens):,} ids …"
    tokens.clear()
    return [line, ""]


def _indented(text: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"  {line}" for line in (f"{fence}text", *text.split("\n"), fence)]


_ANCHORS = ("\n", "a", "e", "0", ".", ",", "=")


class PieceTokenizer:
    """Encodes a text that stands `first` or `later` than other pieces, and decodes what was joined."""

    def __init__(self, tokenizer: Any) -> None:
        backend = backend_of(tokenizer)
        self.backend = backend
        self.fingerprint = backend_fingerprint(backend)
        self._special: dict[str, Any] = {}
        self._start = plain_backend(backend)
        rules = json.loads(self._start.to_str())
        self.prefixed = _drop_prefix_space(rules)
        """Whether the tokenizer puts a space before the text it is given."""
        self._later = plain_backend(_from_rules(rules)) if self.prefixed else self._start
        if self.prefixed and self.first_is_lossy("a") and self.decode(self._later.encode("a").ids) == "a":
            self._start = self._later  # its decoder does not take the space away again
        self._anchor, self._anchor_text = self._find_anchor()
        self.vocabulary = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=0)
        """One more than the largest token id."""

    def first(self, text: str) -> list[int]:
        """Token ids of a text with nothing before it."""
        ids = self._start.encode(text, add_special_tokens=False).ids
        if self.prefixed and text[:1].isspace() and self.decode(ids) != text:
            # Some add no space to a text that starts with one, yet the decoder takes one away.
            spare = self._later.encode(" " + text, add_special_tokens=False).ids
            return spare if self.decode(spare) == text else ids
        return ids

    def later(self, text: str) -> list[int]:
        """Token ids of a text that other tokens precede."""
        return self.later_batch([text])[0][0]

    def later_batch(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids of texts that other tokens precede, and the places of texts that come out lossy."""
        found = self._later.encode_batch(list(texts), add_special_tokens=False)
        ids = [one.ids for one in found]
        lossy = []
        for place, decoded in enumerate(self._decode_after_anchor(ids)):
            if decoded == texts[place]:
                continue
            other = self._sliced(texts[place])
            if other is not None:
                ids[place] = other
            else:
                lossy.append(place)
        return ids, lossy

    def first_is_lossy(self, text: str) -> bool:
        """Whether a text that stands first does not decode to itself."""
        return self.decode(self.first(text)) != text

    def special(self, text: str) -> list[int]:
        """Token ids of a template's text, which may name special tokens; nothing precedes it."""
        return self._marked(text, False)

    def special_later(self, text: str) -> list[int]:
        """Token ids of a template's text, which may name special tokens, after other tokens."""
        return self._marked(text, True)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of joined pieces, special tokens included."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=False)

    def decode_later(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The texts of pieces that other tokens precede, each by itself."""
        return self._decode_after_anchor(ids)

    def reader(self, kind: str) -> Any:
        """A backend that reads special tokens: `first` and `later` for pieces, `whole` as the tokenizer itself does."""
        if kind not in self._special:
            rules = {"first": self._start, "later": self._later, "whole": self.backend}[kind]
            self._special[kind] = plain_backend(rules)
            self._special[kind].encode_special_tokens = False
        return self._special[kind]

    def _marked(self, text: str, later: bool) -> list[int]:
        return self.reader("later" if later else "first").encode(text, add_special_tokens=False).ids

    def _find_anchor(self) -> tuple[list[int], str]:
        """A short first piece that decodes to itself: pieces are checked by decoding them behind it."""
        for text in _ANCHORS:
            ids = self.first(text)
            if ids and self.decode(ids) == text:
                return ids, text
        return [], ""

    def _decode_after_anchor(self, ids: Sequence[Sequence[int]]) -> list[str]:
        rows = [[*self._anchor, *one] for one in ids]
        texts = self.backend.decode_batch(rows, skip_special_tokens=False)
        skip = len(self._anchor_text)
        return [text[skip:] if text.startswith(self._anchor_text) else "" for text in texts]

    def _sliced(self, text: str) -> list[int] | None:
        """Tokens of a text cut from those of anchor + text, where changing the rules did not do."""
        for anchor in _ANCHORS:
            found = self._start.encode(anchor + text, add_special_tokens=False)
            place = next((i for i, (start, _) in enumerate(found.offsets) if start >= len(anchor)), None)
            if place and found.offsets[place - 1][1] <= len(anchor):
                ids = found.ids[place:]
                if self._decode_after_anchor([ids])[0] == text:
                    return ids
        return None


def _drop_prefix_space(rules: dict[str, Any]) -> bool:
    """Change a tokenizer's JSON so that it adds no space before the text; return whether it did."""
    changed = False

    def visit(part: Any) -> Any:
        nonlocal changed
        if not isinstance(part, dict):
            return part
        kind = part.get("type")
        if kind == "Sequence":
            for name in ("normalizers", "pretokenizers"):
                if name in part:
                    part[name] = [new for new in map(visit, part[name]) if new is not None]
        elif kind == "Prepend":
            changed = True
            return None
        elif kind == "Metaspace" and part.get("prepend_scheme", "always") != "never":
            part["prepend_scheme"] = "never"
            changed = True
        elif kind == "ByteLevel" and part.get("add_prefix_space"):
            part["add_prefix_space"] = False
            changed = True
        return part

    rules["normalizer"] = visit(rules.get("normalizer"))
    rules["pre_tokenizer"] = visit(rules.get("pre_tokenizer"))
    return changed


def _from_rules(rules: dict[str, Any]) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(rules))


SEPARATOR = "\n"
"""What stands between two segments of a context."""
FORMAT = 1
SEGMENTS_A_BATCH = 2048
ABANDONED = 86_400
"""Seconds after which a half-built store counts as left behind."""


class TokenStore:
    """Token ids of segments as they stand after other tokens: `store[i]`, `store.join(indices)`.

    `info` records how many segments are lossy: their tokens do not decode to their text, since the tokenizer
    normalises or does not know some characters.
    """

    def __init__(self, folder: Path, ids: np.ndarray, offsets: np.ndarray, info: dict[str, Any]) -> None:
        self.folder = folder
        self._ids = ids
        self._offsets = offsets
        self.info = info
        self.separator = np.array(info["separator"], ids.dtype)
        """Token ids of the newline between two segments."""
        self.lengths: np.ndarray = np.diff(offsets)
        """int64 [n]: tokens of each segment."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.folder,)  # a data-loader worker maps the files again instead of copying them

    @property
    def dtype(self) -> np.dtype:
        """uint16 for vocabularies of up to 65,536 tokens, else uint32."""
        return self._ids.dtype

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._ids[self._offsets[index] : self._offsets[index + 1]]

    def join(self, indices: Sequence[int], *, first: np.ndarray | None = None) -> np.ndarray:
        """Token ids of segments joined by separators, in the store's dtype.

        `first` replaces the first segment's tokens where nothing precedes the context.
        """
        ids, offsets, separator = self._ids, self._offsets, self.separator
        places = np.asarray(indices, np.int64)
        if not len(places):
            return np.empty(0, ids.dtype)
        parts = []
        for low, high in zip(offsets[places].tolist(), offsets[places + 1].tolist(), strict=True):
            parts.append(ids[low:high])
            parts.append(separator)
        parts.pop()
        if first is not None:
            parts[0] = first.astype(ids.dtype, copy=False)
        return np.concatenate(parts)


def open_token_store(
    tokenizer: Any,
    table: SegmentTable,
    cache: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """The store of a tokenizer and a table from the folder `cache`, built there first where it is missing.

    `progress(done, total)` is called with segments while building. A store that a kill left half-built is
    never used, nor one whose checksums say that it is damaged: it is built anew. Raises LcxError for a slow
    tokenizer, or a full or read-only disk.
    """
    pieces = tokenizer if isinstance(tokenizer, PieceTokenizer) else PieceTokenizer(tokenizer)
    folder = Path(cache) / "tokens" / f"{pieces.fingerprint[:20]}-{table.fingerprint[:20]}"
    try:
        return _load(folder, verify=True)
    except (OSError, LcxError, ValueError, KeyError, TypeError):
        pass  # missing, of an older format, or damaged: it is a cache, so it is built anew
    _sweep(folder)
    building = folder.with_name(f"{folder.name}.building-{os.getpid()}-{secrets.token_hex(4)}")
    make_folder(building)
    try:
        with disk_errors(building):
            _build(pieces, table, building, progress)
        if folder.exists():
            with suppress(OSError, LcxError, ValueError, KeyError, TypeError):
                return _load(folder, verify=True)  # another process was faster
            shutil.rmtree(folder)
        with disk_errors(folder):
            try:
                building.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
        return _load(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes killed a day ago or more left half-built; a younger one may still be at work."""
    for old in folder.parent.glob(f"{folder.name}.building-*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old)


def _build(
    pieces: PieceTokenizer,
    table: SegmentTable,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    dtype = np.dtype("<u2" if pieces.vocabulary <= 1 << 16 else "<u4")
    total = len(table)
    lengths = np.zeros(total, np.int64)
    lossy: list[int] = []
    with (folder / "ids.bin").open("wb") as file:
        for low in range(0, total, SEGMENTS_A_BATCH):
            high = min(low + SEGMENTS_A_BATCH, total)
            ids, bad = pieces.later_batch(table.texts(range(low, high)))
            lossy.extend(low + place for place in bad)
            for place, one in enumerate(ids):
                lengths[low + place] = len(one)
            file.write(np.array([token for one in ids for token in one], dtype).tobytes())
            if progress:
                progress(high, total)
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype("<i8"))
    separator, bad = pieces.later_batch([SEPARATOR])
    info = {
        "format": FORMAT,
        "tokenizer": pieces.fingerprint,
        "table": table.fingerprint,
        "dtype": dtype.str,
        "segments": total,
        "tokens": int(lengths.sum()),
        "separator": separator[0],
        "separator_lossy": bool(bad),
        "lossy": len(lossy),
        "lossy_examples": lossy[:20],
        "prefixed": pieces.prefixed,
        "crc32": {name: _crc32(folder / name) for name in ("ids.bin", "offsets.npy")},
    }
    write_json(folder / "store.json", {**info, "sha256": sha256_json(info)})


def _crc32(path: Path) -> int:
    """The checksum of a file: quick enough to be taken of every store that is opened."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found = zlib.crc32(block, found)
    return found


def _load(folder: Path, *, verify: bool = False) -> TokenStore:
    """The store in a folder, its checksums verified where asked and where it has them. Raises for one that is none."""
    info = read_json(folder / "store.json")
    said = info.pop("sha256", None)
    if verify and said is not None:
        found = {name: _crc32(folder / name) for name in info["crc32"]}
        if said != sha256_json(info) or found != info["crc32"]:
            raise ValueError("not what was written")
    offsets = np.load(folder / "offsets.npy")
    if info["format"] != FORMAT or len(offsets) != info["segments"] + 1 or offsets[-1] != info["tokens"]:
        raise ValueError("not a store of this format")
    size = (folder / "ids.bin").stat().st_size
    if size != info["tokens"] * np.dtype(info["dtype"]).itemsize:
        raise ValueError("ids.bin has the wrong size")
    if not size:  # an empty file cannot be mapped
        return TokenStore(folder, np.empty(0, info["dtype"]), offsets, info)
    # A plain view: slicing a memmap object itself costs ten times as much as slicing an array.
    ids = np.asarray(np.memmap(folder / "ids.bin", dtype=info["dtype"], mode="r"))
    return TokenStore(folder, ids.view(np.ndarray), offsets, info)
