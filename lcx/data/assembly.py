"""Bundles become token ids: the shared prefix gathered from the token store, and each branch after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lcx.data.table import SegmentTable
from lcx.data.templates import Script, Template, Turn, chat_script, chat_turn, load_template, plain_script
from lcx.data.tokens import SEPARATOR, PieceTokenizer, TokenStore, is_control
from lcx.errors import LcxError, UsageError
from lcx.records import TURNS, Branch, Bundle, EncodedBranch, EncodedBundle

Parts = list[tuple[str, bool]]
"""Texts, each with whether it is the template's: what a user wrote names no special token, whatever it looks like."""
POLICIES = ("error", "drop", "truncate-middle")


class Assembler:
    """Encodes bundles for one tokenizer and template; training and evaluation share it.

    The prefix is head and context, a branch is question and answer: all branches of a bundle share its
    prefix. `counts` says how many bundles, tokens, drops and cuts there were. Table and store are needed for
    plans only.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | Path | Template,
        table: SegmentTable | None = None,
        store: TokenStore | None = None,
        *,
        pieces: PieceTokenizer | None = None,
    ) -> None:
        self.template = load_template(template)
        self.table, self.store = table, store
        self.pieces = pieces or PieceTokenizer(tokenizer)
        turn = chat_turn(tokenizer) if self.template.chat else None
        self.chat = turn is not None
        self.turn = turn or Turn("", self.template.cue, "", "")
        self.counts: Counter[str] = Counter()
        self._tokenizer = tokenizer
        self._names = control_names(tokenizer, self.pieces.backend)
        self._scripts: dict[tuple[str, ...], Script] = {}
        self._eos: int | None = getattr(tokenizer, "eos_token_id", None)
        self._bos = _opening_token(tokenizer)
        self._start = next(
            (
                token
                for name in ("bos_token_id", "eos_token_id", "pad_token_id")
                if (token := getattr(tokenizer, name, None)) is not None
            ),
            0,
        )
        self._heads = {
            True: self._head(self.template.head),
            False: self._head(self.template.bare_head),
        }
        self._close = self._closing()

    @property
    def info(self) -> dict[str, Any]:
        """What a manifest records about the prompt: template, its hash, and whether a chat turn wraps it."""
        return {"template": self.template.name, "template_hash": self.template.hash, "chat": self.chat}

    @property
    def end_note(self) -> str:
        """A sentence where what answers learn to end with is not the tokenizer's end token; empty where it is."""
        if not self.template.eos and not self.turn.close:  # the template ends answers in its own way
            return ""
        last = self._close[-1] if self._close else None
        name = self.pieces.backend.id_to_token(last) if last is not None else None
        if last is None or (name not in self._names and last != self._eos):
            return (
                "answers end without an end token, which neither tokenizer nor chat template has: the model will not "
                "learn to stop"
            )
        if last == self._eos:
            return ""
        own = self.pieces.backend.id_to_token(self._eos) if self._eos is not None else "none"
        return (
            f"answers end with {name}, as the chat template closes a turn; the tokenizer's own end token is {own}: "
            f"a server has to stop at {name} too"
        )

    def encode(
        self, bundle: Bundle, *, max_tokens: int | None = None, too_long: str = "error"
    ) -> EncodedBundle | None:
        """Token ids of a bundle; None where the policy dropped it.

        `max_tokens` limits the longest row (prefix and one branch). Raises LcxError for a bundle that is too
        long under `too_long="error"`, UsageError for a plan without a table and store.
        """
        has_context = bundle.plan is not None or bool(bundle.context)
        turns = bundle.meta.get(TURNS) or ()
        head_ids = self._opening_turns(turns, has_context) if turns else self._heads[has_context]
        prefix = self.prefix(bundle, head_ids)
        branches = tuple(self.branch(branch, has_context, turns) for branch in bundle.branches)
        head = len(head_ids)
        chunks = self._chunks(bundle, len(prefix) - head)
        if not len(prefix):
            prefix, branches = _borrow(branches, self._start)
        encoded = EncodedBundle(bundle.id, prefix, branches, head=head, chunks=chunks)
        self.counts["bundles"] += 1
        self.counts["branches"] += len(branches)
        if max_tokens is not None:
            fitted = fit(encoded, max_tokens, too_long, self.counts)
            if fitted is None:
                return None
            encoded = fitted
        self.counts["tokens"] += len(encoded)
        return encoded

    def prefix(self, bundle: Bundle, head: np.ndarray | None = None) -> np.ndarray:
        """Token ids (int64) of head and context; empty where there is neither. `head` is the bundle's own."""
        if bundle.plan is not None:
            head = self._heads[True] if head is None else head
            return np.concatenate([head, self.context(bundle.plan)], dtype=np.int64)
        head = self._heads[bool(bundle.context)] if head is None else head
        if not bundle.context:
            return head.copy()
        stands_first = len(head) == 0 or self._only_opening(head)
        ids = self.pieces.first(bundle.context) if stands_first else self.pieces.later(bundle.context)
        return np.concatenate([head, np.array(ids, np.int64)])

    def context(self, plan: Sequence[int]) -> np.ndarray:
        """Token ids of a plan's segments with separators. Raises UsageError without table and store."""
        if self.table is None or self.store is None:
            raise UsageError("a bundle with a plan needs the segment table and the token store of its step")
        if len(plan) and self.pieces.prefixed and self._only_opening(self._heads[True]):
            first = np.array(self.pieces.first(self.table.text(plan[0])), self.store.dtype)
            return self.store.join(plan, first=first)
        return self.store.join(plan)

    def _chunks(self, bundle: Bundle, context: int) -> tuple[int, ...]:
        """Tokens of the context's pieces, `context` in all; a separator counts with the piece before it."""
        if bundle.plan is None or self.store is None or len(bundle.plan) < 2:
            return (context,) if context else ()
        separator = len(self.store.separator)
        later = (self.store.lengths(bundle.plan[1:]) + separator).tolist()
        later[-1] -= separator
        return (context - sum(later), *later)  # the first segment may be tokenised as a text's beginning

    def context_text(self, bundle: Bundle) -> str:
        """The text that a bundle's context tokens decode to."""
        if bundle.plan is None:
            return bundle.context or ""
        if self.table is None:
            raise UsageError("a bundle with a plan needs the segment table of its step")
        return SEPARATOR.join(self.table.texts(bundle.plan))

    def branch(
        self, branch: Branch, has_context: bool = True, turns: Sequence[Sequence[str]] = ()
    ) -> EncodedBranch:
        """Token ids of a branch; those from `answer_start` on (answer and end) are what a loss counts.

        `turns` are the turns before the question: those from the first user's words on, in which a context stands.
        """
        _, between = self._around(has_context)
        asked: Parts = [(between, True), (branch.question, False), (self._after(), True)]
        if turns:
            asked = [(between, True), *self._turns_after(turns, branch.question)]
        question = self._joined(asked)
        answer: list[int] = []
        if branch.role != "query":
            text = self.turn.lead + self.template.lead + branch.answer + self.template.end
            answer = (self.pieces.later(text) if text else []) + self._close
        return EncodedBranch(question + answer, len(question), branch.role)

    def _script(self, turns: Sequence[Sequence[str]]) -> Script:
        roles = (*(role for role, _ in turns), "user")
        if roles not in self._scripts:
            self._scripts[roles] = (
                chat_script(self._tokenizer, roles) if self.chat else plain_script(self.template, roles)
            )
        return self._scripts[roles]

    def _opening_turns(self, turns: Sequence[Sequence[str]], has_context: bool) -> np.ndarray:
        """Token ids of what stands before the context: a system turn, and the beginning of the first user turn."""
        script = self._script(turns)
        texts = [text for _, text in turns]
        parts: Parts = [
            (part, True) if isinstance(part, str) else (texts[part], False)
            for part in script.parts[: script.first]
        ]
        parts.append((self._around(has_context)[0], True))
        start = next((text for text, _ in parts if text), "")
        return np.array(self.opening(start) + self._joined(parts, first=True), np.int64)

    def _turns_after(self, turns: Sequence[Sequence[str]], question: str) -> Parts:
        """The texts from the first user's words to where the answer begins."""
        script = self._script(turns)
        texts = [*(text for _, text in turns), question]
        parts: Parts = [
            (part, True) if isinstance(part, str) else (texts[part], False)
            for part in script.parts[script.first :]
        ]
        place = script.question - script.first + 1
        return [*parts[:place], (self.template.after, True), *parts[place:]]

    def _around(self, has_context: bool) -> tuple[str, str]:
        if has_context:
            return self.template.head, self.template.between
        return self.template.bare_head, ""

    def _after(self) -> str:
        return self.template.after + self.turn.after

    def around(self, bundle: Bundle) -> tuple[str, str, str]:
        """What stands before a bundle's context, between it and a question, and after that, chat turn included."""
        head, between = self._around(bundle.plan is not None or bool(bundle.context))
        return self.turn.before + head, between, self._after()

    def named_parts(self, bundle: Bundle, branch: Branch) -> list[tuple[str, str]]:
        """The texts of a prompt in order, each after what it is: template, the role of a turn, context, question."""
        has_context = bundle.plan is not None or bool(bundle.context)
        turns = bundle.meta.get(TURNS) or ()
        head, between = self._around(has_context)
        context = [("context", self.context_text(bundle)), ("template", between)] if has_context else []
        if turns:
            script = self._script(turns)
            said = [*((role, text) for role, text in turns), ("question", branch.question)]
            parts = [("template", part) if isinstance(part, str) else said[part] for part in script.parts]
            parts.insert(script.question + 1, ("template", self.template.after))
            parts[script.first : script.first] = [("template", head), *context]
        else:
            parts = [("template", self.turn.before + head), *context, ("question", branch.question)]
            parts.append(("template", self._after()))
        start = next((text for _, text in parts if text), "")
        opened = self.pieces.backend.id_to_token(self._bos) if self.opening(start) else ""
        return [("template", str(opened or "")), *parts]

    def opening(self, text: str) -> list[int]:
        """The opening token of a prompt that begins with a text, where it has one that is not written out."""
        if self._bos is None:
            return []
        name = self.pieces.backend.id_to_token(self._bos) if self.turn.before else ""
        return [] if name and text.startswith(name) else [self._bos]

    @property
    def special_names(self) -> set[str]:
        """Texts that the tokenizer takes for control tokens."""
        return set(self._names)

    def _head(self, head: str) -> np.ndarray:
        text = self.turn.before + head
        return np.array(self.opening(text) + (self.pieces.special(text) if text else []), np.int64)

    def _only_opening(self, head: np.ndarray) -> bool:
        return len(head) == 0 or (len(head) == 1 and int(head[0]) == self._bos)

    def _joined(self, parts: Parts, *, first: bool = False) -> list[int]:
        """Tokens of all parts as one text, unless a part that is not the template's names a control token.

        Then each part has tokens of its own, and that name is text. `first` says that nothing stands before them.
        """
        parts = [(text, known) for text, known in parts if text]
        later = self.pieces
        if not any(name in text for text, known in parts if not known for name in self._names):
            text = "".join(text for text, _ in parts)
            return (later.special(text) if first else later.special_later(text)) if text else []
        ids: list[int] = []
        for number, (text, known) in enumerate(parts):
            if first and not number:
                ids += later.special(text) if known else later.first(text)
            else:
                ids += later.special_later(text) if known else later.later(text)
        return ids

    def _closing(self) -> list[int]:
        eos = [self._eos] if self._eos is not None and self.template.eos else []
        if not self.turn.close:
            return eos
        ids = self.pieces.special_later(self.turn.close)
        # Any added token ends a turn, also one that the tokenizer does not call special: two ends are never learnt
        special = {self.pieces.backend.token_to_id(name) for name in self._names}
        for place, token in enumerate(ids):
            if token in special:
                return ids[: place + 1]  # what follows the end token belongs to the next turn
        return ids + eos


