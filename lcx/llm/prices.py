"""What models cost: a table in the settings, or a YAML file of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcx.errors import MissingError, UsageError
from lcx.work.budget import Prices

_SHAPE = "MODEL: [2.5, 10], the cost of a million prompt and of a million completion tokens"


def load_prices(given: Mapping[str, tuple[float, float]] | str) -> Prices:
    """The table, or what the file holds. Raises UsageError for a file of another shape, MissingError for none."""
    if not isinstance(given, str):
        return _checked(given, "prices")
    import yaml

    path = Path(given).expanduser()
    if not path.is_file():
        raise MissingError(f"no file of prices at '{given}'", hint=f"a YAML file of lines {_SHAPE}")
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as bad:
        raise UsageError(f"{path} is not valid YAML", why=str(bad)) from None
    if not isinstance(held, Mapping):
        raise UsageError(f"{path} is no table of prices", hint=f"lines {_SHAPE}")
    return _checked(held, str(path))


def _checked(table: Mapping[Any, Any], where: str) -> dict[str, tuple[float, float]]:
    found = {}
    for model, pair in table.items():
        good = isinstance(pair, list | tuple) and len(pair) == 2
        if not good or not all(isinstance(one, int | float) and one >= 0 for one in pair):
            raise UsageError(f"{where}: '{model}' has no price of two numbers, but {pair!r}", hint=_SHAPE)
        found[str(model)] = (float(pair[0]), float(pair[1]))
    return found
