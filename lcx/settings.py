"""Typed, torch-free settings of a step: a pydantic model a stage, with errors that suggest the right key."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as setting
from pydantic.config import JsonDict

from lcx.errors import UsageError, suggestion
from lcx.formatting import cut_middle, shown

if TYPE_CHECKING:
    from lcx.plugins import Plugins

__all__ = ["FILE", "KEEPS", "VOLATILE", "Settings", "setting", "validate"]

VOLATILE: JsonDict = {"volatile": True}
"""Mark of a field that does not change results: `setting(..., json_schema_extra=VOLATILE)`."""
KEEPS: JsonDict = {"keeps": True}
"""Mark of a field that may change while the work in a step's folder stays good, because its journal says by itself what
each entry follows from: the step goes on from there in place of refusing."""
FILE: JsonDict = {"file": True}
"""Mark of a field that may name files whose contents change results."""


class Settings(BaseModel):
    """Base of every stage's settings. Unknown keys are refused; values are checked and coerced from strings.

    Give each field a default and a one-line description: `batch: int = setting(128, description="branches")`.
    Fields marked VOLATILE stay out of fingerprints; the contents of what fields marked FILE name are part of them.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=False, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    @classmethod
    def volatile(cls) -> frozenset[str]:
        """Names of the fields that do not enter a step's fingerprint."""
        return cls._marked("volatile")

    @classmethod
    def keeps(cls) -> frozenset[str]:
        """Names of the fields that may change while a step's journal stays good."""
        return cls._marked("keeps")

    @classmethod
    def files(cls) -> frozenset[str]:
        """Names of the fields that may hold paths whose contents enter a step's fingerprint."""
        return cls._marked("file")

    @classmethod
    def last(cls) -> frozenset[str]:
        """Names of the fields that are listed behind all others."""
        return frozenset()

    def paths(self) -> Iterator[tuple[str, str]]:
        """Further files whose contents results follow from, each under a name.

        Where fields are marked KEEPS, the journal tells them apart.
        """
        return iter(())

    @classmethod
    def users_own(cls) -> Mapping[str, str]:
        """Settings, dotted, that count only from a flag or --set, each with the reason in a sentence."""
        return {}

    @classmethod
    def names_elsewhere(cls) -> Mapping[str, str]:
        """Names that other tools have for these settings, each with the sentence that leads to ours."""
        return {}

    def check_names(self, plugins: Plugins) -> None:
        """Raise a typed error where a setting names what there is not, such as a loss or a backend, or an option of it.

        Asked before a step runs, by dry runs and by `lcx recipes validate`: it imports no torch and opens no model.
        Settings that name things of their own widen it, and call this one first.
        """

    def unused(self) -> Mapping[str, tuple[str, str]]:
        """Settings that another one's value switches off: why, and the `key=value` that uses them.

        One that the command line gives is an error then, since its user believes that it does something.
        """
        return {}

    @classmethod
    def _marked(cls, mark: str) -> frozenset[str]:
        extras = {name: info.json_schema_extra for name, info in cls.model_fields.items()}
        return frozenset(
            name for name, extra in extras.items() if isinstance(extra, dict) and extra.get(mark)
        )


EVERY_KEY = "`lcx recipes show NAME --origin` lists every key with its value."


