"""Tokens of texts: where they lie, how pieces are tokenised so that they join, and the store of a table's tokens.

Span tokenizers count (`simple` needs no download); `PieceTokenizer` encodes pieces whose tokens together decode to the
joined text; `TokenStore` keeps a segment table's tokens on disk, one for each tokenizer.

Three things stand in the way of joining. SentencePiece-like tokenizers put a space before whatever they are given, so a
piece that does not come first needs rules without that space. Special tokens' names inside a corpus must stay plain
text. And some tokenizers normalise or know only part of the alphabet: then a piece is *lossy*, which is counted, not
hidden.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from lcx.errors import LcxError
from lcx.hub import load_tokenizer
from lcx.storage import (
    Journal,
    disk_errors,
    make_folder,
    open_own,
    read_json,
    sha256_json,
    sha256_text,
    write_bytes,
    write_json,
)

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
FORMAT = 3
SEGMENTS_A_BATCH = 2048
ABANDONED = 86_400
"""Seconds after which a half-built store counts as left behind."""
BLOCK = 1 << 16
"""Bytes under one checksum: what the first access to a segment reads more than the segment."""
VERIFIED_WHOLE = 64 << 20
"""Bytes of a store up to which all checksums are verified when it is opened; those of a larger one when they are used,
so that opening takes as long for any size.
"""
SYNCED = 32 << 20
"""Bytes of tokens after which a build notes where it is: what a kill costs."""
DIGEST = 16
"""Bytes of the digest by which a document is known again in another table."""
OTHERS = 4
"""Stores of other tables, the latest ones, in which documents are looked up when a store is built."""


class _Blocks:
    """A file of numbers, mapped; the checksum of a block is verified when it is first used. It raises LcxError then."""

    def __init__(self, path: Path, dtype: Any, skip: int, sums: np.ndarray) -> None:
        size = path.stat().st_size
        # A plain view: slicing a memmap object itself costs ten times as much as slicing an array
        raw = np.memmap(path, np.uint8, "r").view(np.ndarray) if size else np.empty(0, np.uint8)
        self.path, self._raw, self._skip, self._sums = path, raw, skip, sums
        self.items = raw[skip:].view(dtype)
        self._left = np.ones(len(sums), bool)  # blocks not verified yet
        self._any = bool(len(sums))

    def check(self, low: np.ndarray, high: np.ndarray) -> None:
        """Verify what holds the items `[low, high)`, for several ranges at a time."""
        if not self._any:
            return
        size = self.items.itemsize
        first = (self._skip + low * size) // BLOCK
        last = (self._skip + np.maximum(high * size - 1, low * size)) // BLOCK
        last = np.minimum(last, len(self._sums) - 1)
        wide = int((last - first).max(initial=0))
        for step in range(wide + 1):
            blocks = np.minimum(first + step, last)
            for block in np.unique(blocks[self._left[blocks]]).tolist():
                self._verify(block)

    def check_all(self) -> None:
        """Verify every block."""
        for block in np.flatnonzero(self._left).tolist():
            self._verify(block)

    def _verify(self, block: int) -> None:
        if zlib.crc32(self._raw[block * BLOCK : (block + 1) * BLOCK].tobytes()) != int(self._sums[block]):
            with suppress(OSError):
                (self.path.parent / "store.json").unlink()  # so that the next process builds the store anew
            raise LcxError(
                f"{self.path} is damaged",
                why=f"Bytes {block * BLOCK:,} to {(block + 1) * BLOCK:,} are not those that were written.",
                hint="Run the same command again: this cache of tokens is then built anew.",
            )
        self._left[block] = False
        if not self._left.any():
            self._any = False


class TokenStore:
    """Token ids of segments as they stand after other tokens: `store[i]`, `store.join(indices)`.

    `info` records how many segments are lossy: their tokens do not decode to their text, since the tokenizer
    normalises or does not know some characters. The files are mapped, and verified as they are used: any access may
    raise LcxError for a damaged disk.
    """

    def __init__(self, folder: Path, ids: _Blocks, offsets: _Blocks, info: dict[str, Any]) -> None:
        self.folder = folder
        self._ids = ids
        self._offsets = offsets
        self.info = info
        self.separator = np.array(info["separator"], ids.items.dtype)
        """Token ids of the newline between two segments."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.folder,)  # a data-loader worker maps the files again instead of copying them

    @property
    def dtype(self) -> np.dtype:
        """uint16 for vocabularies of up to 65,536 tokens, else uint32."""
        return self._ids.items.dtype

    def __len__(self) -> int:
        return len(self._offsets.items) - 1

    def lengths(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64: the numbers of tokens of some segments."""
        low, high = self._ranges(indices)
        return high - low

    def __getitem__(self, index: int) -> np.ndarray:
        low, high = self._ranges([index])
        self._ids.check(low, high)
        return self._ids.items[int(low[0]) : int(high[0])]

    def verify(self) -> None:
        """Verify all checksums now. Raises LcxError for what is damaged."""
        for blocks in (self._offsets, self._ids):
            blocks.check_all()

    def run(self, first: int, stop: int) -> np.ndarray:
        """Token ids of neighbouring segments `[first, stop)`, with nothing between them."""
        ends = np.array([first, stop], np.int64)
        self._offsets.check(ends, ends + 1)
        low, high = self._offsets.items[ends]
        self._ids.check(low[None], high[None])
        return self._ids.items[low:high]

    def join(self, indices: Sequence[int], *, first: np.ndarray | None = None) -> np.ndarray:
        """Token ids of segments joined by separators, in the store's dtype.

        `first` replaces the first segment's tokens where nothing precedes the context.
        """
        ids, separator = self._ids.items, self.separator
        if not len(indices):
            return np.empty(0, ids.dtype)
        lows, highs = self._ranges(indices)
        self._ids.check(lows, highs)
        parts = []
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            parts.append(ids[low:high])
            parts.append(separator)
        parts.pop()
        if first is not None:
            parts[0] = first.astype(ids.dtype, copy=False)
        return np.concatenate(parts)

    def _ranges(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.asarray(indices, np.int64)
        self._offsets.check(places, places + 2)
        return self._offsets.items[places], self._offsets.items[places + 1]


def open_token_store(
    tokenizer: Any,
    table: SegmentTable,
    cache: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """The store of a tokenizer and a table from the folder `cache`, built there first where it is missing.

    `progress(done, total)` is called with segments while building. A build that was killed goes on where it was,
    and one that another process is at is waited for. Documents that another table's store of this tokenizer has are not
    tokenised again: of a corpus that grew, only what is new. A store whose checksums say that it is damaged is built
    anew (see VERIFIED_WHOLE for when they are verified). Raises LcxError for a slow tokenizer, or a full or read-only
    disk.
    """
    pieces = tokenizer if isinstance(tokenizer, PieceTokenizer) else PieceTokenizer(tokenizer)
    folder = Path(cache) / "tokens" / f"{pieces.fingerprint[:20]}-{table.fingerprint[:20]}"
    unusable = (OSError, LcxError, ValueError, KeyError, TypeError, AttributeError)
    of = pieces.fingerprint, table.fingerprint
    with suppress(*unusable):
        return _load(folder, verify=True, of=of)
    # missing, of an older format, damaged, or another's: it is a cache, so it is built anew
    _sweep(folder)
    with _alone(folder) as building, disk_errors(folder):
        with suppress(*unusable):
            return _load(folder, verify=True, of=of)  # another process was faster
        _build(pieces, table, building, _others(folder, pieces), progress)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    return _load(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The place where a store is built, for this process alone; others wait.

    Where the file system has no locks, it is one of the process's own, which nobody goes on from.
    """
    place = folder.with_name(f"{folder.name}.building")
    while True:
        make_folder(place)
        try:
            handle = open_own(place / ".lock", os.O_RDWR)
        except FileNotFoundError:  # whoever built there has just finished, and taken the place along
            continue
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except (ImportError, OSError):
            os.close(handle)
            own = folder.with_name(f"{place.name}-{os.getpid()}-{secrets.token_hex(4)}")
            make_folder(own)
            try:
                yield own
            finally:
                shutil.rmtree(own, ignore_errors=True)
            return
        try:
            if _same_file(handle, place / ".lock"):  # else whoever had it has finished, and the place is gone
                yield place
                if (folder / "store.json").is_file():
                    shutil.rmtree(place, ignore_errors=True)
                return
        finally:
            os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what processes killed a day ago or more left half-built; a younger one may still be at work."""
    for old in folder.parent.glob(f"{folder.name}.building-*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old)


class _Other(NamedTuple):
    """The store of another table, and what it knows of its documents."""

    store: TokenStore
    digests: np.ndarray
    """S16: each document's."""
    firsts: np.ndarray
    """The number of the first segment of each document, and of the end."""
    lossy: np.ndarray
    """Segments that are lossy, in order."""


class _Others:
    """Stores of other tables, and the documents that they hold tokens of."""

    def __init__(self, stores: Sequence[_Other]) -> None:
        self._stores = stores
        sizes = [len(one.digests) for one in stores]
        joined = np.concatenate([*(one.digests for one in stores), np.empty(0, f"S{DIGEST}")])
        order = np.argsort(joined, kind="stable")
        self._digests = joined[order]
        self._owner = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._document = np.concatenate([*(np.arange(size) for size in sizes), np.empty(0, np.int64)])[order]

    def find(self, digest: bytes, segments: int) -> tuple[np.ndarray, np.ndarray, list[int]] | None:
        """Token ids, lengths of the segments, and places of lossy ones of a document, where a store has it."""
        place = int(np.searchsorted(self._digests, np.bytes_(digest))) if len(self._digests) else 0
        if place >= len(self._digests) or bytes(self._digests[place]).ljust(DIGEST, b"\0") != digest:
            return None
        one = self._stores[int(self._owner[place])]
        first, stop = one.firsts[int(self._document[place]) :][:2].tolist()
        if stop - first != segments:
            return None
        low, high = np.searchsorted(one.lossy, [first, stop])
        try:
            lengths = one.store.lengths(range(first, stop))
            return one.store.run(first, stop), lengths, (one.lossy[low:high] - first).tolist()
        except LcxError:
            return None


def _others(folder: Path, pieces: PieceTokenizer) -> _Others:
    """The latest stores of the same tokenizer, without those that cannot be read."""
    known: dict[Path, float] = {}
    for place in folder.parent.glob(f"{pieces.fingerprint[:20]}-*"):
        with suppress(OSError):
            if place != folder and (place / "store.json").is_file():
                known[place] = place.stat().st_mtime
    found = []
    for place in sorted(known, key=known.__getitem__, reverse=True)[:OTHERS]:
        with suppress(OSError, LcxError, ValueError, KeyError, TypeError):
            store = _load(place)
            if store.info["tokenizer"] != pieces.fingerprint:
                continue
            for name in ("documents.bin", "lossy.bin"):
                _check_file(place / name, store.info["crc32"])
            held = np.fromfile(place / "documents.bin", [("digest", f"S{DIGEST}"), ("segments", "<i4")])
            firsts = np.concatenate([[0], np.cumsum(held["segments"], dtype=np.int64)])
            found.append(_Other(store, held["digest"], firsts, np.fromfile(place / "lossy.bin", "<i8")))
    return _Others(found)


def _check_file(path: Path, sums: Mapping[str, int]) -> None:
    if _crc32(path) != sums[path.name]:
        raise ValueError(f"{path} is not what was written")


@dataclass
class _Progress:
    """How far a build is: what its files hold that is on disk for sure, and the running checksums of it."""

    documents: int = 0
    segments: int = 0
    tokens: int = 0
    ids_crc: int = 0
    lengths_crc: int = 0
    documents_crc: int = 0
    lossy_crc: int = 0
    lossy: int = 0
    lossy_examples: list[int] = field(default_factory=list)

    def sizes(self, token: int) -> tuple[int, ...]:
        """Bytes of each of the FILES, a token having so many."""
        return self.tokens * token, 4 * self.segments, (DIGEST + 4) * self.documents, 8 * self.lossy

    @property
    def sums(self) -> list[int]:
        """The checksum of each of the FILES."""
        return [self.ids_crc, self.lengths_crc, self.documents_crc, self.lossy_crc]

    def add(self, written: Sequence[bytes]) -> None:
        """Count what was written to each of the FILES into its checksum."""
        sums = [zlib.crc32(data, old) for data, old in zip(written, self.sums, strict=True)]
        self.ids_crc, self.lengths_crc, self.documents_crc, self.lossy_crc = sums


FILES = ("ids.bin", "lengths.bin", "documents.bin", "lossy.bin")
"""What a build adds to: token ids, lengths of segments, digests and segments of documents, lossy segments."""


def _build(
    pieces: PieceTokenizer,
    table: SegmentTable,
    folder: Path,
    others: _Others,
    progress: Callable[[int, int], None] | None,
) -> None:
    dtype = np.dtype("<u2" if pieces.vocabulary <= 1 << 16 else "<u4")
    about = sha256_json([FORMAT, pieces.fingerprint, table.fingerprint, dtype.str])
    paths = [folder / name for name in FILES]
    with (
        _journal(folder / "progress.jsonl", about) as journal,
        ThreadPoolExecutor(1) as ahead,  # texts are read and tokens written while the next ones are tokenised
        ExitStack() as stack,
    ):
        done = _resumed(journal, paths, dtype.itemsize)
        files = [stack.enter_context(path.open("r+b" if path.exists() else "w+b")) for path in paths]
        for file, size in zip(files, done.sizes(dtype.itemsize), strict=True):
            file.truncate(size)
            file.seek(size)
        synced = done.tokens

        def note() -> None:
            for file in files:
                file.flush()
                os.fsync(file.fileno())
            journal.append({"unit": str(done.documents), **asdict(done)})

        waiting: deque[_Stretch] = deque()

        def settle() -> None:
            nonlocal synced
            stretch = waiting.popleft()
            ids, lengths, lossy = stretch.tokens(dtype)
            places = np.array(lossy, "<i8") + done.segments
            written = (ids.tobytes(), lengths.astype("<i4").tobytes(), stretch.digests, places.tobytes())
            for file, data in zip(files, written, strict=True):
                file.write(data)
            done.add(written)
            done.lossy += len(lossy)
            done.lossy_examples += places[: 20 - len(done.lossy_examples)].tolist()
            done.documents += len(stretch.sizes)
            done.segments += len(lengths)
            done.tokens += len(ids)
            if (done.tokens - synced) * dtype.itemsize >= SYNCED:
                synced = done.tokens
                note()
            if progress:
                progress(done.segments, len(table))

        for documents in _stretches(table, done.documents):
            waiting.append(_Stretch(pieces, table, documents, others, ahead))
            if len(waiting) > 1:
                settle()
        while waiting:
            settle()
        note()
    lengths = np.fromfile(paths[1], "<i4")
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype("<i8"))
    if [_crc32(path) for path in paths] != done.sums:
        raise LcxError(
            f"{folder} does not hold what was written to it",
            why="A checksum of what was read back differs.",
            hint="The disk, its cable or the memory is damaged, or another process wrote there.",
        )
    sums = np.concatenate([_sums(folder / "ids.bin"), _sums(folder / "offsets.npy")])
    write_bytes(folder / "sums.bin", sums.tobytes())
    separator, bad = pieces.later_batch([SEPARATOR])
    info = {
        "format": FORMAT,
        "tokenizer": pieces.fingerprint,
        "table": table.fingerprint,
        "dtype": dtype.str,
        "documents": done.documents,
        "segments": len(table),
        "tokens": done.tokens,
        "separator": separator[0],
        "separator_lossy": bool(bad),
        "lossy": done.lossy,
        "lossy_examples": done.lossy_examples,
        "prefixed": pieces.prefixed,
        "crc32": {name: _crc32(folder / name) for name in ("sums.bin", "documents.bin", "lossy.bin")},
    }
    write_json(folder / "store.json", {**info, "sha256": sha256_json(info)})
    for left in ("progress.jsonl", "lengths.bin", ".lock"):
        (folder / left).unlink(missing_ok=True)