def check_embedding(ids: Any, config: Any, model: str) -> None:
    """Raises UsageError where a token id (of a sequence or an array) lies beyond the embedding of a model's config."""
    size = getattr(
        config.get_text_config() if hasattr(config, "get_text_config") else config, "vocab_size", None
    )
    largest = int(max(ids, default=0)) if isinstance(ids, list) else int(np.max(ids, initial=0))
    if size and largest >= size:
        raise UsageError(
            f"token {largest:,} of the tokenizer lies beyond the {size:,} tokens of the model '{model}'",
            why="Tokenizer and weights do not belong together, or tokens were added and the embedding was not resized.",
            hint="Name the folder whose tokenizer belongs to the weights, or call `resize_token_embeddings` and save.",
        )


def check_bundle(encoded: EncodedBundle, config: Any, model: str) -> None:
    """Raises UsageError as `check_embedding` does for a bundle's prefix and branches."""
    check_embedding(encoded.prefix, config, model)
    for branch in encoded.branches:
        check_embedding(branch.ids, config, model)


def fit(
    encoded: EncodedBundle, max_tokens: int, policy: str = "error", counts: Counter[str] | None = None
) -> EncodedBundle | None:
    """Bring a bundle's longest row (prefix and one branch) down to `max_tokens`, or refuse.

    `error` raises LcxError; `drop` returns None; `truncate-middle` takes tokens out of the middle of the
    prefix, so that the instructions at its start and the end of the context stay; out of the context alone where
    its place in the prefix is known and that is enough, for a prefix may end with a question. Counts
    `dropped_too_long`, `truncated_bundles` and `truncated_tokens`. Raises LcxError where even an empty context
    would not fit.
    """
    if policy not in POLICIES:
        raise UsageError(f"unknown length policy '{policy}'", hint=f"Choose one of {', '.join(POLICIES)}.")
    length = encoded.longest_row
    if length <= max_tokens:
        return encoded
    tally = counts if counts is not None else Counter()
    if policy == "drop":
        tally["dropped_too_long"] += 1
        return None
    keep = max_tokens - (length - len(encoded.prefix))
    if policy == "error" or keep < 1:
        raise LcxError(
            f"bundle {encoded.id} has {length} tokens, more than max_tokens {max_tokens}",
            why="" if policy == "error" else "Its question and answer alone do not fit.",
            hint="Raise max_tokens, shorten the contexts when they are made, or set too_long to drop"
            + (" or truncate-middle." if policy == "error" else "."),
        )
    tally["truncated_bundles"] += 1
    tally["truncated_tokens"] += len(encoded.prefix) - keep
    left, right = _cut_places(encoded, keep)
    positions = encoded.positions
    return replace(
        encoded,
        prefix=np.concatenate([encoded.prefix[:left], encoded.prefix[right:]]),
        positions=None if positions is None else np.concatenate([positions[:left], positions[right:]]),
        head=min(encoded.head, left),
        chunks=_cut_chunks(encoded, left, right),
    )


