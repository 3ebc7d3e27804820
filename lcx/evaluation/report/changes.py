"""Whether training helped, in plain words: the verdict on a task, and on all of them together. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lcx.evaluation.report.sentences import Line
from lcx.formatting import signed

__all__ = ["LITTLE", "change_line", "overall_line"]

SMALL = 0.005
"""What two decimals cannot show."""
LITTLE = 0.03
"""A change of a score below this is called a little one, however sure it is."""


def change_line(
    change: Mapping[str, Any] | None, labels: Sequence[str], before_after: bool, *, nothing: bool = False
) -> Line | None:
    """The verdict on one task: by how much the last model differs from the first. None where nothing is known.

    `nothing` says that almost nothing is right in either's answers. A line of `size` little or nothing says so.
    """
    if change is None or change.get("mean") is None:
        return None
    mean, low, high = change["mean"], change.get("low"), change.get("high")
    tone = {"better": "good", "worse": "bad"}.get(str(change.get("verdict")), "none")
    words = {
        "good": "Training helped",
        "bad": "Training hurt",
        "none": "No evidence that training helped or hurt",
    }
    if not before_after:
        first, last = labels[0], labels[-1]
        words = {
            "good": f"{last} is better than {first}",
            "bad": f"{last} is worse than {first}",
            "none": f"No evidence that {last} differs from {first}",
        }
    if change.get("unit") == "% perplexity":
        moved = f"perplexity {change['a']:.4g} → {change['b']:.4g} ({mean:+.1f}%)".replace("-", "−")
        return {"tone": tone, "text": f"{words[tone]}: {moved}"}
    # A change that two decimals cannot show is none for a person, however sure its sign.
    if change.get("unit") == "points" and abs(mean) < SMALL and tone != "none":
        tone, words = "none", {"none": "Hardly any difference"}
    size = "nothing" if nothing and tone != "bad" else ""
    if size:
        tone, words = "none", {"none": f"Almost nothing is right, {_either(before_after)}"}
    elif tone != "none" and change.get("unit") == "points" and abs(mean) < LITTLE:
        size = "little"
        words = {key: f"{said} by a little" for key, said in words.items()}
        if before_after:
            words = {"good": "Training helped a little", "bad": "Training hurt a little"}
    between = "" if low is None or high is None else f"95% interval {_range(low, high)}"
    reading = f"; {change['reading']} (in points)" if change.get("reading") else ""
    moved = signed(mean)
    if change.get("a") is not None and change.get("b") is not None and change.get("unit") == "points":
        moved = f"{change['a']:.2f} → {change['b']:.2f}, {moved}"
    line = {"tone": tone, "text": f"{words[tone]}: {moved}{f' ({between})' if between else ''}{reading}"}
    line |= {"brief": f"{words[tone]}: {moved}"} if between and not reading else {}
    return {**line, "size": size} if size else line


def _either(before_after: bool) -> str:
    return "before or after" if before_after else "by either"


def _range(low: float, high: float) -> str:
    """`0.25 to 0.29`, with signs where they differ or are negative."""
    return f"{low:.2f} to {high:.2f}" if low > 0 and high > 0 else f"{signed(low)} to {signed(high)}"


Told = tuple[str, Mapping[str, Any], Line]
"""A task's name, its change and its verdict."""


def overall_line(told: Sequence[Told], before_after: bool, labels: Sequence[str]) -> Line | None:
    """The verdict on several tasks together: in how many it went up or down.

    Tasks in which almost nothing is right are not counted among them, but told of.
    """
    if not told:
        return None
    counted = [one for one in told if one[2].get("size") != "nothing"]
    empty = len(told) - len(counted)
    more = "other " if counted else ""
    tasks = f"{empty} {more}tasks" if empty > 1 else f"{'one' if counted else 'the'} {more}task"
    rest = f" In {tasks} almost nothing is right, {_either(before_after)}." if empty else ""
    if not counted:
        return {"tone": "none", "text": rest.strip()}
    if len(counted) == 1:
        name, _, line = counted[0]
        said, _, moved = line.get("brief", line["text"]).rpartition(": ")
        return {"tone": line["tone"], "text": f"{said} in {name}: {moved}.{rest}"}
    of = {tone: [one for one in counted if one[2]["tone"] == tone] for tone in ("good", "bad", "none")}
    tone = "bad" if len(of["bad"]) > len(of["good"]) else "mixed" if of["bad"] else "good"
    tone = tone if of["good"] or of["bad"] else "none"
    return {"tone": tone, "text": f"{_counts(of, len(counted), before_after, labels)}.{rest}"}


def _counts(of: Mapping[str, Sequence[Told]], total: int, before_after: bool, labels: Sequence[str]) -> str:
    """In how many tasks it went up, down or neither; what happened comes first."""
    good, bad, none = of["good"], of["bad"], of["none"]
    tasks = f"of {total} tasks"
    if not good and not bad:
        who = "training helped or hurt" if before_after else f"{labels[-1]} differs from {labels[0]}"
        return f"No evidence that {who} in any {tasks}"
    up, down = ("helped", "hurt") if before_after else ("better", "worse")
    who = "Training {}" if before_after else f"{labels[-1]} is {{}} than {labels[0]}"
    first, second, words, other = (good, bad, up, down) if good else (bad, good, down, up)
    little = " a little" if before_after and all(one[2].get("size") for one in first) else ""
    parts = [f"{who.format(words)}{little} in {len(first)} {tasks}{_most(first)}"]
    parts.append(f"{other} in {len(second) or 'none'}{_most(second)}")
    parts += [f"no clear change in {len(none)}"] if none else []
    return "; ".join(parts)


def _most(told: Sequence[Told]) -> str:
    """The task that moved furthest, of those whose scores go from 0 to 1."""
    known = [
        (abs(change["mean"]), name, change["mean"])
        for name, change, _ in told
        if change.get("unit") == "points"
    ]
    if not known:
        return ""
    _, name, mean = max(known)
    few = sum(one[2].get("size") == "little" for one in told)
    little = f", a little in {few}" if 0 < few < len(told) else ""
    return f", {'most in ' if len(told) > 1 else ''}{name} ({signed(mean)}){little}"
