"""Which models, by their config, can share a context among branches: packed in one row, or when they decode.

Torch-free.
"""

from __future__ import annotations

from typing import Any

FULL_ATTENTION = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "glm", "glm4", "phi3", "olmo2", "granite", "smollm3", "starcoder2"}
)
"""Model types that tests/modeling/test_shared_prefix.py holds equal to separate rows."""
LENGTH_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary types whose frequencies follow the highest position of a row; packing and prefilling change that one."""


WINDOWED = frozenset(
    {
        *("mistral", "ministral", "mixtral", "qwen2", "qwen3", "qwen3_moe"),
        *("phi3", "starcoder2", "smollm3", "olmo3", "gemma3_text", "cohere2"),
    }
)
"""Model types whose sliding layers tests/modeling/test_decode_windows.py holds equal to `generate`."""
DECODED = FULL_ATTENTION | WINDOWED | {"gemma", "olmo"}
"""Model types whose attention is known: softmax over all earlier tokens, or over a window of them."""
KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})


def brings_code(config: Any) -> bool:
    """True if a config names code of the model's own, which lcx does not run."""
    return bool(getattr(config, "auto_map", None))


def why_not_packed(config: Any) -> str | None:
    """Why branches of this model cannot share a prefix in one row, or None where they can. Reads the config only."""
    kind = _kind(config)
    if reason := _not_causal(config, kind):
        return reason
    layers = getattr(config, "layer_types", None) or ()
    others = sorted({str(layer) for layer in layers if layer != "full_attention"})
    if others:
        return f"some layers of '{kind}' have {' and '.join(others)}; a branch must see the whole prefix"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return (
            f"'{kind}' attends within a sliding window of {config.sliding_window} tokens (sliding_window); "
            "a branch must see the whole prefix"
        )
    if varying := sorted(rope_types(config) & LENGTH_ROPE):
        return f"the rotary positions of '{kind}' ({varying[0]}) change with the length of the row"
    if kind not in FULL_ATTENTION:
        known = ", ".join(sorted(FULL_ATTENTION))
        return (
            f"model type '{kind}' has not been checked with shared-prefix attention; those that have: {known}"
        )
    return None


def why_not_decoded(config: Any) -> str | None:
    """Why a model of this config cannot decode branches over one stored context, or None where it can."""
    kind = _kind(config)
    if reason := _not_causal(config, kind):
        return reason
    layers = {str(layer) for layer in getattr(config, "layer_types", None) or ()}
    if others := sorted(layers - KNOWN_LAYERS):
        return f"some layers of '{kind}' have {' and '.join(others)}"
    if varying := sorted(rope_types(config) & LENGTH_ROPE):
        return f"the rotary positions of '{kind}' ({varying[0]}) change with the length of the text"
    if getattr(config, "attn_logit_softcapping", None):
        return f"'{kind}' caps its attention scores (attn_logit_softcapping)"
    if getattr(config, "use_bidirectional_attention", None):
        return f"'{kind}' attends to later tokens too (use_bidirectional_attention)"
    if kind not in DECODED:
        return f"model type '{kind}' has not been checked with shared-prefix decoding"
    if kind not in WINDOWED and (window := _window(config, layers)):
        return f"'{kind}' attends within a sliding window of {window} tokens, which was not checked for it"
    return None


def rope_types(config: Any) -> set[str]:
    """Rotary types of all layers; some models have one set of parameters for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    sets = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return {str(one.get("rope_type") or "default") for one in sets}


def _kind(config: Any) -> str:
    return str(getattr(config, "model_type", "") or "unknown")


def _not_causal(config: Any, kind: str) -> str | None:
    """Why a model is none that transformers' own code runs as a causal language model; else None."""
    if brings_code(config):
        return (
            f"'{kind}' brings its own code (auto_map in its config), and lcx does not run a model's own code"
        )
    if getattr(config, "is_encoder_decoder", False):
        return f"'{kind}' is an encoder-decoder, not a causal language model"
    return None


def _window(config: Any, layers: set[str]) -> int | None:
    """Tokens of the window of any layer, or None where all attend to everything."""
    found = getattr(config, "sliding_window", None)
    used = "sliding_attention" in layers if layers else getattr(config, "use_sliding_window", True)
    return int(found) if found and used else None
