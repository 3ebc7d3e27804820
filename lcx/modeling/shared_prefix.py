"""Shared-prefix attention: many branches read one context, and the context is computed once.

A packed row holds, for every bundle, `[P[:-1] | (P[-1], branch 1) | (P[-1], branch 2) ...]`. The rows of
P[:-1] attend causally to each other; a branch attends to all of P[:-1] and, causally, to itself. The
prefix's last token is repeated at the head of every branch, so that the logits of a branch predict that
branch alone, its first token included, and ordinary shifted labels hold. The result equals that of one row
a branch, `P + branch`, up to rounding.

    attention of branch row i = softmax(q_i [K_prefix | K_branch[:i+1]]ᵀ) [V_prefix | V_branch[:i+1]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from lcx.errors import UsageError
from lcx.modeling.flash import flash_pieces, wants_flash
from lcx.modeling.split_softmax import split_attention, split_kernel
from lcx.modeling.support import why_not_packed
from lcx.records import EncodedBundle

NAME = "lcx_shared_prefix"
FLASH_NAME = "lcx_shared_prefix_flash"
Segments = Sequence[Sequence[int]]
"""One list a bundle: rows of its prefix (tokens less one), then of each branch (tokens plus one)."""

ModelT = TypeVar("ModelT")


@dataclass(frozen=True)
class PackedRow:
    """Bundles laid out in one row of n tokens with b branches and t answer tokens. Integer arrays throughout.

    `logit_index[j]` is the place in the row whose logits predict `targets[j]`, an answer token of branch
    `branch_of_target[j]`; `bundle_of_branch` and `roles` describe the branches in row order.
    """

    input_ids: np.ndarray  # [n]
    position_ids: np.ndarray  # [n]
    segments: list[list[int]]
    logit_index: np.ndarray  # [t]
    targets: np.ndarray  # [t]
    branch_of_target: np.ndarray  # [t]
    bundle_of_branch: np.ndarray  # [b]
    roles: tuple[str, ...]  # [b]

    @property
    def labels(self) -> np.ndarray:
        """[n]: answer tokens at their own places and -100 elsewhere, for losses that shift labels."""
        labels = np.full(len(self.input_ids), -100, dtype=np.int64)
        labels[self.logit_index + 1] = self.targets
        return labels


def pack(bundles: Sequence[EncodedBundle]) -> PackedRow:
    """Lay bundles out one after another. Raises ValueError on an empty prefix or an empty branch."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    segments: list[list[int]] = []
    index: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    bundle_of_branch: list[int] = []
    roles: list[str] = []
    at = 0  # the row's length so far
    for number, bundle in enumerate(bundles):
        prefix = np.asarray(bundle.prefix, dtype=np.int64)
        if not len(prefix):
            raise ValueError(
                f"bundle {bundle.id}: the prefix is empty, and branches need at least one token to follow"
            )
        place = (
            np.arange(len(prefix))
            if bundle.positions is None
            else np.asarray(bundle.positions, dtype=np.int64)
        )
        if len(place) != len(prefix):
            raise ValueError(
                f"bundle {bundle.id}: {len(place)} positions for a prefix of {len(prefix)} tokens"
            )
        ids.append(prefix[:-1])
        positions.append(place[:-1])
        rows = [len(prefix) - 1]
        at += rows[0]
        for branch in bundle.branches:
            tokens = np.asarray(branch.ids, dtype=np.int64)
            if not len(tokens):
                raise ValueError(f"bundle {bundle.id}: a branch is empty")
            ids += [prefix[-1:], tokens]
            positions.append(place[-1] + np.arange(len(tokens) + 1))
            answer = np.arange(branch.answer_start, len(tokens))
            index.append(at + answer)  # row at+j holds the token before tokens[j]
            targets.append(tokens[answer])
            owners.append(np.full(len(answer), len(roles), dtype=np.int64))
            bundle_of_branch.append(number)
            roles.append(branch.role)
            rows.append(len(tokens) + 1)
            at += rows[-1]
        segments.append(rows)
    return PackedRow(
        input_ids=np.concatenate(ids),
        position_ids=np.concatenate(positions),
        segments=segments,
        logit_index=np.concatenate(index),
        targets=np.concatenate(targets),
        branch_of_target=np.concatenate(owners),
        bundle_of_branch=np.asarray(bundle_of_branch, dtype=np.int64),
        roles=tuple(roles),
    )


def branch_mask(prefix: int, branches: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """The mask of the keys that each branch row sees: bool [sum(branches), prefix + sum(branches)]."""
    owner = torch.repeat_interleave(torch.arange(len(branches)), torch.tensor(branches))
    own = (owner[:, None] == owner[None, :]).tril()  # same branch, and not after the row itself
    return torch.cat([torch.ones(len(owner), prefix, dtype=torch.bool), own], 1).to(device)


_last_mask: tuple[Any, torch.Tensor] | None = None


def _bias(prefix: int, branches: Sequence[int], groups: int, like: torch.Tensor) -> torch.Tensor:
    """`branch_mask` as an additive bias [groups * rows, keys]. The layers of a forward share it."""
    global _last_mask
    key = (prefix, tuple(branches), groups, like.device, like.dtype)
    if _last_mask is None or _last_mask[0] != key:
        mask = branch_mask(prefix, branches, like.device)
        bias = torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(
            ~mask, float("-inf")
        )
        _last_mask = (key, bias.repeat(groups, 1))
    return _last_mask[1]


def masked_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix: int,
    branches: Sequence[int],
    scale: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """All branches of a bundle by one call with a mask. q [1,H,R,D], k and v [1,G,prefix+R,D] to [1,H,R,D].

    Keys are used where they lie, never copied for a branch. The H/G query heads that share a key head are
    folded into the rows, because CUDA kernels take a mask or grouped heads, but not both.
    """
    _, heads, rows, width = q.shape
    groups = heads // k.shape[1]
    folded = q.reshape(1, k.shape[1], groups * rows, width)
    bias = _bias(prefix, branches, groups, q)
    out = F.scaled_dot_product_attention(folded, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
    return out.reshape(1, heads, rows, v.shape[-1])


def _causal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None, dropout: float
) -> torch.Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=grouped
    )


