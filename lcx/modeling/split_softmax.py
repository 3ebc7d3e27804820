"""Branches over a shared prefix without masks or copies: two attentions joined by their softmax statistics.

A branch row attends to the prefix (all of it, no mask) and to its own branch (causally). Each part is one
call of a flash kernel, which returns its output o and l = log Σ exp(scores); the whole softmax is

    l = log(exp l₁ + exp l₂),   o = o₁ exp(l₁ − l) + o₂ exp(l₂ − l)

A flash backward recomputes its probabilities as exp(score − l). Given the joint o and l, each part's
backward therefore yields its exact share of the joint gradient. The kernels are internal operators of
PyTorch, so they are tried against the public path once for each device, dtype and width, and not used where
they are missing or differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from threading import Thread
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

Extra = tuple[Any, ...]


class CpuFlash:
    """PyTorch's flash attention for CPUs. Tensors [B,H,S,D]; statistics [B,H,S]."""

    @staticmethod
    def forward(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None
    ) -> tuple[torch.Tensor, torch.Tensor, Extra]:
        """Output, log-sum-exp and what the backward needs besides."""
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = op(q, k, v, 0.0, causal, scale=scale)
        return out, lse, ()

    @staticmethod
    def backward(
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float | None,
        extra: Extra,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of q, k and v."""
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return op(grad, q, k, v, out, lse, 0.0, causal, scale=scale)


class CudaFlash:
    """PyTorch's flash attention for CUDA (fp16 and bf16). Tensors [B,H,S,D]; statistics [B,H,S]."""

    @staticmethod
    def forward(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None
    ) -> tuple[torch.Tensor, torch.Tensor, Extra]:
        """Output, log-sum-exp and what the backward needs besides."""
        op = torch.ops.aten._scaled_dot_product_flash_attention
        out, lse, *rest = op(q, k, v, 0.0, causal, False, scale=scale)
        return out, lse, tuple(rest[:6])

    @staticmethod
    def backward(
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        causal: bool,
        scale: float | None,
        extra: Extra,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of q, k and v."""
        op = torch.ops.aten._scaled_dot_product_flash_attention_backward
        starts_q, starts_k, rows, keys, seed, offset = extra
        return op(
            grad, q, k, v, out, lse, starts_q, starts_k, rows, keys, 0.0, causal, seed, offset, scale=scale
        )


Kernel = type[CpuFlash] | type[CudaFlash]


def _fold(x: torch.Tensor, key_heads: int) -> torch.Tensor:
    """[1,H,R,...] to [1,G,(H/G)R,...]: the query heads that share a key head become rows of it."""
    return x.reshape(1, key_heads, -1, *x.shape[3:])


def _stack(x: torch.Tensor, branches: Sequence[int], groups: int = 1) -> torch.Tensor:
    """[1,H,R,D] to [b,H*groups,L,D]: one batch row a branch, padded with zeros behind its end to the longest.

    Causal attention never looks at what lies behind; `groups` repeats each key head for its query heads.
    """
    stacked = pad_sequence(list(x[0].transpose(0, 1).split(list(branches))), batch_first=True).transpose(1, 2)
    return stacked.repeat_interleave(groups, 1) if groups > 1 else stacked


def _unstack(x: torch.Tensor, branches: Sequence[int]) -> torch.Tensor:
    """[b,H,L,...] to [1,H,R,...], without the padding."""
    return torch.cat([row[:, :length] for row, length in zip(x, branches, strict=True)], 1)[None]


class _Split(torch.autograd.Function):
    """q [1,H,R,D], k and v [1,G,prefix+R,D] to [1,H,R,D]."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kernel: Kernel,
        prefix: int,
        branches: tuple[int, ...],
        scale: float | None,
    ) -> torch.Tensor:
        heads, shared = q.shape[1], k.shape[1]
        groups = heads // shared
        far, far_lse, far_extra = kernel.forward(
            _fold(q, shared), k[:, :, :prefix], v[:, :, :prefix], False, scale
        )
        far_lse = far_lse.reshape(1, heads, -1)
        near, near_lse, near_extra = kernel.forward(
            _stack(q, branches),
            _stack(k[:, :, prefix:], branches, groups),
            _stack(v[:, :, prefix:], branches, groups),
            True,
            scale,
        )
        near_lse = _unstack(near_lse, branches)
        lse = torch.logaddexp(far_lse, near_lse)
        out = far.reshape(q.shape) * (far_lse - lse).exp()[..., None]
        out = (out + _unstack(near, branches) * (near_lse - lse).exp()[..., None]).to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.rest = (kernel, prefix, branches, scale, far_extra, near_extra)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        kernel, prefix, branches, scale, far_extra, near_extra = ctx.rest
        shared = k.shape[1]
        groups = q.shape[1] // shared
        far_q, far_k, far_v = kernel.backward(
            _fold(grad, shared),
            _fold(q, shared),
            k[:, :, :prefix],
            v[:, :, :prefix],
            _fold(out, shared),
            _fold(lse, shared),
            False,
            scale,
            far_extra,
        )
        near_q, near_k, near_v = kernel.backward(
            _stack(grad, branches),
            _stack(q, branches),
            _stack(k[:, :, prefix:], branches, groups),
            _stack(v[:, :, prefix:], branches, groups),
            _stack(out, branches),
            _stack(lse[..., None], branches)[..., 0],
            True,
            scale,
            near_extra,
        )
        grads = [far_q.reshape(q.shape) + _unstack(near_q, branches)]
        for far, near in ((far_k, near_k), (far_v, near_v)):
            own = _unstack(near.unflatten(1, (shared, groups)).sum(2), branches)
            grads.append(torch.cat([far, own], 2))
        return (*grads, None, None, None, None)


def split_attention(
    kernel: Kernel,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix: int,
    branches: Sequence[int],
    scale: float | None,
) -> torch.Tensor:
    """Branch rows of one bundle. q [1,H,R,D], k and v [1,G,prefix+R,D], R = sum(branches), to [1,H,R,D]."""
    return _Split.apply(q, k, v, kernel, prefix, tuple(branches), scale)


def split_kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Kernel | None:
    """The flash kernel for these tensors [B,H,S,D], or None where there is none that has proved itself."""
    if not q.dtype == k.dtype == v.dtype or q.shape[-1] != v.shape[-1]:
        return None
    return _proven(str(q.device), q.dtype, q.shape[-1])


@cache
def _proven(device: str, dtype: torch.dtype, width: int) -> Kernel | None:
    kernel: Kernel | None = None
    if device.startswith("cpu") and dtype in (torch.float32, torch.float64, torch.bfloat16):
        kernel = CpuFlash
    elif device.startswith("cuda") and dtype in (torch.float16, torch.bfloat16) and width % 8 == 0:
        kernel = CudaFlash
    if kernel is None:
        return None
    agreed: list[bool] = []
    # In a thread of its own: autocast, grad mode and the hooks of gradient checkpointing belong to a
    # thread, and the first question may come from inside a checkpointed layer.
    worker = Thread(target=lambda: agreed.append(_agrees(kernel, device, dtype, width)))
    worker.start()
    worker.join()
    return kernel if agreed == [True] else None


def _agrees(kernel: Kernel, device: str, dtype: torch.dtype, width: int) -> bool:
    """True if output and gradients equal the public path's on a small bundle."""
    prefix, branches = 37, (9, 21)
    numbers = torch.arange((4 + 2 + 2) * 67 * width, dtype=torch.float64)
    wave = torch.sin(numbers * numbers % 977).view(1, 8, 67, width).to(device, dtype)
    results = []
    for split in (True, False):
        q, k, v = (part.clone().requires_grad_() for part in (wave[:, :4], wave[:, 4:6], wave[:, 6:]))
        rows = q[:, :, prefix:]
        try:
            if split:
                out = split_attention(kernel, rows, k, v, prefix, branches, None)
            else:
                out = _reference(rows, k, v, prefix, branches)
            out.backward(wave[:, :4, prefix:])
        except (RuntimeError, TypeError, AttributeError, ValueError, NotImplementedError):
            return False
        results.append([t.detach().double() for t in (out, q.grad, k.grad, v.grad) if t is not None])
    bound = 1e-4 if dtype in (torch.float32, torch.float64) else 4e-2
    return all((a - b).norm() <= bound * b.norm() for a, b in zip(*results, strict=True))


def _reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: int, branches: Sequence[int]
) -> torch.Tensor:
    """The same attention in public calls, one branch at a time."""
    pieces, start = [], 0
    for length in branches:
        keys = [*range(prefix), *range(prefix + start, prefix + start + length)]
        mask = torch.ones(length, len(keys), dtype=torch.bool, device=q.device).tril(prefix)
        own = q[:, :, start : start + length]
        seen_k, seen_v = (x[:, :, keys].repeat_interleave(2, 1) for x in (k, v))
        pieces.append(F.scaled_dot_product_attention(own, seen_k, seen_v, attn_mask=mask))
        start += length
    return torch.cat(pieces, 2)