def _cut_places(encoded: EncodedBundle, keep: int) -> tuple[int, int]:
    """`[left, right)` of the prefix, to be taken out so that `keep` tokens of it stay."""
    gone = len(encoded.prefix) - keep
    left = (keep + 1) // 2
    end = encoded.head + sum(encoded.chunks)
    if gone <= end - encoded.head:
        left = min(max(left, encoded.head), end - gone)
    return left, left + gone


def _cut_chunks(encoded: EncodedBundle, left: int, right: int) -> tuple[int, ...]:
    """Lengths of the chunks without the tokens `[left, right)` of the prefix; one that is gone is left out."""
    kept = []
    start = encoded.head
    for length in encoded.chunks:
        end = start + length
        gone = max(0, min(end, right) - max(start, left))
        kept.append(length - gone)
        start = end
    return tuple(length for length in kept if length)


def share_question(encoded: EncodedBundle) -> EncodedBundle:
    """The bundle with its question as part of the prefix, where all branches ask the same one.

    Preference data compares answers to one question, so that is paid for once too. Branches with other
    questions, or a prefix of no tokens, stay as they are.
    """
    starts = {branch.answer_start for branch in encoded.branches}
    start = min(starts)
    questions = {tuple(branch.ids[:start]) for branch in encoded.branches}
    if len(starts) > 1 or len(questions) > 1 or not start:
        return encoded
    return replace(
        encoded,
        prefix=np.concatenate([encoded.prefix, np.array(questions.pop(), np.int64)]),
        branches=tuple(
            replace(branch, ids=branch.ids[start:], answer_start=0) for branch in encoded.branches
        ),
        positions=None
        if encoded.positions is None
        else np.concatenate([encoded.positions, encoded.positions[-1] + 1 + np.arange(start)]),
    )


