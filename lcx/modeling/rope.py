"""Rotary settings of a model: which there are, how they are checked, and how they change a loaded config.

Imports no torch, so that settings are checked before anything loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lcx.errors import UsageError, suggestion

__all__ = ["ROPE_TYPES", "check_rope", "set_rope", "window"]

ORIGINAL = "original_max_position_embeddings"
WINDOW = "max_position_embeddings"
ROPE_TYPES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (
        ("factor", ORIGINAL),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "llama3": (("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"), ()),
    "longrope": (("short_factor", "long_factor", ORIGINAL), ("factor", "attention_factor")),
}
"""Keys of each rotary type in transformers' `rope_parameters`: those it needs, and those it may have besides."""
ANY_TYPE = ("rope_type", "rope_theta", "partial_rotary_factor")
WIDENS = frozenset({"linear", "yarn"})
"""Types whose factor is the new window over the original one: each gives the other."""


def check_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings with their values as numbers, checked by their type where they name one.

    Raises ValueError, in the words of a settings error, for an unknown key or type, a key of another type, a
    missing one, and a value that cannot be.
    """
    known = {*ANY_TYPE, WINDOW, *(key for keys in ROPE_TYPES.values() for part in keys for key in part)}
    for key in rope:
        if key not in known:
            raise ValueError(f"unknown key '{key}'. {suggestion(str(key), known)}".rstrip())
    checked = {key: _value(key, value) for key, value in rope.items()}
    kind = rope.get("rope_type")
    if kind is not None:
        if foreign := _foreign(kind, rope):
            raise ValueError(f"rope_type {kind} has no '{foreign[0]}'")
        derived = {ORIGINAL, *(("factor",) if kind in WIDENS and WINDOW in rope else ())}
        if lacking := _lacking(kind, {*rope, *derived}):
            raise ValueError(f"rope_type {kind} needs {' and '.join(lacking)}")
    return checked


def window(config: Any) -> int:
    """Positions that the model was made for, in tokens. Raises UsageError where its config does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, WINDOW, None)
    if not limit:
        raise UsageError(
            f"the config of model type '{getattr(config, 'model_type', '?')}' names no window",
            why="It has no max_position_embeddings.",
        )
    return int(limit)


def set_rope(config: Any, theta: float | None = None, rope: Mapping[str, Any] | None = None) -> None:
    """Merge rotary settings into a loaded config, its window (max_position_embeddings) included.

    What `rope` does not name stays as the model has it; where it names another rope_type, the keys of the old
    one go. The window becomes what `rope` says, else factor times the original window, which is the model's
    from before any scaling. Two types differ: llama3 never narrows the window (its models have a wider one),
    and dynamic leaves it, since its formula starts from there. linear and yarn with a window and no factor
    take theirs from the two windows.

    Raises UsageError for what `check_rope` refuses, for keys that the model's own type does not have or
    lacks, and where a model has no single set of parameters.
    """
    if theta is None and not rope:
        return
    current = getattr(config, "rope_parameters", None)
    if not isinstance(current, dict) or any(isinstance(value, dict) for value in current.values()):
        raise UsageError(
            f"rope settings cannot be changed for model type '{getattr(config, 'model_type', '?')}'",
            why="It has none, or other ones for other layers.",
        )
    try:
        given = check_rope(rope or {})
    except ValueError as bad:
        raise UsageError(f"rope: {bad}") from None
    own = str(current.get("rope_type") or "default")
    kind = given.get("rope_type", own)
    if foreign := _foreign(kind, given):
        raise UsageError(
            f"rope: the model's rope_type {kind} has no '{foreign[0]}'",
            hint="Name the type too: {rope_type: yarn, factor: 8}",
        )
    rescaled = kind != own or "factor" in given or ORIGINAL in given
    wanted, original = given.pop(WINDOW, None), given.pop(ORIGINAL, None) or _original(config, own, current)
    kept = {key: value for key, value in current.items() if kind == own or key in ANY_TYPE}
    new = {**kept, **given, "rope_type": kind}
    if theta is not None:
        new["rope_theta"] = float(theta)
    if wanted and "factor" not in given and "rope_type" in given and kind in WIDENS:
        new["factor"] = max(1.0, wanted / original)
    if ORIGINAL in ROPE_TYPES.get(kind, ((), ()))[0]:
        new[ORIGINAL] = original
        if getattr(config, ORIGINAL, None):  # where a config has it outside too, transformers takes that one
            setattr(config, ORIGINAL, original)
    if lacking := _lacking(kind, new):
        raise UsageError(f"rope: rope_type {kind} needs {' and '.join(lacking)}")
    config.rope_parameters = new
    if wanted or rescaled:
        setattr(config, WINDOW, wanted or _scaled(window(config), original, new))


def _foreign(kind: str, keys: Iterable[str]) -> list[str]:
    """Keys that a type does not have; the windows are arithmetic that every type may be given."""
    own = {*ANY_TYPE, WINDOW, ORIGINAL, *(key for part in ROPE_TYPES.get(kind, ()) for key in part)}
    return [key for key in keys if key not in own]


def _lacking(kind: str, keys: Iterable[str]) -> list[str]:
    return [key for key in ROPE_TYPES.get(kind, ((), ()))[0] if key not in set(keys)]


def _original(config: Any, kind: str, current: Mapping[str, Any]) -> int:
    """The window before any scaling. A linear model's config does not name it: its window over its factor."""
    named = getattr(config, ORIGINAL, None) or current.get(ORIGINAL)
    if named:
        return int(named)
    return round(window(config) / (float(current.get("factor") or 1.0) if kind == "linear" else 1.0))


def _scaled(own: int, original: int, rope: Mapping[str, Any]) -> int:
    """The window that follows from new parameters, where the settings do not name one."""
    if rope["rope_type"] == "dynamic":
        return original
    wide = round(original * float(rope.get("factor") or 1.0))
    return max(wide, own) if rope["rope_type"] == "llama3" else wide


def _value(key: str, value: Any) -> Any:
    """A setting's value as the number that it is. YAML takes 1e6 for text. Raises ValueError for others."""
    if key == "rope_type":
        if not isinstance(value, str) or value not in ROPE_TYPES:
            near = suggestion(str(value), ROPE_TYPES)
            raise ValueError(f"unknown rope_type '{value}'; known: {', '.join(ROPE_TYPES)}. {near}".rstrip())
        return value
    if key == "truncate":
        if not isinstance(value, bool):
            raise ValueError(f"'truncate' is true or false, not {value!r}")
        return value
    if key in ("short_factor", "long_factor"):
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"'{key}' is a list of numbers, not {value!r}")
        return [_number(key, one, 0.0) for one in value]
    if key in (WINDOW, ORIGINAL):
        number = _number(key, value, 1.0, least=True)
        if number != int(number):
            raise ValueError(f"'{key}' is a whole number of tokens, not {value!r}")
        return int(number)
    return _number(key, value, 1.0, least=True) if key == "factor" else _number(key, value, 0.0)


def _number(key: str, value: Any, bound: float, *, least: bool = False) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (bound <= number < float("inf") if least else bound < number < float("inf")):
        raise ValueError(f"'{key}' is a number {'from 1 on' if least else 'above 0'}, not {value!r}")
    return number
