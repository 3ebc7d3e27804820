"""flash-attn's part: what its kernels are given, by a stand-in that follows their documented alignment."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lcx.errors import MissingError
from lcx.modeling import flash
from lcx.modeling.shared_prefix import bundle_attention


def stand_in(
    q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False
) -> Any:
    """`flash_attn_func` in plain operations: [1,S,H,D], causal to the bottom right, in fp32."""
    assert causal
    assert dropout_p == 0.0
    q, k, v = (part.transpose(1, 2).float() for part in (q, k, v))
    rows, keys = q.shape[2], k.shape[2]
    seen = torch.arange(keys)[None] <= torch.arange(rows)[:, None] + keys - rows
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=softmax_scale, enable_gqa=True)
    return out.transpose(1, 2).to(torch.bfloat16)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn")
    module.flash_attn_func = stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.mark.parametrize("rows", [[50, 7, 3, 11], [50, 9], [0, 5], [1, 4, 4]])
def test_pieces_equal_sdpa(package: None, rows: list[int]) -> None:
    torch.manual_seed(0)
    total = sum(rows)
    q, k, v = (
        torch.randn(1, heads, total, 16, dtype=torch.bfloat16, requires_grad=True) for heads in (8, 2, 2)
    )
    ours = torch.cat(flash.flash_pieces(q, k, v, rows, 0.3), 2)
    whole = torch.cat(bundle_attention(q.float(), k.float(), v.float(), rows, 0.3), 2)
    assert torch.allclose(ours.float(), whole, atol=2e-2)
    ours.float().square().sum().backward()
    mine = [part.grad.clone() for part in (q, k, v)]  # type: ignore[union-attr]
    for part in (q, k, v):
        part.grad = None
    whole.square().sum().backward()
    for got, part in zip(mine, (q, k, v), strict=True):
        assert (got - part.grad).norm() <= 2e-2 * part.grad.norm()  # type: ignore[operator, union-attr]


def test_the_prefix_may_be_left_out(package: None) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 30, 16, dtype=torch.bfloat16) for heads in (8, 2, 2))
    whole = flash.flash_pieces(q, k, v, [20, 4, 6], None)
    head, *branches = bundle_attention(q, k, v, [20, 4, 6], None, flash=True, branches_only=True)
    assert head.shape == whole[0].shape
    assert not head.any()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(branches, whole[1:], strict=True))


def test_fp32_is_refused(package: None) -> None:
    q = torch.randn(1, 2, 8, 4)
    with pytest.raises(MissingError, match="fp16 and bf16, not in float32") as bad:
        flash.flash_pieces(q, q, q, [6, 2], None)
    assert "precision=bf16" in bad.value.hint


def test_who_gets_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=64, num_attention_heads=4))
    monkeypatch.setattr(flash, "find_spec", lambda name: None)
    assert not flash.wants_flash("auto", model)
    assert not flash.wants_flash("sdpa", model)
    with pytest.raises(MissingError, match="attn flash") as bad:
        flash.wants_flash("flash", model)
    assert bad.value.hint == "pip install 'lcx[flash]'"
    monkeypatch.setattr(flash, "find_spec", lambda name: name)
    monkeypatch.setattr(flash.torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingError, match="attn flash") as bad:
        flash.wants_flash("flash", model)
    assert "there is none" in bad.value.why
    monkeypatch.setattr(flash.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(flash.torch.cuda, "get_device_capability", lambda: (9, 0))
    assert flash.wants_flash("auto", model)
    model.config.head_dim = 512
    assert not flash.wants_flash("auto", model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [[700, 130, 64, 200], [512, 128], [1, 40, 40]])
def test_real_kernels_equal_sdpa(rows: list[int]) -> None:
    """flash-attn itself against SDPA in fp32, within bf16 error, gradients too."""
    pytest.importorskip("flash_attn")
    torch.manual_seed(0)
    total = sum(rows)
    q, k, v = (
        torch.randn(1, heads, total, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (8, 2, 2)
    )
    ours = torch.cat(flash.flash_pieces(q, k, v, rows, None), 2)
    grad = torch.randn_like(ours)
    mine = torch.autograd.grad(ours, (q, k, v), grad)
    exact = [part.detach().float().requires_grad_() for part in (q, k, v)]
    whole = torch.cat(bundle_attention(*exact, rows, None), 2)
    theirs = torch.autograd.grad(whole, exact, grad.float())
    assert (ours.float() - whole).norm() <= 1e-2 * whole.norm()
    for got, want in zip(mine, theirs, strict=True):
        assert (got.float() - want).norm() <= 2e-2 * want.norm()
