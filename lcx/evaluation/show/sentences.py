"""Results in plain words: where a model loses information, whether training helped, in one task and over all. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lcx.evaluation.result import Curve, Result
from lcx.formatting import length_name, p_words, percent, signed

__all__ = [
    "LITTLE",
    "NOTHING",
    "Line",
    "change_line",
    "loss_line",
    "lost_line",
    "overall_line",
    "shape_line",
    "weak_stretch",
]


Line = dict[str, str]
"""`tone` (good, bad, loss, flat, none) and `text`; `brief` is the text without its statistics, for a card. Of a loss
also `what` is lost, for a sentence on several tasks."""

GROWING = "information as contexts grow"
LEVEL = 0.05
"""A gap or a change with less than this probability under chance alone is called one."""
FALL = 0.05
"""By how much a score falls from the shortest contexts to the longest where they are said to be harder."""
NOTHING, HALF, ALL = 0.1, 0.5, 0.9
"""Means below which almost nothing is right, less than half is, and above which almost all is. Where less than half is
right, that no place is worse than another is no good news: guesses are right as often everywhere."""


def weak_stretch(spans: Sequence[float | None]) -> dict[str, Any] | None:
    """The stretch around a curve's lowest point that lies below the middle between its lowest and its highest.

    `start` and `end` are in percent, `score` is the stretch's mean, `place` its name, `against` the mean of what lies
    outside it and `other` that part's name. Long curves are smoothed a little first. None for fewer than three
    spans, and where some have no rows.
    """
    values = [value for value in spans if value is not None]
    if len(values) < 3 or len(values) < len(spans):
        return None
    reach = len(values) // 12
    smooth = [
        sum(part) / len(part)
        for part in (values[max(0, n - reach) : n + reach + 1] for n in range(len(values)))
    ]
    if max(smooth) - min(smooth) < 1e-9:
        return None
    line = (min(smooth) + max(smooth)) / 2
    first = last = smooth.index(min(smooth))
    while first > 0 and smooth[first - 1] < line:
        first -= 1
    while last < len(smooth) - 1 and smooth[last + 1] < line:
        last += 1
    inside, outside = values[first : last + 1], values[:first] + values[last + 1 :]
    if not outside:
        return None
    start, end = 100 * first / len(values), 100 * (last + 1) / len(values)
    edge = "at the start" if first == 0 else "at the end" if last == len(values) - 1 else ""
    middle = (start + end) / 2
    inner = "before the middle" if middle < 35 else "after the middle" if middle > 65 else "in the middle"
    return {
        "start": start,
        "end": end,
        "score": sum(inside) / len(inside),
        "place": edge or inner,
        "against": sum(outside) / len(outside),
        "other": "elsewhere" if edge else "at the edges",
    }


def loss_line(result: Result, who: str) -> Line:
    """Where one model loses information in one task, in a sentence."""
    tell = {"curve": _curve, "grid": _grid, "lengths": _lengths, "perplexity": _perplexity}
    line = tell.get(result.view, _plain)(result)
    if result.cautions:
        line |= {key: f"{line[key]} {_sentence(result.cautions)}" for key in ("text", "brief") if key in line}
    if result.beside and line["tone"] == "good":
        line |= {"tone": "flat"}
    if result.cut:
        line |= {"tone": "flat" if line["tone"] == "good" else line["tone"], "cut": result.cut}
    if result.average is not None and NOTHING <= result.average < HALF:
        line |= {"poor": "yes"}
    return {**line, **{key: f"{who}: {line[key]}" for key in ("text", "brief") if key in line}}


def _sentence(cautions: Sequence[str]) -> str:
    said = "; ".join(cautions)
    return f"{said[0].upper()}{said[1:]}."


def _with(brief: str, why: str) -> Line:
    """A sentence with its statistics in brackets, and without them."""
    return {"brief": f"{brief}.", "text": f"{brief} ({why})."} if why else {"text": f"{brief}."}


def _curve(result: Result) -> Line:
    average, spans = result.average, result.curve.values
    if average is None or not spans:
        return _plain(result)
    if average < NOTHING:
        return {
            "tone": "flat",
            "text": f"almost nothing is found, wherever it stands (average {average:.2f}).",
            "nothing": "yes",
        }
    weak = weak_stretch(spans)
    chance = _chance(result)
    if _is_noise(result):
        return _even(result, average, "place")
    if weak is None:
        known = [value for value in spans if value is not None]
        words = f"{min(known):.2f} at the weakest place against {max(known):.2f} at the best"
        return {"tone": "loss", **_with(words, chance), "what": "information at some places"}
    little = weak["against"] - weak["score"] < 0.05
    end = "only a little is lost there" if little else f"the model loses what stands {weak['place']}"
    stretch = f"{int(weak['start'] + 0.5)}–{percent(weak['end'] / 100)} of the way"
    return {
        **({} if little else {"what": f"what stands {weak['place']}"}),
        "tone": "flat" if little else "loss",
        **_with(
            f"{weak['score']:.2f} {weak['place']} ({stretch}) against "
            f"{weak['against']:.2f} {weak['other']}: {end}",
            chance,
        ),
    }


def _is_noise(result: Result) -> bool:
    """Whether chance explains the gap: by its test, or without one where it is under five hundredths."""
    if result.p is not None:
        return result.p >= LEVEL
    return result.gap is not None and result.gap < 0.05


def _even(result: Result, average: float, part: str) -> Line:
    """That no place or cell stands out: by the gap's test, or to the eye where there is none."""
    tone = "good" if average >= ALL else "flat"
    if (result.gap or 0.0) < 0.005:
        return {"tone": tone, "text": f"every {part} is as good as any other (average {average:.2f})."}
    tested = result.p is not None
    words = f"no {part} is clearly worse than another" if tested else f"every {part} is about as good"
    return {
        "tone": tone,
        "brief": f"{words} (average {average:.2f}).",
        "text": f"{words} (average {average:.2f}, {_chance(result)}).",
    }


