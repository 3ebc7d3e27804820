"""Results in words: what is said of made-up scores."""

from __future__ import annotations

from typing import Any

import pytest

from lcx.evaluation.export import lm_eval_results, markdown_block
from lcx.evaluation.result import result_of
from lcx.evaluation.show.sentences import (
    change_line,
    lost_line,
    overall_line,
    weak_stretch,
)
from lcx.evaluation.show.terminal import task_text
from lcx.formatting import percent, printable, signed
from tests.evaluation.from_scores import loss_line, shape_line

U_SHAPE = [0.98, 0.96, 0.5, 0.46, 0.48, 0.95, 0.97, 0.99]


def curve(spans: list[float | None], p: float | None = None) -> dict[str, Any]:
    known = [value for value in spans if value is not None]
    test = {} if p is None else {"gap_test": {"p": p, "null_mean": 0.08}}
    return {
        "view": "curve",
        "spans": spans,
        "average": sum(known) / len(known),
        "gap": max(known) - min(known),
        **test,
    }


def test_the_middle_is_named_with_its_numbers() -> None:
    line = loss_line(curve(U_SHAPE, p=0.0002), "Before")
    assert line["tone"] == "loss"
    assert line["text"] == (
        "Before: 0.48 in the middle (25–63% of the way) against 0.97 at the edges: the model loses what stands in "
        "the middle (gap between best and worst 0.53, noise alone gives 0.08, p\u00a0<\u00a00.001)."
    )


@pytest.mark.parametrize(
    ("spans", "place", "start", "end"),
    [
        (U_SHAPE, "in the middle", 25, 62.5),
        ([0.2, 0.3, 0.9, 0.9, 0.9], "at the start", 0, 40),
        ([0.9, 0.9, 0.9, 0.3, 0.2], "at the end", 60, 100),
        ([0.9, 0.2, 0.9, 0.9, 0.9, 0.9], "before the middle", 100 / 6, 200 / 6),
        ([0.9, 0.9, 0.9, 0.9, 0.2, 0.9], "after the middle", 400 / 6, 500 / 6),
    ],
)
def test_the_weak_stretch_is_found(spans: list[float | None], place: str, start: float, end: float) -> None:
    found = weak_stretch(spans)
    assert found is not None
    assert (found["place"], found["start"], found["end"]) == (place, pytest.approx(start), pytest.approx(end))


def test_what_has_no_stretch() -> None:
    assert weak_stretch([0.5, 0.5, 0.5]) is None
    assert weak_stretch([0.5, 0.1]) is None
    assert weak_stretch([0.5, None, 0.1, 0.2]) is None


def test_noise_is_called_noise_only_where_it_was_tested() -> None:
    even = [0.96, 0.94, 0.97, 0.95, 0.96]
    tested = loss_line(curve(even, p=0.41), "After")
    assert tested["tone"] == "good"
    assert "no place is clearly worse than another" in tested["text"]
    assert "p\u00a0=\u00a00.41" in tested["text"]
    same = loss_line(curve([1.0, 1.0, 1.0], p=1.0), "After")
    assert same["text"] == "After: every place is as good as any other (average 1.00)."
    untested = loss_line(curve(even), "After")
    assert "noise" not in untested["text"]
    assert "every place is about as good" in untested["text"]
    assert loss_line(curve([0.9, 0.2, 0.9, 0.9, 0.3, 0.9], p=0.2), "X")["tone"] == "flat", (
        "a large gap by chance"
    )


def test_a_model_that_finds_nothing_loses_no_place() -> None:
    line = loss_line(curve([0.0, 0.04, 0.0], p=0.001), "Before")
    assert line == {
        "tone": "flat",
        "text": "Before: almost nothing is found, wherever it stands (average 0.01).",
        "nothing": "yes",
    }


