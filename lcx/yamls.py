"""YAML as people write it in recipes, sized probes, prices and accelerate configs: plain values, read in one way.

Scalars are what they look like. `true`, `false`, `null` and decimal numbers are those; everything else is text: `no`,
`010`, `1:30`, `2001-01-01`, `1_000`. Where a number is meant, the settings make one of the text (`010` is 10); where a
text is meant, a number is what stands there (`1e5`).
Duplicate keys, tags, aliases of what holds them, numbers that are none, and files larger or deeper than any setting are
refused with their line. Reading takes time in proportion to the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lcx.errors import UsageError
from lcx.formatting import Written
from lcx.paths import check_regular

MOST_BYTES = 1 << 20
MOST_VALUES = 20_000
"""Values of a file, those that its aliases repeat counted each time."""
MOST_DEPTH = 40
MOST_DIGITS = 19
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_CORE = "tag:yaml.org,2002:"
_MERGE = "<<"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotYaml(UsageError):
    """The text is no YAML of plain values."""


class Read(NamedTuple):
    """What a text holds, and the line of each key of its outermost mapping."""

    value: Any
    lines: dict[Any, int]


def read_yaml(text: str, where: str) -> Read:
    """The values of a text; `where` names it in errors. Raises NotYaml, and UsageError for what no setting can be."""
    if len(text) > MOST_BYTES:
        raise UsageError(f"{where} is larger than {MOST_BYTES >> 20} MiB, which no file of settings is")
    try:
        text.encode()
    except UnicodeEncodeError as bad:
        raise UsageError(f"{where} is not UTF-8", why=str(bad)) from None
    reader = _Reader(where)
    try:
        return Read(reader.document(yaml.parse(text, Loader=_Loader)), reader.lines)
    except yaml.YAMLError as bad:
        mark = getattr(bad, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        why = " ".join(str(getattr(bad, "problem", None) or bad).split())
        raise NotYaml(f"{where}{place}: not valid YAML", why=why) from None


def read_yaml_file(path: Path) -> Read:
    """The values of a file. Raises OSError where it cannot be read, and UsageError for what it holds."""
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    try:
        return read_yaml(data.decode().removeprefix("\ufeff"), str(path))
    except UnicodeDecodeError as bad:
        raise NotYaml(
            f"{path}: not valid YAML", why=f"not UTF-8: {bad.reason}", hint="Save it as UTF-8."
        ) from None


class _Dumper(yaml.SafeDumper):
    """Writes texts that would be read as another value in quotes: PyYAML takes `1e9` for a text, we for a number."""


def _text(dumper: _Dumper, text: str) -> Any:
    looks = (
        text in _WORDS
        or text == _MERGE
        or not text.isprintable()  # among them ends of lines that YAML folds
        or any(one.fullmatch(text) for one in (_INTEGER, _FLOAT, _ENDLESS))
    )
    return dumper.represent_scalar(f"{_CORE}str", text, style='"' if looks else None)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Written, lambda dumper, value: dumper.represent_float(float(value)))


def yaml_text(value: Any, *, line: bool = False) -> str:
    """Plain values as YAML that `read_yaml` reads as the same values; with `line` all on one line, without an end."""
    if not line:
        return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6
    )
    return text.removesuffix("\n").removesuffix("...").rstrip("\n")


class _Reader:
    """Builds values from the parser's events, so that nothing is made of what is refused."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[Any, int] = {}
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        """Of each name its value, how many values that holds, and how deep it is."""
        self._open: set[str] = set()
        self._values = 0

    def document(self, events: Iterator[Any]) -> Any:
        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "a second document begins here", "Take away the line `---`.")
            elif isinstance(event, yaml.NodeEvent):
                value, _ = self._node(event, events, 0)
        return value

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> tuple[Any, int]:
        """The value of a node, and how deep it is."""
        self._count(event, 1)
        if depth > MOST_DEPTH:
            self._refuse(event, f"values nested deeper than {MOST_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        name, before = event.anchor, self._values
        if name is not None:
            self._open.add(name)
        value: Any
        deep = 0
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._tag(event, "seq")
            value = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                one, below = self._node(item, events, depth + 1)
                value.append(one)
                deep = max(deep, below + 1)
        else:
            self._tag(event, "map")
            value, deep = self._mapping(events, depth)
        if name is not None:
            self._open.discard(name)
            self._anchors[name] = (value, self._values - before, deep)
        return value, deep

    def _mapping(self, events: Iterator[Any], depth: int) -> tuple[dict[Any, Any], int]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        deep = 0
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
                self._refuse(event, "a key is one word, not a list or mapping")
            key, _ = self._node(event, events, depth + 1)
            if isinstance(key, dict | list):
                self._refuse(event, "a key is one word, not a list or mapping")
            if key in lines:
                self._refuse(event, f"'{key}' is given again", f"First in line {lines[key]}.")
            lines[key] = line
            following = next(events)
            value, below = self._node(following, events, depth + 1)
            deep = max(deep, below + 1)
            if key == _MERGE and not getattr(event, "style", None):
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        self._refuse(following, "`<<` takes a mapping")
                    merged = {**part, **merged}
            else:
                own[key] = value
        if not depth:
            self.lines = lines
        return {**merged, **own}, deep

    def _alias(self, event: Any, depth: int) -> tuple[Any, int]:
        name = event.anchor
        if name in self._open:
            self._refuse(event, f"*{name} holds itself")
        if name not in self._anchors:
            raise yaml.YAMLError(f"nothing has the name &{name}")
        value, size, deep = self._anchors[name]
        self._count(event, size)
        if depth + deep > MOST_DEPTH:
            self._refuse(event, f"values nested deeper than {MOST_DEPTH}")
        return value, deep

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        tag = event.tag.removeprefix(_CORE) if event.tag else ""
        if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
            self._refuse(event, "a text holds a sign that none may: NUL, or half of a surrogate pair")
        if tag in ("str", "!") or (not tag and event.style):
            return text
        self._tag(event, "null", "bool", "int", "float")
        if text in _WORDS:
            return _WORDS[text]
        quoted = "Write it in quotes where it is a text."
        if _INTEGER.fullmatch(text):
            if len(text.lstrip("-")) > MOST_DIGITS:
                self._refuse(event, f"a number of {len(text.lstrip('-')):,} digits", quoted)
            return int(text)
        if _ENDLESS.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
            shown = text if len(text) < 20 else f"{text[:16]}..."
            self._refuse(event, f"{shown} is no number that a setting can have", quoted)
        return Written(text) if _FLOAT.fullmatch(text) else text

    def _tag(self, event: Any, *known: str) -> None:
        tag = event.tag or ""
        if tag not in ("", "!") and tag.removeprefix(_CORE) not in known:
            shown = tag.replace(_CORE, "!!")[:80]
            raise yaml.MarkedYAMLError(
                problem=f"the tag {shown} is none of a plain value", problem_mark=event.start_mark
            )

    def _count(self, event: Any, number: int) -> None:
        self._values += number
        if self._values > MOST_VALUES:
            self._refuse(event, f"more than {MOST_VALUES:,} values, which no file of settings holds")

    def _refuse(self, event: Any, what: str, why: str = "") -> None:
        raise UsageError(f"{self.where}, line {event.start_mark.line + 1}: {what}", why=why)
