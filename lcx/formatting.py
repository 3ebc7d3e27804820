"""Numbers and texts as people read them: one formatter of each kind, for terminals, pages, pictures and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

__all__ = [
    "Shown",
    "Written",
    "bar_lines",
    "cut",
    "cut_middle",
    "histogram",
    "length_name",
    "level_bars",
    "number",
    "p_words",
    "percent",
    "printable",
    "several",
    "shown",
    "signed",
    "sparkline",
]

BARS = "▁▂▃▄▅▆▇█"
PLAIN = str.maketrans({"→": ">", "…": "~", "±": "+-", "−": "-", "–": "-", "×": "x"})


class Written(float):
    """A decimal number of a file that stays, as a text, what it looks like there: `1e5` and `0.10`."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[Written], tuple[str]]:
        return Written, (self.text,)


def number(value: Any) -> str:
    """A value of any kind in few characters: `0.1235`, `12,345`, `yes`, `none`; mappings and lists item by item."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no"}.get(value, "none")  # type: ignore[arg-type]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(number(inner) for inner in value)
    return str(value)


def signed(value: float, digits: int = 2, *, minus: str = "−", finer: bool = True) -> str:
    """A difference with its sign: `+0.27`, `−0.05`, and `0.00` for what rounds to nothing.

    With `finer` a difference that so many digits cannot show has one digit more.
    """
    if finer and abs(value) < 0.5 * 10**-digits:
        text = f"{value:+.{digits + 1}f}"
    else:
        text = f"{value:+.{digits}f}"
    return text.replace("-", minus) if text.strip("+-0.") else f"{0:.{digits}f}"


def several(count: int, what: str) -> str:
    """`1 context`, `2,000 contexts`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """`13%` of 0.125: halves go up, as in the page's charts."""
    return f"{int(100 * share + 0.5)}%"


def length_name(length: int) -> str:
    """A length in tokens: `8K` for 8192, and the number itself where it is no multiple of 1024."""
    return f"{length // 1024}K" if length and length % 1024 == 0 else str(length)


def p_words(p: float | None) -> str:
    """The probability of a test as `p < 0.001` or `p = 0.41`; an empty text where there is none."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def cut(text: str, most: int, ellipsis: str = "…") -> str:
    """At most `most` characters of a text; what is cut off at its end is an ellipsis."""
    return text if len(text) <= most else text[: max(1, most - 1)] + ellipsis


def cut_middle(text: str, most: int = 32) -> str:
    """At most `most` characters of a text (a path, say) whose middle is left out where it is longer."""
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"


def printable(text: str, encoding: str | None) -> str:
    """`text` as a terminal of this encoding can show it: plain signs for those it lacks, `?` for what has none."""
    name = encoding or "ascii"
    with suppress(UnicodeEncodeError):
        text.encode(name)
        return text
    return text.translate(PLAIN).encode(name, "replace").decode(name)


_HIDDEN = frozenset(
    "\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u2028\u2029"
)
"""Signs without a picture that turn the direction of what follows, or hide in a name."""
_CONTROLS = re.compile(f"[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff{''.join(sorted(_HIDDEN))}]")


def shown(text: str) -> str:
    """A text as a terminal may be sent it: what would steer the terminal stands there as an escape, `\\u001b[31m`.

    Lines and tabs stay. Everything that lcx prints on stdout, its errors and its lines of progress go through here.
    Inside JSON the escape means the sign itself.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Shown:
    """A text stream that sends on what it is written as `shown` has it; in all else the stream behind it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def level_bars(values: Sequence[Any]) -> str:
    """Values from 0 to 1 as a row of bars; a dot for what is no number."""
    return "".join(
        BARS[min(len(BARS) - 1, max(0, int(value * len(BARS))))] if isinstance(value, int | float) else "·"
        for value in values
    )


def sparkline(values: Sequence[int]) -> str:
    """Counts as a row of bars, from zero to the largest."""
    top = max(values, default=0) or 1
    return "".join(BARS[round((len(BARS) - 1) * value / top)] for value in values)


def histogram(values: Sequence[float], bins: int, low: float, high: float) -> list[int]:
    """How many values lie in each of equal parts of [low, high]; what lies outside counts in the outermost."""
    counts = [0] * bins
    for value in values:
        place = int((value - low) / (high - low) * bins)
        counts[min(bins - 1, max(0, place))] += 1
    return counts


def bar_lines(labels: Sequence[str], counts: Sequence[int], width: int = 40) -> list[str]:
    """A row for each label: its bar, as long as its count, and the count."""
    top = max(counts, default=0) or 1
    wide = max(map(len, labels), default=0)
    return [
        f"{label:>{wide}}  {'█' * round(width * count / top):<{width}}  {count:,}"
        for label, count in zip(labels, counts, strict=True)
    ]