def test_answers_that_are_cut_and_intervals_that_lack_stand_beside_the_score() -> None:
    scores = curve([0.95, 0.96, 0.94], p=0.8) | {
        **{"n": 60, "unfinished": 60, "prompt": {"max_new_tokens": 8}},
        "estimate": {
            "mean": 0.95,
            "low": None,
            "high": None,
            "n": 60,
            "contexts": 3,
            "lacking": "3 contexts",
        },
    }
    cut = "60 of 60 answers are cut at max_new_tokens=8"
    result = result_of("val", scores)
    assert result.cautions == [cut, "no interval: 3 contexts"]
    line = loss_line(scores, "After")
    assert line["tone"] == "flat", "no tick"
    assert line["brief"].endswith(f"{cut}; no interval: 3 contexts.")
    assert lost_line([("val", line)], "After")["tone"] == "flat"
    assert "answers are cut" in lost_line([("val", line)], "After")["text"]
    text = task_text("val", {"after": result}, width=80, colour=False, unicode=True)
    assert f"  {cut}" in text.splitlines()
    assert "  no interval: 3 contexts" in text.splitlines()
    block = markdown_block({"model": "m", "tasks": {"val": scores}})
    assert cut in block
    assert "| no interval: 3 contexts |" in block
    made = lm_eval_results({"model": "m", "tasks": {"val": scores}}, 0.0)["results"]["val"]
    assert (made["cut,none"], made["score_stderr,none"]) == (1.0, "N/A")
    few = scores | {"unfinished": 3}
    assert result_of("val", few).cut == "", "a twentieth may be cut"


def test_no_place_worse_than_another_is_good_news_only_where_most_is_right() -> None:
    """A model that guesses is right as often everywhere."""
    for spans, tone in (([0.25, 0.27, 0.25], "flat"), ([0.75, 0.77, 0.75], "good")):
        assert lost_line([("val", loss_line(curve(spans, p=0.9), "After"))], "After")["tone"] == tone


def test_a_grid_names_lengths_and_its_worst_cell() -> None:
    grid = {
        "view": "grid",
        "unit": "tokens",
        "lengths": [4096, 32768],
        "depths": [0.5, 1.0],
        "cells": [[1.0, 1.0], [0.1, 1.0]],
        "by_length": [1.0, 0.6],
        "average": 0.8,
        "gap": 0.9,
        "worst": {"score": 0.1, "length": 32768, "depth": 0.5},
        "gap_test": {"p": 0.004, "null_mean": 0.3},
    }
    line = loss_line(grid, "Before")
    assert (
        "1.00 in contexts of 4K tokens, 0.60 in those of 32K: the model loses information as contexts grow."
        in line["text"]
    )
    assert "The worst cell has 0.10: 32K tokens, 50% deep" in line["text"]
    assert line["what"] == "information as contexts grow"
    flat = loss_line({**grid, "gap_test": {"p": 0.3}}, "After")
    assert flat["tone"] == "flat"
    assert (
        flat["brief"]
        == "After: 1.00 in contexts of 4K tokens, 0.60 in those of 32K: chance may explain this."
    )
    even = loss_line({**grid, "by_length": [0.81, 0.8], "gap_test": {"p": 0.3}}, "After")
    assert "no cell is clearly worse" in even["text"]


def test_other_views_have_their_sentence() -> None:
    falling = {"view": "lengths", "lengths": [1, 2], "values": [0.9, 0.5], "average": 0.7}
    assert "loses information as contexts grow" in loss_line(falling, "B")["text"]
    unclear = loss_line({**falling, "gap": 0.4, "gap_test": {"p": 0.2, "null_mean": 0.3}}, "B")
    assert unclear["tone"] == "flat"
    assert "chance may explain this" in unclear["text"]
    assert "little difference" in loss_line({**falling, "values": [0.9, 0.88]}, "B")["text"]
    table = {"view": "table", "n": 1200, "average": 0.4, "estimate": {"mean": 0.4, "low": 0.35, "high": 0.45}}
    assert loss_line(table, "B")["text"] == "B: 0.40 (0.35 to 0.45) on average of 1,200 answers."
    assert loss_line({"view": "mine"}, "B")["text"] == "B: no answers were scored."
    reading = {"view": "perplexity", "perplexity": 9.5, "curve": [2.0, 2.1, 2.4, 2.6]}
    assert "far end of the text is predicted worse" in loss_line(reading, "B")["text"]


