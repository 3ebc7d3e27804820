"""lcx: long-context alignment from one command. Plugin authors import `hookimpl` from here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import pluggy

    hookimpl = pluggy.HookimplMarker("lcx")

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    """Make `hookimpl` when it is first asked for: importing pluggy would double the time of a shell
    completion.
    """
    if name == "hookimpl":
        import pluggy

        globals()[name] = marker = pluggy.HookimplMarker("lcx")
        return marker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
