"""Text that others wrote inside a prompt: unable to close or open the marks around it, or to begin a turn of a chat."""

from __future__ import annotations

import re
from collections.abc import Callable

_TURNS = re.compile(
    r"<(?=[|｜]|<\s*/?\s*SYS\b|/?(?:s|bos|eos|start_of_turn|end_of_turn)>|\s*/?\s*think(?:ing)?\b)"
    r"|\[(?=/?INST\])",
    re.I,
)
"""The first character of marks by which chat templates set turns and thoughts apart."""
_SAFE = {"<": "&lt;", "[": "&#91;"}


def fence(*names: str) -> Callable[[str], str]:
    """A function that escapes the first character of chat templates' marks, and of tags of the given names."""
    tags = re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(names)})\b)", re.I)

    def fenced(text: str) -> str:
        return _TURNS.sub(lambda mark: _SAFE[mark[0]], tags.sub(_SAFE["<"], text))

    return fenced
