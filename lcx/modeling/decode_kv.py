"""Branch decoding: many short prompts continue one context, whose keys and values are computed and kept once.

The prefix is run through the model once and its keys and values are stored once. Every branch token attends
to two parts: the prefix, where all branches of a batch are rows of one query against the same keys, and the
branch's own few tokens. The parts are joined by their log-sum-exp, which gives the exact softmax over both:

    l = log(exp l₁ + exp l₂),   o = o₁ exp(l₁ − l) + o₂ exp(l₂ − l)

In a layer with a sliding window of W tokens, token i of a row (prefix and branch counted through) sees the
tokens j with i − W < j ≤ i, of either part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from lcx.modeling.load import few_threads
from lcx.modeling.sampling import Sampling, generator, pick
from lcx.modeling.split_softmax import split_kernel
from lcx.modeling.support import why_not_decoded

ROOM = 32
"""Columns by which a batch's own keys grow."""

Parts = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, or an attention output [..., rows, D] in fp32 and its log-sum-exp [..., rows]."""


@dataclass
class State:
    """Keys and values [.., G, length, D] by layer: the prefix's (one copy) and those of a batch of branches.

    It travels to the attention function as a keyword argument of the model's forward pass, so that decoders
    of several models can live in one process. A layer with a sliding window of W tokens keeps the last W - 1
    of the prefix: no later token sees more.
    """

    length: int = 0
    """Prefix tokens stored so far."""
    total: int = 0
    """Prefix tokens there will be."""
    last: int = -1
    """The model's last layer, whose attention matters where logits are asked for and nowhere else; -1: none."""
    prefix: dict[int, Parts] = field(default_factory=dict)
    own: dict[int, Parts] = field(default_factory=dict)
    filled: int = 0
    """Columns of `own` in use."""
    pads: torch.Tensor | None = None
    """[rows]: unused columns at the left of each branch; None while the prefix is being stored."""

    def start(self, pads: torch.Tensor) -> None:
        """Begin a new batch of branches."""
        self.own, self.filled, self.pads = {}, 0, pads

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all branches of the batch but `rows`."""
        assert self.pads is not None
        self.pads = self.pads[rows]
        self.own = {n: (k[rows.to(k.device)], v[rows.to(v.device)]) for n, (k, v) in self.own.items()}

    def store(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> Parts:
        """Add a chunk of the prefix [1, key heads, new, D]; the keys and values of the prefix so far."""
        if layer not in self.prefix:
            room = (1, k.shape[1], self.total)
            self.prefix[layer] = k.new_empty(*room, k.shape[3]), v.new_empty(*room, v.shape[3])
        end = self.length + k.shape[2]
        held = self.prefix[layer]
        for store, part in zip(held, (k, v), strict=True):
            store[:, :, self.length : end] = part
        return held[0][:, :, :end], held[1][:, :, :end]

    def slide(self, layer: int, k: torch.Tensor, v: torch.Tensor, window: int) -> Parts:
        """`store` for a layer with a window: what the chunk's queries may see, and no more than a window is kept."""
        if layer in self.prefix:
            before = self.prefix[layer]
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        first = max(0, k.shape[2] - window + 1)
        # Copies, or the whole chunk would stay in memory behind them.
        self.prefix[layer] = k[:, :, first:].clone(), v[:, :, first:].clone()
        return k, v

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> Parts:
        """Add the batch's new columns [rows, key heads, new, D]; the batch's keys and values so far."""
        end = self.filled + k.shape[2]
        held = self.own.get(layer)
        if held is None or held[0].shape[2] < end:
            room = (*k.shape[:2], end + ROOM)
            grown = k.new_empty(*room, k.shape[3]), v.new_empty(*room, v.shape[3])
            if held is not None:
                for new, old in zip(grown, held, strict=True):
                    new[:, :, : self.filled] = old[:, :, : self.filled]
            self.own[layer] = held = grown
        for store, part in zip(held, (k, v), strict=True):
            store[:, :, self.filled : end] = part
        return held[0][:, :, :end], held[1][:, :, :end]


