"""What a score step found, as numbers, as Markdown with histograms, and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from lcx.formatting import bar_lines, histogram, sparkline
from lcx_longreward.judge import kind
from lcx_longreward.pairs import DIMENSIONS, HIGHEST
from lcx_longreward.results import QuestionResult

# -- whether rewards follow length


def pearson(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Linear correlation; None for fewer than two points, or where one side does not vary."""
    return _correlation("pearsonr", xs, ys)


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Correlation of ranks; equal values share their mean rank. None as for `pearson`."""
    return _correlation("spearmanr", xs, ys)


def _correlation(name: str, xs: Sequence[float], ys: Sequence[float]) -> float | None:
    if len(xs) < 2 or len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    from scipy import stats

    return float(getattr(stats, name)(xs, ys).statistic)


def length_bias(
    rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]]
) -> dict[str, float | int | None]:
    """How rewards go with lengths, over all answers and within each question (a mean over questions).

    `rewards` and `lengths` are lists by question of the scored answers, `pairs` the lengths of chosen and rejected
    answers.
    """
    flat_rewards = [value for some in rewards for value in some]
    flat_lengths = [float(value) for some in lengths for value in some]
    within = [
        found
        for some, sizes in zip(rewards, lengths, strict=True)
        if (found := spearman(some, [float(size) for size in sizes])) is not None
    ]
    chosen, rejected = fmean([a for a, _ in pairs] or [0]), fmean([b for _, b in pairs] or [0])
    return {
        "spearman": _rounded(spearman(flat_rewards, flat_lengths)),
        "pearson": _rounded(pearson(flat_rewards, flat_lengths)),
        "spearman_within_questions": _rounded(fmean(within)) if within else None,
        "chosen_tokens": _rounded(chosen) if pairs else None,
        "rejected_tokens": _rounded(rejected) if pairs else None,
        "chosen_longer_by": _rounded(chosen / rejected - 1) if pairs and rejected else None,
        "pairs_with_longer_chosen": _rounded(fmean(a > b for a, b in pairs)) if pairs else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# -- the numbers, as text and as pictures

BINS = 20
REWARD = "reward"
WHERE = ("base_url", "device")
"""What is said of a judge in the manifest only: the results do not follow from it."""
NAMES = (REWARD, *DIMENSIONS)


@dataclass
class Tally:
    """Numbers gathered over all questions, in order; it holds no texts but reasons."""

    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    rewards: list[list[float]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    leads: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    statements: list[int] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    unpaired: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, asked: QuestionResult, cut: Sequence[bool], lengths: Sequence[int]) -> None:
        """Take in one question: which of its answers were cut at their limit, and how long they are in tokens."""
        answers = asked.row["answers"]
        self.counts["questions judged"] += 1
        self.counts["answers judged"] += len(answers)
        self.calls.update(asked.row["calls"])
        self.attempts.update(asked.row["attempts"])
        for answer in answers:
            for name in NAMES:
                if answer[name] is not None:
                    self.values[name].append(answer[name])
            self.failures.update(f"{part}: {kind(why)}" for part, why in answer["failed"].items())
            self.counts["answers scored"] += answer[REWARD] is not None
            self.counts["answers failed"] += bool(answer["failed"])
            self.counts["answers left out by early stopping"] += answer["skipped"]
            if answer["statements"] is not None:
                self.statements.append(len(answer["statements"]))
                self.counts["answers without statements"] += not answer["statements"]
        scored = [place for place, answer in enumerate(answers) if answer[REWARD] is not None]
        self.rewards.append([answers[place][REWARD] for place in scored])
        self.lengths.append([lengths[place] for place in scored])
        if isinstance(asked.outcome, str):
            self.unpaired[asked.outcome] += 1
            return
        self.counts["pairs"] += 1
        self.tokens.append(int(asked.row["tokens"]))
        chosen = asked.outcome.chosen
        self.counts["chosen answers that were cut at their limit"] += cut[chosen]
        for place in asked.outcome.rejected:
            self.counts["rejected answers"] += 1
            self.pairs.append((lengths[chosen], lengths[place]))
            self.rejected.append(answers[place][REWARD])
        self.chosen.append(answers[chosen][REWARD])
        self.leads.append(answers[chosen][REWARD] - answers[asked.outcome.rejected[0]][REWARD])

    def all_counts(self) -> dict[str, int]:
        """Every count by name, for the manifest."""
        found = +self.counts
        found.update({f"calls: {part}": number for part, number in self.calls.items()})
        found.update({f"unusable replies: {why}": number for why, number in self.attempts.items()})
        found.update({f"failed: {why}": number for why, number in self.failures.items()})
        found.update({f"questions without a pair: {why}": number for why, number in self.unpaired.items()})
        return dict(sorted(found.items()))

    def saved(self) -> dict[str, float | int]:
        """Calls that early stopping left out, with the mean number of statements for answers never taken apart."""
        left = self.counts["answers left out by early stopping"]
        each = 1 + (fmean(self.statements) if self.statements else 0.0)
        calls, made = left * each, self.calls.total()
        return {"calls_left_out": round(calls), "share": round(calls / (calls + made), 4) if left else 0.0}

    def metrics(self, early_stop: bool) -> dict[str, Any]:
        """Headline numbers. `contexts` and `questions` are those to train on."""
        paired = self.counts["pairs"]
        found: dict[str, Any] = {"contexts": paired, "questions": paired} if paired else {}
        if paired:
            found["lead"] = round(fmean(self.leads), 4)
            found["chosen_reward"] = round(fmean(self.chosen), 4)
            found["rejected_reward"] = round(fmean(self.rejected), 4)
            found["context_tokens"] = {
                "least": min(self.tokens),
                "mean": fmean(self.tokens),
                "most": max(self.tokens),
            }
        if known := {name: values for name, values in self.values.items() if values}:
            found["scores"] = {name: round(fmean(values), 4) for name, values in known.items()}
            found["scores_0_to_10"] = {name: sparkline(_histogram(values)) for name, values in known.items()}
        bias = length_bias(self.rewards, self.lengths, self.pairs)
        found["length_bias"] = {name: value for name, value in bias.items() if value is not None}
        if self.statements:
            found["statements"] = round(fmean(self.statements), 2)
        if early_stop:
            found["early_stop"] = self.saved()
        return found


def report(tally: Tally, metrics: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """The score step's report as Markdown."""
    counts = tally.counts
    lines = [
        "# Rewards",
        "",
        f"{counts['answers judged']:,} answers to {counts['questions judged']:,} questions: "
        f"{counts['answers scored']:,} have a reward, {counts['answers failed']:,} failed in a part. "
        f"{counts['pairs']:,} pairs.",
        "",
        *[f"- {name}: {_line(value)}" for name, value in described.items()],
        "",
        "| | answers | mean | 0 to 10 |",
        "|---|---|---|---|",
    ]
    for name in NAMES:
        values = tally.values[name]
        if values:
            lines.append(
                f"| {name} | {len(values):,} | {fmean(values):.2f} | {sparkline(_histogram(values))} |"
            )
    edges = [f"{HIGHEST * n / BINS:g}-{HIGHEST * (n + 1) / BINS:g}" for n in range(BINS)]
    lines += ["", "```text", *bar_lines(edges, _histogram(tally.values[REWARD])), "```", ""]
    lines += ["## Length", "", *_length(metrics["length_bias"]), ""]
    if "early_stop" in metrics:
        saved = metrics["early_stop"]
        lines += ["## Early stopping", ""]
        lines += [
            f"About {saved['calls_left_out']:,} calls were left out, {saved['share']:.1%} of all; the pairs are those "
            "of the full computation.",
            "",
        ]
    for title, found in (
        ("Questions without a pair", tally.unpaired),
        ("Parts that failed", tally.failures),
        ("Replies that could not be used", tally.attempts),
        ("Calls", tally.calls),
    ):
        if found:
            lines += [f"## {title}", "", *[f"- {name}: {n:,}" for name, n in sorted(found.items())], ""]
    return "\n".join(lines)


