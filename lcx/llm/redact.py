"""Keeping keys out of whatever is written: servers repeat them in their errors, cut or whole."""

from __future__ import annotations

import re

GONE = "[key]"
_SHAPES = re.compile(
    r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=*-]{4,}"
    r"|\b(?:sk|pk|rk|hf|gsk|xai|nvapi|key)[-_][A-Za-z0-9_*-]{6,}"
    r"|(?<=api[_-]key)[\"']?\s*[:=]\s*[\"']?[^\s\"'&]{4,}"
)
_LEAST = 8
"""Characters of a key whose beginning or end is replaced too."""


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The text without the given secrets, and without anything that has a key's shape."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, GONE)
            if len(secret) >= 2 * _LEAST:  # some servers show the first and last characters
                text = text.replace(secret[:_LEAST], GONE).replace(secret[-_LEAST:], GONE)
    return _SHAPES.sub(GONE, text)