def _journal(path: Path, of: str) -> Journal:
    """The journal of a build; a damaged one is begun anew, since it is one of a cache."""
    try:
        return Journal(path, of=of)
    except LcxError:
        path.unlink(missing_ok=True)
        return Journal(path, of=of)


def _resumed(journal: Journal, paths: Sequence[Path], size: int) -> _Progress:
    """Where a killed build was: the last note of it that its files bear out."""
    best = _Progress()
    running = [0] * len(paths)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths if path.is_file()]
        for entry in journal.entries() if len(files) == len(paths) else ():
            note = _Progress(**{name: value for name, value in entry.items() if name != "unit"})
            for place, (file, end) in enumerate(zip(files, note.sizes(size), strict=True)):
                while (left := end - file.tell()) > 0 and (data := file.read(min(left, 1 << 22))):
                    running[place] = zlib.crc32(data, running[place])
            if running != note.sums:
                break
            best = note
    return best


def _stretches(table: SegmentTable, first: int) -> Iterator[range]:
    """Documents from a number on, whole, so many at a time that they have about SEGMENTS_A_BATCH segments."""
    begin = first
    for document in range(first, table.document_count):
        if table.segments_of(document).stop - table.segments_of(begin).start >= SEGMENTS_A_BATCH:
            yield range(begin, document + 1)
            begin = document + 1
    if begin < table.document_count:
        yield range(begin, table.document_count)


