"""Moved to lcx.storage; this name goes away as soon as nobody uses it."""

from typing import Any

from lcx import storage


def __getattr__(name: str) -> Any:
    return getattr(storage, name)