def control_names(tokenizer: Any, backend: Any) -> list[str]:
    """Texts that a tokenizer takes for control tokens, longest first: special ones, and others like `<tool>`."""
    added = backend.get_added_tokens_decoder().values()
    names = {one.content for one in added if one.special or is_control(one.content)}
    names |= {str(name) for name in getattr(tokenizer, "all_special_tokens", None) or []}
    return sorted(names - {""}, key=lambda name: (-len(name), name))


def _opening_token(tokenizer: Any) -> int | None:
    """The begin-of-text token, where the tokenizer puts one before a text by itself."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or not callable(tokenizer):
        return None
    ids = tokenizer("a")["input_ids"]
    return bos if len(ids) and ids[0] == bos else None


def _borrow(branches: tuple[EncodedBranch, ...], start: int) -> tuple[np.ndarray, tuple[EncodedBranch, ...]]:
    """A prefix for bundles without head and context: the branches' common first tokens, or `start`."""
    shortest = min(branch.answer_start for branch in branches)
    common = 0
    while common < shortest and len({branch.ids[common] for branch in branches}) == 1:
        common += 1
    if common == len(min((branch.ids for branch in branches), key=len)):
        common -= 1  # a branch keeps a token of its own
    if common < 1:
        return np.array([start], np.int64), branches
    cut = tuple(
        EncodedBranch(branch.ids[common:], branch.answer_start - common, branch.role) for branch in branches
    )
    return np.array(branches[0].ids[:common], np.int64), cut


def open_assembler(tokenizer: Any, template: str, chat: str, data: Path | None) -> Assembler:
    """The encoder of bundles for one tokenizer. `data` is the folder of the segment table that plans refer to.

    `chat` is `auto`, `always` or `never`. Raises UsageError where a chat template is asked for that is not there.
    """
    from lcx.data.table import load_table
    from lcx.data.templates import load_template, without_chat
    from lcx.data.tokens import open_token_store
    from lcx.paths import cache_folder

    chosen = load_template(template)
    if chat == "never":
        chosen = without_chat(chosen)
    elif chat == "always" and not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "chat: always, but the tokenizer has no chat template", hint="Set chat to auto or never."
        )
    if data is None or not (data / "table.json").is_file():
        return Assembler(tokenizer, chosen)
    table = load_table(data)
    return Assembler(tokenizer, chosen, table, open_token_store(tokenizer, table, cache_folder()))