def change(mean: float, low: float, high: float, verdict: str) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "verdict": verdict, "unit": "points"}


def test_the_verdict_follows_the_test_and_not_the_sign() -> None:
    def text(*given: Any, before_after: bool = True) -> str:
        line = change_line(change(*given), ["a", "b"], before_after)
        assert line is not None
        return f"{line['tone']}: {line['text']}"

    assert text(0.27, 0.25, 0.29, "better") == "good: Training helped: +0.27 (95% interval 0.25 to 0.29)"
    assert text(-0.2, -0.3, -0.1, "worse") == "bad: Training hurt: −0.20 (95% interval −0.30 to −0.10)"
    assert text(0.1, 0.01, 0.2, "no evidence").startswith(
        "none: No evidence that training helped or hurt: +0.10"
    )
    assert text(0.002, 0.001, 0.003, "better").startswith("none: Hardly any difference: +0.002")
    assert text(0.2, 0.1, 0.3, "better", before_after=False).startswith("good: b is better than a")
    assert text(0.02, 0.01, 0.03, "better").startswith("good: Training helped a little: +0.02")
    assert text(-0.02, -0.03, -0.01, "worse", before_after=False).startswith(
        "bad: b is worse than a by a little"
    )
    both = change_line({**change(0.27, 0.25, 0.29, "better"), "a": 0.73, "b": 1.0}, ["a", "b"], True)
    assert both is not None
    assert both["text"] == "Training helped: 0.73 → 1.00, +0.27 (95% interval 0.25 to 0.29)"
    assert both["brief"] == "Training helped: 0.73 → 1.00, +0.27"
    assert change_line(None, ["a", "b"], True) is None
    assert change_line({"reason": "other data", "models": [0, 1]}, ["a", "b"], True) is None


def test_all_tasks_together() -> None:
    told = []
    for name, mean, word in (
        ("x", 0.3, "better"),
        ("y", 0.1, "better"),
        ("z", -0.2, "worse"),
        ("w", 0.0, "no evidence"),
    ):
        found = change(mean, mean - 0.05, mean + 0.05, word)
        line = change_line(found, ["a", "b"], True)
        assert line is not None
        told.append((name, found, line))
    line = overall_line(told, True, ["a", "b"])
    assert line is not None
    assert line["tone"] == "mixed"
    assert line["text"] == (
        "Training helped in 2 of 4 tasks, most in x (+0.30); hurt in 1, z (−0.20); no clear change in 1."
    )
    one = overall_line(told[:1], True, ["a", "b"])
    assert one is not None
    assert one["text"] == "Training helped in x: +0.30."
    good = overall_line([told[0], told[3]], False, ["a", "b"])
    assert good is not None
    assert (good["tone"], good["text"]) == (
        "good",
        "b is better than a in 1 of 2 tasks, x (+0.30); worse in none; no clear change in 1.",
    )
    assert overall_line([], True, ["a"]) is None
    worse = overall_line(told[2:], True, ["a", "b"])
    assert worse is not None
    assert worse["tone"] == "bad"
    assert worse["text"] == "Training hurt in 1 of 2 tasks, z (−0.20); helped in none; no clear change in 1."
    same = overall_line([told[3]] * 3, True, ["a", "b"])
    assert same is not None
    assert (same["tone"], same["text"]) == (
        "none",
        "No evidence that training helped or hurt in any of 3 tasks.",
    )


def told_of(name: str, mean: float, verdict: str, *, nothing: bool = False) -> tuple[str, Any, Any]:
    found = change(mean, mean - 0.01, mean + 0.01, verdict)
    return name, found, change_line(found, ["a", "b"], True, nothing=nothing)