class _Stretch:
    """Documents on their way into a store: known ones are looked up, the others are tokenised in another thread."""

    def __init__(
        self,
        pieces: PieceTokenizer,
        table: SegmentTable,
        documents: range,
        others: _Others,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.sizes = [len(table.segments_of(document)) for document in documents]
        noted = []
        new: list[str] = []
        self._known: list[tuple[np.ndarray, np.ndarray, list[int]] | None] = []
        for document, size in zip(documents, self.sizes, strict=True):
            texts = table.texts(table.segments_of(document))
            # Lengths before the texts: no two lists of texts are joined to the same bytes
            said = f"{[len(text) for text in texts]}\0{''.join(texts)}".encode()
            digest = hashlib.blake2b(said, digest_size=DIGEST).digest()
            noted.append(digest + size.to_bytes(4, "little"))
            self._known.append(others.find(digest, size))
            if self._known[-1] is None:
                new += texts
        self.digests = b"".join(noted)
        self._new = pool.submit(pieces.later_batch, new)

    def tokens(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Token ids of all segments, their lengths, and the places of those that are lossy."""
        made, bad = self._new.result()
        wrong = set(bad)
        ids: list[np.ndarray] = [np.empty(0, dtype)]
        lengths: list[np.ndarray] = [np.empty(0, np.int64)]
        lossy: list[int] = []
        place = segment = 0
        for size, known in zip(self.sizes, self._known, strict=True):
            if known is not None:
                ids.append(known[0])
                lengths.append(known[1])
                lossy += [segment + number for number in known[2]]
            else:
                own = made[place : place + size]
                ids.append(np.fromiter(chain.from_iterable(own), dtype))
                lengths.append(np.array([len(one) for one in own], np.int64))
                lossy += [segment + number for number in range(size) if place + number in wrong]
                place += size
            segment += size
        return np.concatenate(ids), np.concatenate(lengths), lossy


def _crc32(path: Path) -> int:
    """The checksum of a file."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found = zlib.crc32(block, found)
    return found


def _sums(path: Path) -> np.ndarray:
    """The checksum of each block of a file."""
    found = []
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.append(zlib.crc32(block))
    return np.array(found, "<u4")


def _load(folder: Path, *, verify: bool = False, of: tuple[str, str] | None = None) -> TokenStore:
    """The store in a folder. Raises for one that is none, or that is not what was written, as far as that is verified.

    `verify` has the checksums of all of a store up to VERIFIED_WHOLE bytes verified now. `of` are the fingerprints of
    the tokenizer and the table that it must be of.
    """
    info = read_json(folder / "store.json")
    said = info.pop("sha256", None)
    if info["format"] != FORMAT or said != sha256_json(info):
        raise ValueError("not a store of this format")
    if of and (info["tokenizer"], info["table"]) != of:
        raise ValueError("of another tokenizer or table")
    _check_file(folder / "sums.bin", info["crc32"])
    sums = np.fromfile(folder / "sums.bin", "<u4")
    size = (folder / "ids.bin").stat().st_size
    offsets = folder / "offsets.npy"
    skip = offsets.stat().st_size - 8 * (info["segments"] + 1)
    blocks = -(-size // BLOCK)
    if size != info["tokens"] * np.dtype(info["dtype"]).itemsize or not 0 < skip < BLOCK:
        raise ValueError("a file has the wrong size")
    store = TokenStore(
        folder,
        _Blocks(folder / "ids.bin", np.dtype(info["dtype"]), 0, sums[:blocks]),
        _Blocks(offsets, np.dtype("<i8"), skip, sums[blocks:]),
        info,
    )
    if verify and size + offsets.stat().st_size <= VERIFIED_WHOLE:
        store.verify()
    return store
