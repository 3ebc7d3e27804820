"""What may be given as a server's URL. Torch-free, and without the SDK: settings are checked by it."""

from __future__ import annotations

from urllib.parse import urlsplit

from lcx.llm.redact import redact

_LIKE = "--base-url http://localhost:8000/v1"


def wrong_url(url: str) -> tuple[str, str]:
    """What is wrong with a base_url, and what to do about it; empty where nothing is."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for what is no number, or too large a one
    except ValueError as bad:
        return f"base_url '{_shown(url)}' is no URL: {_shown(str(bad))}", _LIKE
    if parts.username is not None or parts.password is not None:
        return (
            "base_url holds a name or password, which would be written into the step's settings",
            f"--set api_key_file=FILE or api_key_env=NAME for the key; {_LIKE}",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"base_url '{_shown(url)}' is no URL", _LIKE
    if "?" in text or "#" in text:
        return (
            f"base_url '{_shown(url)}' has a query or fragment",
            f"Leave out what follows the path: {_LIKE}",
        )
    return "", ""


def _shown(text: str) -> str:
    """The text without what may be secret: what stands before an @, and what follows a question mark."""
    head, at, tail = text.rpartition("@")
    text = head.partition("://")[0] + "://[key]@" + tail if at and "://" in head else tail
    return redact(text.partition("?")[0])
