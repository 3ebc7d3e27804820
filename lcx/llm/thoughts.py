"""Thoughts that some models send along with what they say."""

from __future__ import annotations

import re

_BEGIN = re.compile(r"\s*<think(?:ing)?>", re.I)
_END = re.compile(r"</think(?:ing)?>", re.I)


def visible(reply: str) -> str:
    """A reply without its thoughts, with or without their first mark. A thought that never ends leaves nothing."""
    *thoughts, said = _END.split(reply)
    return "" if not thoughts and _BEGIN.match(said) else said
