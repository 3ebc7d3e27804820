"""Tokenising a text piece by piece, so that the pieces' tokens together decode to the joined text.

Three things stand in the way. SentencePiece-like tokenizers put a space before whatever they are given, so a
piece that does not come first needs rules without that space. Special tokens' names inside a corpus must stay
plain text. And some tokenizers normalise or know only part of the alphabet: then a piece is *lossy*, which is
counted, not hidden.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lcx.data.tokenizing import backend_fingerprint, backend_of, plain_backend

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