def _chance(result: Result) -> str:
    """The gap with what noise alone gives and its p, as far as they are known; p stays on one line."""
    words = result.gap_words("gap between best and worst")
    return words.replace("p < ", "p\u00a0<\u00a0").replace("p = ", "p\u00a0=\u00a0")


def _grid(result: Result) -> Line:
    average = result.average
    if average is None:
        return _plain(result)
    if average < NOTHING:
        return {
            "tone": "flat",
            "text": f"almost nothing is found at any length or depth (average {average:.2f}).",
            "nothing": "yes",
        }
    unit = result.grid.unit
    by_length = next((p for p in result.panels if isinstance(p, Curve) and p.by == "length"), None)
    lengths, values = ((), ()) if by_length is None else (by_length.places, by_length.values)
    if _is_noise(result):
        return _unclear(result, lengths, values, unit) or _even(result, average, "cell")
    trend = _trend(lengths, values, unit)
    what = GROWING if "loses" in trend else "information at some lengths and depths"
    worst = result.grid.worst
    if not worst:
        return {"tone": "loss", "text": trend, "what": what}
    cell = f"{length_name(int(worst['length']))} {unit}, {percent(worst['depth'])} deep"
    said = _with(f"{trend} The worst cell has {worst['score']:.2f}: {cell}".strip(), _chance(result))
    return {"tone": "loss", **said, "what": what}


def _unclear(
    result: Result, lengths: Sequence[float], values: Sequence[float | None], unit: str
) -> Line | None:
    """That longer contexts look worse, but chance may explain it. None where they do not, or nothing was tested."""
    known = _ends(lengths, values)
    if known is None or known[0][1] - known[1][1] < FALL or result.p is None:
        return None
    return {"tone": "flat", **_with(f"{_ends_words(*known, unit)}: chance may explain this", _chance(result))}


def _lengths(result: Result) -> Line:
    curve = result.curve
    trend = _trend(curve.places, curve.values, curve.unit)
    if not trend:
        return _plain(result)
    unclear = _unclear(result, curve.places, curve.values, curve.unit) if _is_noise(result) else None
    if unclear is not None:
        return unclear
    return (
        {"tone": "loss", "text": trend, "what": GROWING}
        if "loses" in trend
        else {"tone": "flat", "text": trend}
    )


def _trend(lengths: Sequence[float], values: Sequence[float | None], unit: str) -> str:
    """How the score goes from the shortest contexts to the longest."""
    known = _ends(lengths, values)
    if known is None:
        return ""
    ends, lost = _ends_words(*known, unit), known[0][1] - known[1][1]
    if lost >= FALL:
        return f"{ends}: the model loses {GROWING}."
    if lost <= -FALL:
        return f"{ends}: longer contexts are no harder."
    return f"{ends}: length makes little difference."


Point = tuple[float, float]


def _ends(lengths: Sequence[float], values: Sequence[float | None]) -> tuple[Point, Point] | None:
    """The shortest and the longest length with their scores; None for fewer than two."""
    known = [(length, value) for length, value in zip(lengths, values, strict=False) if value is not None]
    return (known[0], known[-1]) if len(known) > 1 else None