NAME = "lcx_branch_decode"
SCORE_BYTES = 64 << 20
"""Most memory that attention scores may take where there is no flash kernel to avoid them."""
WINDOW_ROWS = 512
"""Prefix tokens of a sliding layer that attend at a time: each block reads its window and no more."""
CHANGES = ("softcap", "s_aux", "position_bias")
"""Arguments by which some models change the scores of their attention: this one would not know them."""


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    *,
    causal: bool = False,
    floor: torch.Tensor | None = None,
) -> Parts:
    """Attention of q [B,G,R,D] to k, v [B,G,L,D] and its log-sum-exp [B,G,R]. `causal` needs R = L.

    `floor` [R] is the first key that each row sees; keys before it are masked.
    """
    kernel = split_kernel(q, k, v) if floor is None else None
    if kernel is not None:
        out, lse, _ = kernel.forward(q, k, v, causal, scale)
        return out.float(), lse
    rows = max(1, SCORE_BYTES // (4 * q.shape[0] * q.shape[1] * max(1, k.shape[2])))
    column = torch.arange(k.shape[2], device=q.device)
    k, v = k.float(), v.float()
    outs, stats = [], []
    for start in range(0, q.shape[2], rows):
        block = q[:, :, start : start + rows].float()
        mask = None
        if causal:
            mask = torch.ones(block.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(start)
        elif floor is not None:
            mask = column >= floor[start : start + rows, None]
        out, lse = _softmax(block, k, v, scale, mask)
        outs.append(out)
        stats.append(lse)
    return torch.cat(outs, 2), torch.cat(stats, 2)


def _softmax(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, mask: torch.Tensor | None
) -> Parts:
    """Attention by matrix products in the inputs' precision; a row that sees nothing gives zeros and -inf."""
    scores = torch.matmul(q, k.transpose(-1, -2)).mul_(scale)
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    lse = torch.logsumexp(scores, -1)
    # A padded column sees nothing: its log-sum-exp is -inf, and -inf - -inf would poison it.
    weights = scores.sub_(lse.clamp_min(torch.finfo(lse.dtype).min)[..., None]).exp_()
    return torch.matmul(weights, v), lse


def _join(first: Parts, second: Parts) -> torch.Tensor:
    """The attention over both parts; where neither sees anything, zeros."""
    (one, l1), (two, l2) = first, second
    lse = torch.logaddexp(l1, l2).clamp_min(torch.finfo(l1.dtype).min)
    return one * (l1 - lse).exp()[..., None] + two * (l2 - lse).exp()[..., None]


def _to_prefix(q: torch.Tensor, keys: Parts, scale: float, floor: torch.Tensor | None = None) -> Parts:
    """All rows of q [B,H,S,D] against one prefix [1,G,P,D]: outputs [B,H,S,D], statistics [B,H,S].

    `floor` [B,S] is the first key that a row's token sees.
    """
    rows, heads, steps, width = q.shape
    groups = keys[0].shape[1]
    folded = (
        q.view(rows, groups, heads // groups, steps, width)
        .permute(1, 0, 2, 3, 4)
        .reshape(1, groups, -1, width)
    )
    if floor is not None:
        floor = floor[:, None].expand(rows, heads // groups, steps).reshape(-1)
    out, lse = _attend(folded, *keys, scale, floor=floor)
    shape = (groups, rows, heads // groups, steps)
    out = out.reshape(*shape, -1).transpose(0, 1).reshape(rows, heads, steps, -1)
    return out, lse.reshape(shape).transpose(0, 1).reshape(rows, heads, steps)


def _to_own(
    q: torch.Tensor, keys: Parts, scale: float, pads: torch.Tensor, window: int | None = None
) -> Parts:
    """Each row of q [B,H,S,D] causally against its own columns [B,G,T,D], the last S of which are new."""
    rows, heads, steps, width = q.shape
    k, v = (part.float().unsqueeze(2) for part in keys)
    groups, columns = k.shape[1], k.shape[3]
    grouped = q.float().view(rows, groups, heads // groups, steps, width)
    column = torch.arange(columns, device=q.device)
    block = max(1, SCORE_BYTES // (4 * rows * heads * columns))
    outs, stats = [], []
    for start in range(0, steps, block):
        part = grouped[:, :, :, start : start + block]
        last = columns - steps + start + torch.arange(part.shape[3], device=q.device)
        seen = (column <= last[:, None]) & (column >= pads.to(q.device)[:, None, None])
        if window is not None and window < columns:
            seen &= column > last[:, None] - window
        out, lse = _softmax(part, k, v, scale, seen[:, None, None])
        outs.append(out)
        stats.append(lse)
    return torch.cat(outs, 3).reshape(rows, heads, steps, -1), torch.cat(stats, 3).reshape(rows, heads, steps)


def _store(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, scale: float, state: State
) -> torch.Tensor:
    """Store a chunk of the prefix; its causal attention to the prefix so far and to itself, [1,H,S,D]."""
    start = state.length
    held = state.store(layer, k, v)
    groups = q.shape[1] // k.shape[1]
    if start == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=groups > 1)
    near = _attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), scale, causal=True)
    return _join(_to_prefix(q, (held[0][:, :, :start], held[1][:, :, :start]), scale), near)


def _slide(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, scale: float, state: State, window: int
) -> torch.Tensor:
    """`_store` for a layer with a sliding window: a block of tokens at a time, each against its window's keys."""
    k, v = state.slide(layer, k, v, window)
    steps, before = q.shape[2], k.shape[2] - q.shape[2]
    groups = q.shape[1] // k.shape[1]
    if not before and steps <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=groups > 1)
    outs = []
    for start in range(0, steps, WINDOW_ROWS):
        end = min(start + WINDOW_ROWS, steps)
        first = max(0, before + start - window + 1)
        column = torch.arange(first, before + end, device=q.device)
        row = torch.arange(before + start, before + end, device=q.device)[:, None]
        seen = (column <= row) & (column > row - window)
        near_k, near_v = (part[:, :, first : before + end].repeat_interleave(groups, 1) for part in (k, v))
        rows = q[:, :, start:end]
        outs.append(
            F.scaled_dot_product_attention(rows, near_k, near_v, attn_mask=seen[None, None], scale=scale)
        )
    return torch.cat(outs, 2)


def _floor(state: State, layer: int, steps: int, end: int, window: int | None) -> torch.Tensor | None:
    """The first key of the stored prefix that each of a batch's `steps` columns before `end` sees [B,S].

    None where all of them see all.
    """
    assert state.pads is not None
    stored = state.prefix[layer][0].shape[2]
    if window is None or end - 1 + stored < window:  # where nothing is padded, the last column sees least
        return None
    columns = torch.arange(end - steps, end, device=state.pads.device)
    return columns - state.pads[:, None] + stored - window + 1


def _prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layer: int,
    scale: float,
    state: State,
    window: int | None,
) -> torch.Tensor:
    """Store a chunk of the prefix, and its attention."""
    if layer == state.last:  # nothing but the keys and values of the last layer is ever read
        if window is None:
            state.store(layer, k, v)
        else:
            state.slide(layer, k, v, window)
        return torch.zeros_like(q)
    if window is None:
        return _store(q, k, v, layer, scale, state)
    return _slide(q, k, v, layer, scale, state, window)


def _branches(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layer: int,
    scale: float,
    state: State,
    window: int | None,
) -> torch.Tensor:
    """The attention of a batch's new columns to the prefix and to their own branches."""
    assert state.pads is not None
    own = state.extend(layer, k, v)
    if layer == state.last:  # only the last column's logits are asked for
        q = q[:, :, -1:]
    near = _to_own(q, own, scale, state.pads, window)
    if not state.length or not state.prefix[layer][0].shape[2]:
        return near[0]
    floor = _floor(state, layer, q.shape[2], state.filled + k.shape[2], window)
    floor = None if floor is None else floor.to(q.device)
    return _join(_to_prefix(q, state.prefix[layer], scale, floor), near)


def branch_attention(
    module: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    lcx_decode: State | None = None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """The attention registered as `lcx_branch_decode`. q [B,H,S,D], k and v [B,G,S,D] to [B,S,H,D]."""
    if lcx_decode is None:
        raise RuntimeError(f"attention '{NAME}' is for BranchDecoder only: it needs the decoder's state")
    if odd := [name for name in CHANGES if given.get(name) is not None]:
        raise RuntimeError(f"attention '{NAME}' does not know what this model passes: {', '.join(odd)}")
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    step = _prefill if lcx_decode.pads is None else _branches
    out = step(q, k, v, module.layer_idx, scale, lcx_decode, sliding_window).to(q.dtype)
    if out.shape[2] < q.shape[2]:
        out = F.pad(out, (0, 0, q.shape[2] - out.shape[2], 0))
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are made from the state; registered so that position gaps are not taken for packed sequences."""


AttentionInterface.register(NAME, branch_attention)
AttentionMaskInterface.register(NAME, _no_mask)


PREFILL_CHUNK = 8192
"""Prefix tokens run through the model at a time; also the most padded prompt tokens of one batch."""


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    """Give the model this attention for the time of the block, in evaluation mode."""
    config, training = model.config, model.training
    before = config._attn_implementation
    config._attn_implementation = NAME
    model.eval()
    try:
        with few_threads(model):
            yield
    finally:
        config._attn_implementation = before
        model.train(training)


class BranchDecoder:
    """Decodes branches of one prefix at a time: `prefill` it, then call `answer` as often as needed.

    Raises ValueError where `why_not_decoded(model.config)` gives a reason.
    """

    def __init__(self, model: Any, *, chunk: int = PREFILL_CHUNK) -> None:
        reason = why_not_decoded(model.config)
        if reason:
            raise ValueError(f"branches cannot share their context: {reason}")
        self.model = model
        self.chunk = chunk
        self.state = State()
        self._held: list[int] = []
        self._next = 0

    @torch.inference_mode()
    def prefill(
        self, prefix: Sequence[int] | np.ndarray, positions: Sequence[int] | np.ndarray | None = None
    ) -> None:
        """Run the prefix [P] through the model, `chunk` tokens at a time, and keep its keys and values.

        `positions` [P] are its position ids, 0 to P-1 by default; branches follow the last one.
        """
        device = self.model.device
        ids = torch.as_tensor(np.asarray(prefix, dtype=np.int64), device=device)
        if positions is None:
            places = torch.arange(len(ids), device=device)
        else:
            places = torch.as_tensor(np.asarray(positions, dtype=np.int64), device=device)
        if not len(ids) or len(places) != len(ids):
            raise ValueError(
                f"a prefix has at least one token and as many positions, not {len(ids)}, {len(places)}"
            )
        # The last token is held back and put in front of every branch: its logits predict a branch's first
        # token, which an empty prompt needs, and no logits have to be kept from here.
        self._held = [int(ids[-1])]
        self._next = int(places[-1])
        self.state = State(total=len(ids) - 1, last=self.model.config.num_hidden_layers - 1)
        with _attention(self.model):
            for start in range(0, self.state.total, self.chunk):
                end = min(start + self.chunk, self.state.total)
                self._forward(ids[None, start:end], places[None, start:end])
                self.state.length = end

    @torch.inference_mode()
    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        eos_ids: Sequence[int] = (),
        batch: int = 64,
        sampling: Sampling | None = None,
        on_answer: Callable[[int, list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt after the prefix; the new tokens, without the end token.

        An answer shorter than `max_new_tokens` ended by itself. `on_answer` is told the number and tokens of
        each branch when it has finished.
        """
        if not self._held:
            raise ValueError("prefill a prefix first")
        answers: list[list[int]] = [[] for _ in prompts]
        draws = [generator(sampling, number) for number in range(len(prompts))] if sampling else []
        rows = [[*self._held, *prompt] for prompt in prompts]

        def finished(number: int) -> None:
            if on_answer:
                on_answer(number, answers[number])

        with _attention(self.model):
            for group in self._batches(rows, batch):
                self._decode(
                    rows, group, answers, max_new_tokens, frozenset(eos_ids), sampling, draws, finished
                )
        return answers

    def _batches(self, rows: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
        """Branches in groups of similar length: at most `batch`, and at most `chunk` padded tokens."""
        group: list[int] = []
        for number in sorted(range(len(rows)), key=lambda number: (len(rows[number]), number)):
            if group and (len(group) >= batch or len(rows[number]) * (len(group) + 1) > self.chunk):
                yield group
                group = []
            group.append(number)
        if group:
            yield group

    def _decode(
        self,
        rows: Sequence[Sequence[int]],
        group: list[int],
        answers: list[list[int]],
        max_new_tokens: int,
        eos: frozenset[int],
        sampling: Sampling | None,
        draws: Sequence[torch.Generator],
        finished: Callable[[int], None],
    ) -> None:
        device = self.model.device
        longest = max(len(rows[number]) for number in group)
        pads = [longest - len(rows[number]) for number in group]
        ids = torch.tensor(
            [[self._held[0]] * pad + list(rows[n]) for n, pad in zip(group, pads, strict=True)]
        )
        shift = torch.tensor(pads)
        # A padded column sees nothing and is seen by nothing; its position only has to be a valid one.
        places = (torch.arange(longest) - shift[:, None]).clamp_min(0) + self._next
        ids, places = ids.to(device), places.to(device)
        self.state.start(shift.to(device))
        alive = list(group)
        for step in range(max_new_tokens):
            logits = self._forward(ids, places)[:, -1]
            self.state.filled += ids.shape[1]
            tokens = pick(logits, sampling, [draws[number] for number in alive] if sampling else [])
            kept = []
            for row, (number, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
                if token not in eos:
                    answers[number].append(token)
                    if step + 1 < max_new_tokens:
                        kept.append(row)
            if len(kept) < len(alive):
                going = set(kept)
                for row, number in enumerate(alive):
                    if row not in going:
                        finished(number)
                if not kept:
                    return
                left = torch.tensor(kept, device=device)
                self.state.keep(left)
                tokens, places = tokens[left], places[left]
                alive = [alive[row] for row in kept]
            ids, places = tokens[:, None], places[:, -1:] + 1

    def _forward(self, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Logits [B,1,V] of the last column."""
        return self.model(
            input_ids=ids, position_ids=places, use_cache=False, logits_to_keep=1, lcx_decode=self.state
        ).logits