def validate(
    schema: type[Settings], values: Mapping[str, Any], *, where: str, hint: str = EVERY_KEY
) -> Settings:
    """Check `values` against a schema. Raises UsageError naming every bad key, with a suggestion for unknown
    ones; `hint` says where all are listed.
    """
    _refuse_odd(values, where)
    try:
        checked = schema.model_validate(dict(values))
        _refuse_odd(
            {name: value for name, value in checked if name in values}, where
        )  # numbers made of texts
        return checked
    except ValidationError as bad:
        lines = []
        for error in bad.errors():
            key = ".".join(str(part) for part in error["loc"])
            if error["type"] == "extra_forbidden":
                *outer, last = error["loc"]
                known = schema.names_elsewhere() if not outer else {}
                near = known.get(str(last)) or suggestion(str(last), _fields(schema, outer))
                lines.append(f"unknown key '{key}'{'. ' if near else ''}{near}")
            elif error["type"] == "value_error":  # a validator's own words
                message = error["msg"].removeprefix("Value error, ")
                lines.append(f"'{key}': {message}" if key else message)
            elif error["type"] in ("tuple_type", "list_type") and isinstance(
                error.get("input"), str | int | float
            ):
                listed = cut_middle(str(error["input"]), 60).replace(",", ", ").replace(",  ", ", ")
                lines.append(f"'{key}' is a list: write [{listed}], not {listed}")
            elif "api_key" in key:  # may be a key
                lines.append(f"'{key}': {_lower(error['msg'])}")
            else:
                lines.append(
                    f"'{key}': {_lower(error['msg'])}, not {cut_middle(repr(error.get('input')), 200)}"
                )
        raise UsageError(
            f"{where}: {lines[0]}",
            why="; ".join(lines[1:]),
            hint=hint,
        ) from None


MOST_DEPTH = 64
"""Levels of lists and mappings that a setting's value may have."""
MOST_NUMBER = 2**63


def _refuse_odd(values: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for values that no setting can have, whatever its type: they could be neither kept nor used."""
    for key, value in values.items():
        if wrong := _odd(key, 0) or _odd(value, 0):
            raise UsageError(f"{where}: '{cut_middle(shown(str(key)), 64)}': {wrong}")


def _odd(value: Any, depth: int) -> str:
    """What is wrong with a value, or an empty text."""
    if depth > MOST_DEPTH:
        return f"lists and mappings in more than {MOST_DEPTH} levels"
    if isinstance(value, str):
        if "\0" in value:
            return "a text with the sign NUL in it"
        return "a text that is not UTF-8" if any("\ud800" <= sign <= "\udfff" for sign in value) else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is no number that a setting can have"
    if isinstance(value, int):
        return "" if abs(value) <= MOST_NUMBER else "a number of more than 64 bits"
    parts: list[Any] = []
    if isinstance(value, Mapping):
        parts = [*value, *value.values()]
    elif isinstance(value, Sequence):
        parts = list(value)
    return next((wrong for part in parts if (wrong := _odd(part, depth + 1))), "")


DEFAULT_SOURCE = "OPENAI_API_KEY"
"""The variable that holds a server's key where no setting names another."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_KEY = re.compile(
    r"(?i)(sk|pk|rk|hf|gsk|xai|nvapi|key|ghp|glpat|r8)[-_][A-Za-z0-9_-]{6,}|bearer\s.*|[A-Za-z0-9+/_=-]{40,}"
)
"""What keys look like."""


def wrong_key_source(name: str, value: Any) -> str:
    """What is wrong with the setting `api_key_env` or `api_key_file`: a clause that does not repeat it, since it may be
    the key itself; an empty text where nothing is.
    """
    text = str(value)
    if name == "api_key_file":
        looks = "/" not in text.strip("/") and _KEY.fullmatch(text) and not os.path.exists(text)
        return "is the path of a file that holds the key, and this looks like the key itself" if looks else ""
    if not _VARIABLE.fullmatch(text):
        return "is the name of a variable that holds the key, and this is no name of one"
    random = any(len(part) >= 16 and any(map(str.isdigit, part)) for part in text.split("_"))
    if text not in os.environ and (random or (_KEY.fullmatch(text) and not text.isupper())):
        return "is the name of a variable that holds the key, and this looks like the key itself"
    return ""


def _fields(schema: type[BaseModel], outer: list[int | str]) -> list[str]:
    """The fields of the model at a place inside a schema; empty where there is no model."""
    for part in outer:
        info = schema.model_fields.get(str(part))
        inner = (
            [a for a in (info.annotation, *get_args(info.annotation)) if isinstance(a, type)] if info else []
        )
        models = [a for a in inner if issubclass(a, BaseModel)]
        if not models:
            return []
        schema = models[0]
    return list(schema.model_fields)


def _lower(message: str) -> str:
    """A pydantic message as part of a sentence; values inside it keep their case."""
    return message[:1].lower() + message[1:]