def bundle_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: Sequence[int],
    scale: float | None,
    dropout: float = 0.0,
    flash: bool = False,
    branches_only: bool = False,
) -> list[torch.Tensor]:
    """One bundle's attention: q [1,H,R,D], k and v [1,G,R,D], R = sum(rows), to pieces [1,H,*,D] in order.

    With `branches_only` the prefix's own rows are zeros.
    """
    prefix, *branches = rows
    if flash:
        return flash_pieces(q, k, v, rows, scale, dropout, branches_only)
    kernel = split_kernel(q, k, v) if prefix and not dropout else None
    if len(branches) < 2 and not (branches_only and kernel):
        # one branch follows its prefix as a plain row would
        return [_causal(q, k, v, scale, dropout)]
    head = []
    if prefix and branches_only:
        head = [q.new_zeros(1, q.shape[1], prefix, v.shape[-1])]
    elif prefix:
        head = [_causal(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], scale, dropout)]
    tail = q[:, :, prefix:]
    if kernel:
        return [*head, split_attention(kernel, tail, k, v, prefix, branches, scale)]
    return [*head, masked_attention(tail, k, v, prefix, branches, scale, dropout)]


def _plain(
    module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """transformers' own SDPA attention; with cached keys and no mask, rows stand at the end of the keys."""
    rows, keys = q.shape[2], k.shape[2]
    if mask is None and 1 < rows < keys:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    return sdpa_attention_forward(module, q, k, v, mask, **kwargs)


def _is_last(attention: Any) -> bool:
    return bool(attention.layer_idx == attention.config.num_hidden_layers - 1)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    flash: bool = False,
    answers_only: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query [1,H,n,D], key and value [1,G,n,D] to [1,n,H,D].

    `answers_only` promises that nothing is asked of the prefix's rows behind the last layer; what they would
    attend to there is then left out. Its keys and values are all that the branches read, so that their
    outputs and all gradients stay the same.

    Without `segments` it is plain causal attention, mask and cache included, so that a model still generates.
    Raises ValueError where segments do not cover the row, or come with a padding mask or more than one row.
    """
    if segments is None:
        return _plain(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    total = sum(sum(rows) for rows in segments)
    if attention_mask is not None or query.shape[0] != 1 or not total == query.shape[2] == key.shape[2]:
        raise ValueError(
            f"segments of {total} rows need one unpadded row of {total} tokens without a mask or cache; "
            f"got queries {tuple(query.shape)}, keys {tuple(key.shape)}, mask {attention_mask is not None}"
        )
    if torch.is_autocast_enabled(query.device.type):  # the kernels below do not all take part in autocast
        low = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(low), key.to(low), value.to(low)
    pieces: list[torch.Tensor] = []
    last = answers_only and _is_last(module)
    start = 0
    for rows in segments:
        part = slice(start, start + sum(rows))
        pieces += bundle_attention(
            query[:, :, part], key[:, :, part], value[:, :, part], rows, scaling, dropout, flash, last
        )
        start = part.stop
    return torch.cat([piece.transpose(1, 2) for piece in pieces], 1), None


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """No mask for packed rows: transformers would read position gaps as boundaries between documents."""
    if attention_mask is None:
        return None
    return sdpa_mask(*args, **{**kwargs, "attention_mask": attention_mask})


def install() -> str:
    """Register the attention with transformers under `NAME` (repeatable); returns the name.

    `FLASH_NAME` is the same with flash-attn's kernels.
    """
    for name, kernels in ((NAME, False), (FLASH_NAME, True)):
        AttentionInterface.register(name, partial(shared_prefix_attention, flash=kernels))
        AttentionMaskInterface.register(name, _mask)
    return NAME


def use_shared_prefix(model: ModelT, kernels: str = "sdpa") -> ModelT:
    """Switch a model, PEFT-wrapped or not, to shared-prefix attention with `sdpa`, `flash` or `auto` kernels.

    Raises UsageError if the model is refused, MissingError where flash is asked for and cannot serve it.
    """
    reason = why_not_packed(model.config)  # type: ignore[attr-defined]
    if reason:
        raise UsageError("This model cannot share a prefix between branches.", why=reason)
    install()
    model.set_attn_implementation(FLASH_NAME if wants_flash(kernels, model) else NAME)  # type: ignore[attr-defined]
    return model


def restore(model: ModelT, attention: str = "sdpa") -> ModelT:
    """Switch a model back to a stock attention implementation."""
    model.set_attn_implementation(attention)  # type: ignore[attr-defined]
    return model
