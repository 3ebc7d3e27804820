"""A model's weights by a short hash."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def digest_of_weights(model: Any) -> str:
    """A hash of a few numbers of every parameter: training changes it, and it costs nothing to read."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        few = flat[:: max(1, flat.numel() // 8)][:8].to("cpu", torch.float32)
        digest.update(name.encode() + few.numpy().tobytes())
    return digest.hexdigest()