def _ends_words(short: Point, long: Point, unit: str) -> str:
    first = f"{short[1]:.2f} in contexts of {length_name(int(short[0]))} {unit}"
    return f"{first}, {long[1]:.2f} in those of {length_name(int(long[0]))}"


def _perplexity(result: Result) -> Line:
    if result.estimate.mean is None:
        return {"tone": "none", "text": "nothing was read."}
    text = f"perplexity {result.estimate.mean:.4g} (lower is better)"
    known = [value for value in result.curve.values if value is not None]
    if len(known) >= 4:
        quarter = len(known) // 4
        early, late = sum(known[:quarter]) / quarter, sum(known[-quarter:]) / quarter
        if late - early > 0.02:
            return {
                "tone": "loss",
                "text": f"{text}; the far end of the text is predicted worse than its beginning.",
            }
        if early - late > 0.02:
            return {"tone": "good", "text": f"{text}; the further it has read, the better it predicts."}
        return {"tone": "flat", "text": f"{text}; about the same at every position."}
    return {"tone": "flat", "text": f"{text}."}


def _plain(result: Result) -> Line:
    one = result.estimate
    if one.mean is None:
        return {"tone": "none", "text": "no answers were scored."}
    between = "" if one.ends is None else f" ({one.low:.2f} to {one.high:.2f})"
    return {"tone": "flat", "text": f"{one.mean:.2f}{between} on average of {result.n:,} answers."}


def shape_line(result: Result, who: str) -> str:
    """By how much a curve's edges stand above its middle, with its interval and p; nothing where it was not tested."""
    shape = result.u_shape
    if shape.get("coefficient") is None or shape.get("p") is None:
        return ""
    above = "above" if shape["coefficient"] >= 0 else "below"
    between = ""
    if shape.get("low") is not None and shape.get("high") is not None:
        between = f"{signed(shape['low'])} to {signed(shape['high'])}, "
    size = abs(shape["coefficient"])
    return f"{who}: the edges stand {size:.2f} {above} the middle ({between}{p_words(shape['p'])})."


def lost_line(losses: Sequence[tuple[str, Line]], who: str, *, before: Collection[str] | None = None) -> Line:
    """What one model loses over all tasks, given as (name, sentence): what is lost, and in which tasks.

    `before` is what it lost before it was trained; None where that is not known.
    """
    of: dict[str, list[str]] = {}
    for name, line in losses:
        if line.get("what"):
            of.setdefault(line["what"], []).append(name)
    empty = [name for name, line in losses if line.get("nothing")]
    fine = [name for name, line in losses if not line.get("nothing") and not line.get("what")]
    told = {what: f"{what} ({', '.join(names)})" for what, names in of.items()}
    known = set() if before is None else set(before)
    old = [words for what, words in told.items() if what in known]
    new = [words for what, words in told.items() if what not in known]
    parts = [f"still loses {' and '.join(old)}"] if old else []
    parts += [f"{'loses' if before is None else 'now loses'} {' and '.join(new)}"] if new else []
    said = [f"the model {', and '.join(parts)}"] if parts else []
    if fine and not parts:
        said.append(f"no clear loss by place or length{' is left' if known else ''} ({', '.join(fine)})")
    if empty:
        said.append(f"almost nothing is found, wherever it stands ({', '.join(empty)})")
    cut = [name for name, line in losses if line.get("cut")]
    if cut:
        said.append(f"answers are cut, which says little of what is found ({', '.join(cut)})")
    well = any(not (line.get("nothing") or line.get("poor") or line.get("cut")) for _, line in losses)
    tone = "loss" if parts else "good" if fine and well and not cut else "flat"
    return {"tone": tone, "text": f"{who}: {'; '.join(said)}."}


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
    little = change.get("unit") == "points" and abs(mean) < LITTLE
    size = "nothing" if nothing and (tone != "bad" or little) else ""
    if size:
        tone, words = "none", {"none": f"Almost nothing is right, {_either(before_after)}"}
    elif tone != "none" and little:
        size = "little"
        words = {key: f"{said} by a little" for key, said in words.items()}
        if before_after:
            words = {"good": "Training helped a little", "bad": "Training hurt a little"}
    between = f"no interval: {change['lacking']}" if change.get("lacking") else ""
    between = between if low is None or high is None else f"95% interval {_range(low, high)}"
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