def rewards_png(path: str | Path, tally: Tally) -> Path:
    """Histograms of the reward, of each dimension, and of the rewards in pairs. Written atomically."""
    from lcx.evaluation.show.png import rows_png

    one, two, three, four = (partial(_panel, name, {"": tally.values[name]}) for name in DIMENSIONS)
    paired = partial(_panel, "pairs", {"rejected": tally.rejected, "chosen": tally.chosen})
    whole = partial(_panel, REWARD, {"": tally.values[REWARD]})
    return rows_png(path, [[whole, one, two], [paired, three, four]], shared=False)


def _panel(name: str, groups: Mapping[str, Sequence[float]], axes: Any) -> None:
    from lcx.evaluation.show.png import COLOURS, dress

    width = HIGHEST / BINS
    places = [width * (number + 0.5) for number in range(BINS)]
    several = len(groups) > 1
    for number, (label, values) in enumerate(groups.items()):
        colour = COLOURS[number] if several else COLOURS[1 if name == REWARD else 2]
        mean = f"{fmean(values):.2f}" if values else "none"
        label = f"{label}   mean {mean}" if several else ""
        alpha = 0.65 if several else 1.0
        axes.bar(places, _histogram(values), width=0.9 * width, color=colour, label=label, alpha=alpha)
    axes.set_xlim(0, HIGHEST)
    axes.set_xticks(range(0, 11, 2))
    axes.yaxis.get_major_locator().set_params(integer=True)
    [values] = list(groups.values()) if not several else [[]]
    mean = f"   mean {fmean(values):.2f}, {len(values):,} answers" if values else ""
    label = "rating" if name not in (REWARD, "pairs") else "reward"
    dress(axes, name + mean, label, "answers" if name in (REWARD, "pairs") else "")


def _histogram(values: Sequence[float]) -> list[int]:
    return histogram(values, BINS, 0, HIGHEST)


def _length(bias: Mapping[str, Any]) -> list[str]:
    def shown(name: str, form: str = "+.3f") -> str:
        value = bias.get(name)
        return "undefined" if value is None else format(value, form)

    lines = [
        f"- reward and length (Spearman): {shown('spearman')} over all answers, "
        f"{shown('spearman_within_questions')} within questions; Pearson {shown('pearson')}",
    ]
    if "chosen_tokens" in bias:
        lines.append(
            f"- chosen answers have {shown('chosen_tokens', '.1f')} tokens, rejected ones "
            f"{shown('rejected_tokens', '.1f')} ({shown('chosen_longer_by', '+.1%')}); the chosen one is longer in "
            f"{shown('pairs_with_longer_chosen', '.1%')} of the pairs"
        )
    return lines


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        shown = {name: one for name, one in value.items() if one not in ("", None) and name not in WHERE}
        return ", ".join(f"{name} {one}" for name, one in shown.items())
    return str(value)
