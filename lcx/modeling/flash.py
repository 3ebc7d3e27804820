"""flash-attn's kernels for packed rows: the prompt part, and each branch by bottom-right causal alignment.

With fewer query rows than keys, flash-attn lets row i see the keys up to `keys - rows + i`: the rows of a branch
at the end of its prefix's keys and its own. That is what a branch attends to, without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from lcx.errors import MissingError

INSTALL = "pip install 'lcx[flash]'"
LARGEST_HEAD = 256
"""Widest attention head that the kernels take."""


def wants_flash(kernels: str, model: Any) -> bool:
    """True if `auto`, `sdpa` or `flash` means flash-attn for this model.

    `auto` takes it where it is installed and can serve the model. Raises MissingError, saying why, where
    `flash` is asked for and cannot be had.
    """
    if kernels == "sdpa":
        return False
    reason = _why_not(model)
    if reason and kernels == "flash":
        missing = find_spec("flash_attn") is None
        raise MissingError(
            "attn flash cannot serve this model here", why=reason, hint=INSTALL if missing else "--attn sdpa"
        )
    return not reason


def _why_not(model: Any) -> str:
    """Why flash-attn cannot serve a model, or an empty string where it can."""
    if find_spec("flash_attn") is None:
        return "flash-attn is not installed."
    if not torch.cuda.is_available():
        return "flash-attn runs on CUDA GPUs only, and there is none."
    if torch.cuda.get_device_capability() < (8, 0):
        return "flash-attn needs a GPU of compute capability 8.0 (Ampere) or newer."
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width > LARGEST_HEAD:
        return f"flash-attn takes heads of at most {LARGEST_HEAD}, and this model's are {width} wide."
    return ""


def flash_pieces(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: Sequence[int],
    scale: float | None,
    dropout: float = 0.0,
    branches_only: bool = False,
) -> list[torch.Tensor]:
    """One bundle's attention: q [1,H,R,D], k and v [1,G,R,D], R = sum(rows), to pieces [1,H,*,D] in order.

    With `branches_only` the prefix's own rows are zeros. Raises MissingError for tensors of another type than
    fp16 and bf16.
    """
    from flash_attn import flash_attn_func

    if q.dtype not in (torch.float16, torch.bfloat16):
        raise MissingError(
            f"flash-attn computes in fp16 and bf16, not in {str(q.dtype).removeprefix('torch.')}",
            hint="--set train.precision=bf16, or --attn sdpa",
        )
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [1,R,H,D]
    prefix, *branches = rows

    def attend(queries: slice, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        out = flash_attn_func(
            q[:, queries], keys, values, dropout_p=dropout, softmax_scale=scale, causal=True
        )
        return out.transpose(1, 2)

    pieces = []
    if prefix and branches_only:
        pieces = [q.new_zeros(1, q.shape[2], prefix, v.shape[-1])]
    elif prefix:
        pieces = [attend(slice(0, prefix), k[:, :prefix], v[:, :prefix])]
    start = prefix
    for length in branches:
        own = slice(start, start + length)
        keys, values = (torch.cat([part[:, :prefix], part[:, own]], 1) for part in (k, v))
        pieces.append(attend(own, keys, values))
        start = own.stop
    return pieces
