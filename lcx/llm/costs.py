"""What calls will cost, for --dry-run, and what they did cost, for the manifest. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from lcx.llm.calling import Calling
from lcx.llm.prices import load_prices
from lcx.work.budget import cost_of


def costs(
    settings: Calling, parts: Mapping[str, tuple[str, float, float]]
) -> dict[str, dict[str, float | str]]:
    """{"cost": {part: cost}} where prices are given, else nothing. A part is its spec, prompt and reply tokens.

    Only `openai:` models cost anything; one without a price says so. Raises as `load_prices`.
    """
    prices = load_prices(settings.prices)
    found: dict[str, float | str] = {}
    for part, (spec, prompt, reply) in parts.items():
        backend, _, model = spec.partition(":")
        if backend != "openai" or not (prompt or reply):
            continue
        priced = model in prices
        found[part] = round(cost_of(model, round(prompt), round(reply), prices), 4) if priced else "no price"
    return {"cost": found} if prices and found else {}


def paid(counts: Mapping[str, int | float]) -> tuple[dict[str, int], dict[str, float]]:
    """Of a service's counts, those beside calls and tokens: for a step's counts, and its metrics."""
    others = ("retries", "calls from the journal", "calls without a reply")
    return (
        {name: int(counts[name]) for name in others if counts.get(name)},
        {"cost": float(counts["cost"])} if counts.get("cost") else {},
    )