def test_tasks_without_right_answers_do_not_dilute_the_verdict() -> None:
    real, empty = told_of("x", 0.3, "better"), told_of("e", 0.02, "better", nothing=True)
    assert empty[2]["text"].startswith("Almost nothing is right, before or after: +0.02")
    line = overall_line([real, empty, empty], True, ["a", "b"])
    assert line is not None
    assert line["text"] == (
        "Training helped in x: +0.30. In 2 other tasks almost nothing is right, before or after."
    )
    none = overall_line([empty, empty], True, ["a", "b"])
    assert none is not None
    assert (none["tone"], none["text"]) == ("none", "In 2 tasks almost nothing is right, before or after.")
    lost = told_of("e", -0.08, "worse", nothing=True)
    assert lost[2]["tone"] == "bad", "a regression is told of wherever it is"
    least = told_of("e", -0.003, "worse", nothing=True)[2]
    assert (least["tone"], least["text"][:41]) == ("none", "Almost nothing is right, before or after:")


def test_little_gains_are_called_little() -> None:
    real, little = told_of("x", 0.3, "better"), told_of("y", 0.02, "better")
    line = overall_line([real, little], True, ["a", "b"])
    assert line is not None
    assert line["text"] == "Training helped in 2 of 2 tasks, most in x (+0.30), a little in 1; hurt in none."
    line = overall_line([little, little], True, ["a", "b"])
    assert line is not None
    assert line["text"].startswith("Training helped a little in 2 of 2 tasks")


def test_losses_of_several_tasks_are_one_sentence() -> None:
    losses = [
        ("val", {"tone": "loss", "text": "", "what": "what stands in the middle"}),
        ("needle", {"tone": "loss", "text": "", "what": "information as contexts grow"}),
        ("multihop", {"tone": "loss", "text": "", "what": "information as contexts grow"}),
        ("even", {"tone": "good", "text": ""}),
    ]
    assert lost_line(losses, "Before")["text"] == (
        "Before: the model loses what stands in the middle (val) and information as contexts grow (needle, multihop)."
    )
    assert lost_line(losses[:1], "After", before={"what stands in the middle"})["text"] == (
        "After: the model still loses what stands in the middle (val)."
    )
    assert lost_line(losses[:2], "After", before={"what stands in the middle"})["text"] == (
        "After: the model still loses what stands in the middle (val), "
        "and now loses information as contexts grow (needle)."
    )
    empty = ("code", {"tone": "flat", "text": "", "nothing": "yes"})
    fine = lost_line([losses[3], empty], "After", before={"what stands in the middle"})
    assert fine["tone"] == "good"
    assert fine["text"] == (
        "After: no clear loss by place or length is left (even); "
        "almost nothing is found, wherever it stands (code)."
    )
    assert lost_line([empty], "After")["tone"] == "flat"


def test_the_shape_of_a_curve_in_words() -> None:
    shape = {"coefficient": 0.31, "p": 0.0002, "low": 0.25, "high": 0.37}
    assert shape_line({"u_shape": shape}, "Before") == (
        "Before: the edges stand 0.31 above the middle (+0.25 to +0.37, p < 0.001)."
    )
    assert "below the middle (p = 0.90)" in shape_line({"u_shape": {"coefficient": -0.1, "p": 0.9}}, "X")
    assert shape_line({"u_shape": {"coefficient": None, "p": None}}, "X") == shape_line({}, "X") == ""


def test_numbers_with_signs() -> None:
    assert [signed(value) for value in (0.271, -0.05, 0.002, -0.002, 0.0)] == [
        "+0.27",
        "−0.05",
        "+0.002",
        "−0.002",
        "0.00",
    ]


def test_signs_that_a_terminal_lacks() -> None:
    assert printable("0.73 → 1.00 (±0.01) mañ…", "utf-8") == "0.73 → 1.00 (±0.01) mañ…"
    assert printable("0.73 → 1.00 (±0.01) mañ…", "ascii") == "0.73 > 1.00 (+-0.01) ma?~"
    assert printable("−0.01", None) == "-0.01"


def test_halves_go_up_as_in_the_charts() -> None:
    assert [percent(depth / 8) for depth in (1, 3, 5, 8)] == ["13%", "38%", "63%", "100%"]
