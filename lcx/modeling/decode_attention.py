"""The attention of branch decoding: rows of many branches against one copy of their context.

The prefix is run through the model once and its keys and values are stored once. Every branch token attends
to two parts: the prefix, where all branches of a batch are rows of one query against the same keys, and the
branch's own few tokens. The parts are joined by their log-sum-exp, which gives the exact softmax over both:

    l = log(exp l₁ + exp l₂),   o = o₁ exp(l₁ − l) + o₂ exp(l₂ − l)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from lcx.modeling.split_softmax import split_kernel

NAME = "lcx_branch_decode"
SCORE_BYTES = 64 << 20
"""Most memory that attention scores may take where there is no flash kernel to avoid them."""
ROOM = 32
"""Columns by which a batch's own keys grow."""

Parts = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, or an attention output [..., rows, D] in fp32 and its log-sum-exp [..., rows]."""


@dataclass
class State:
    """Keys and values [.., G, length, D] by layer: the prefix's (one copy) and those of a batch of branches.

    It travels to the attention function as a keyword argument of the model's forward pass, so that decoders
    of several models can live in one process.
    """

    length: int = 0
    """Prefix tokens stored so far."""
    total: int = 0
    """Prefix tokens there will be."""
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


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool = False) -> Parts:
    """Attention of q [B,G,R,D] to k, v [B,G,L,D] and its log-sum-exp [B,G,R]. `causal` needs R = L."""
    kernel = split_kernel(q, k, v)
    if kernel is not None:
        out, lse, _ = kernel.forward(q, k, v, causal, scale)
        return out.float(), lse
    rows = max(1, SCORE_BYTES // (4 * q.shape[0] * q.shape[1] * k.shape[2]))
    outs, stats = [], []
    for start in range(0, q.shape[2], rows):
        block = q[:, :, start : start + rows].float()
        mask = None
        if causal:
            mask = torch.ones(block.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(start)
        out, lse = _softmax(block, k.float(), v.float(), scale, mask)
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


def _to_prefix(q: torch.Tensor, keys: Parts, scale: float) -> Parts:
    """All rows of q [B,H,S,D] against one prefix [1,G,P,D]: outputs [B,H,S,D], statistics [B,H,S]."""
    rows, heads, steps, width = q.shape
    groups = keys[0].shape[1]
    folded = (
        q.view(rows, groups, heads // groups, steps, width)
        .permute(1, 0, 2, 3, 4)
        .reshape(1, groups, -1, width)
    )
    out, lse = _attend(folded, *keys, scale)
    shape = (groups, rows, heads // groups, steps)
    out = out.reshape(*shape, -1).transpose(0, 1).reshape(rows, heads, steps, -1)
    return out, lse.reshape(shape).transpose(0, 1).reshape(rows, heads, steps)


def _to_own(q: torch.Tensor, keys: Parts, scale: float, pads: torch.Tensor) -> Parts:
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
        out, lse = _softmax(part, k, v, scale, seen[:, None, None])
        outs.append(out)
        stats.append(lse)
    return torch.cat(outs, 3).reshape(rows, heads, steps, -1), torch.cat(stats, 3).reshape(rows, heads, steps)


def _store(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, scale: float, state: State
) -> torch.Tensor:
    """Store a chunk of the prefix; its causal attention to the prefix so far and to itself, [1,H,S,D]."""
    if layer not in state.prefix:
        room = (1, k.shape[1], state.total)
        state.prefix[layer] = k.new_empty(*room, k.shape[3]), v.new_empty(*room, v.shape[3])
    start, end = state.length, state.length + k.shape[2]
    held = state.prefix[layer]
    for store, part in zip(held, (k, v), strict=True):
        store[:, :, start:end] = part
    groups = q.shape[1] // k.shape[1]
    if start == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=groups > 1)
    near = _attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), scale, causal=True)
    return _join(_to_prefix(q, (held[0][:, :, :start], held[1][:, :, :start]), scale), near)


def branch_attention(
    module: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    lcx_decode: State | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention registered as `lcx_branch_decode`. q [B,H,S,D], k and v [B,G,S,D] to [B,S,H,D]."""
    if lcx_decode is None:
        raise RuntimeError(f"attention '{NAME}' is for BranchDecoder only: it needs the decoder's state")
    state, layer = lcx_decode, module.layer_idx
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    if state.pads is None:
        out = _store(q, k, v, layer, scale, state)
    else:
        near = _to_own(q, state.extend(layer, k, v), scale, state.pads)
        if state.length:
            out = _join(_to_prefix(q, state.prefix[layer], scale), near)
        else:
            out = near[0]
    return out.to(q.dtype).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are made from the state; registered so that position gaps are not taken for packed sequences."""


AttentionInterface.register(NAME, branch_attention)
AttentionMaskInterface.register(NAME, _no_mask)
