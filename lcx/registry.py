"""Names that plugins claim, and who claimed them. A name claimed twice is an error for whoever needs it."""

from __future__ import annotations

import importlib
from typing import Any

from lcx.errors import PluginError, UsageError, suggestion


class Registry:
    """Values by name, with their owner. `kind` is the word that errors use ("method", "text generator")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._claims: dict[str, list[tuple[str, Any]]] = {}

    def add(self, name: str, value: Any, owner: str) -> None:
        self._claims.setdefault(name, []).append((owner, value))

    def drop_owner(self, owner: str) -> None:
        """Forget what a plugin claimed, after it failed to load."""
        for name in list(self._claims):
            kept = [claim for claim in self._claims[name] if claim[0] != owner]
            if kept:
                self._claims[name] = kept
            else:
                del self._claims[name]

    def names(self) -> list[str]:
        return sorted(self._claims)

    def owner(self, name: str) -> str:
        return self._claims[name][0][0]

    def owned_by(self, owner: str) -> list[str]:
        return sorted(name for name, claims in self._claims.items() if any(o == owner for o, _ in claims))

    def clashes(self) -> dict[str, list[str]]:
        """Names claimed more than once, with their owners."""
        return {name: [o for o, _ in claims] for name, claims in self._claims.items() if len(claims) > 1}

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def get(self, name: str) -> Any:
        """The value of a name. Raises UsageError where unknown, PluginError where two plugins claim it."""
        if name not in self._claims:
            known = ", ".join(self.names()) or "none"
            raise UsageError(
                f"unknown {self.kind} '{name}'. {suggestion(name, self._claims)}".rstrip(),
                why=f"known: {known}",
                hint="`lcx plugins list` shows what is installed.",
            )
        claims = self._claims[name]
        if len(claims) > 1:
            owners = " and ".join(f"'{o}'" for o, _ in claims)
            raise PluginError(
                f"two plugins claim the {self.kind} '{name}': {owners}",
                hint="Uninstall one, or leave one out: LCX_PLUGINS=a,b lists the plugins to load.",
            )
        return claims[0][1]

    def load(self, name: str) -> Any:
        """As `get`, importing a lazy `module:attribute`."""
        value = self.get(name)
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            return getattr(importlib.import_module(module), attribute)
        return value
