"""Suites and accuracy by length in a terminal and as pictures; gaps with their null; SVG beside PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from lcx.evaluation.result import Mean, Result
from lcx.evaluation.show.terminal import interval_bar, with_half
from lcx.formatting import p_words
from tests.evaluation.from_scores import (
    curve_png,
    curve_text,
    draw_task,
    draw_tasks,
    lengths_text,
    suites_text,
    table_text,
    task_text,
    tasks_text,
)

pytestmark = pytest.mark.pictures


def suite(mean: float, n: int = 200, nulls: int = 0, **by: Any) -> dict[str, Any]:
    estimate = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": n}
    found = {"view": "table", "score": 100 * mean, "average": mean, "gap": None, "n": n, "nulls": nulls}
    return {**found, "estimate": estimate, "by": by}


def lengths(*values: float) -> dict[str, Any]:
    places = [1024 << n for n in range(len(values))]
    return {
        **{"view": "lengths", "unit": "tokens", "lengths": places, "values": list(values), "n": 90},
        **{"intervals": [[value - 0.1, value + 0.1] for value in values], "average": values[0], "gap": 0.1},
    }


def curve(*spans: float) -> dict[str, Any]:
    return {
        **{"spans": list(spans), "average": 0.5, "gap": 0.12, "n": 4, "view": "curve"},
        **{"intervals": [[value - 0.1, value + 0.1] for value in spans]},
        **{"estimate": {"mean": 0.5, "low": 0.46, "high": 0.52}},
        **{"gap_test": {"gap": 0.12, "null_mean": 0.08, "null_high": 0.1, "p": 0.012, "trials": 100}},
    }


def test_several_suites_are_one_table() -> None:
    tasks = {
        "longbench:qasper": {"base": suite(0.30, nulls=3), "tuned": suite(0.36)},
        "longbench:gov_report": {"base": suite(0.25), "tuned": suite(0.20, n=100)},
    }
    text = suites_text(tasks, width=80, unicode=True, colour=False)
    assert text.split("\n") == [
        "                              base       tuned        n  nulls",
        "  longbench:qasper      0.30 ±0.05  0.36 ±0.05      200    3/0",
        "  longbench:gov_report  0.25 ±0.05  0.20 ±0.05  200/100    0/0",
        "",
        "  longbench: means   base  tuned       n",
        "  single-doc         0.30   0.36  1 sets",
        "  summary            0.25   0.20  1 sets",
        "  all                0.28   0.28  2 sets",
    ]
    assert "longbench: means" not in suites_text({"csqa": {"base": suite(0.3)}}, width=80)


def test_one_suite_has_a_bar_and_its_groups() -> None:
    by = {
        "easy": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 80},
        "hard": {"mean": 0.1, "low": None, "high": None, "n": 20},
    }
    text = table_text(
        {"base": suite(0.5, difficulty=by)}, title="longbench_v2", width=60, unicode=False, colour=False
    )
    lines = text.split("\n")
    assert lines[0] == "longbench_v2"
    assert lines[2].split() == ["base", "0.50", "+-0.05", "|", "--o--", "|", "200"] or "o" in lines[2]
    assert lines[4].split()[:2] == ["by", "difficulty"]
    assert lines[5].split()[:3] == ["easy", "0.50", "+-0.10"]
    assert lines[6].split()[:2] == ["hard", "0.10"]
    assert "+-" not in lines[6]


def test_a_bar_has_its_mean_and_interval_in_place() -> None:
    assert interval_bar(Mean(0.5, 0.3, 0.7), 11, unicode=False) == "|   --o--   |"
    assert interval_bar(Mean(0.0), 11, unicode=False) == "|o          |"
    assert interval_bar(Mean(1.0, 0.9, 1.2), 11, unicode=True) == "│         ─●│"
    assert interval_bar(Mean(), 3, unicode=False) == "|   |"
    assert with_half(Mean()) == "-"


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("unicode", [True, False])
def test_everything_fits_its_width(width: int, unicode: bool) -> None:
    long = "a/very/long/path/" * 6
    tasks = {
        f"longbench:{name}{'x' * 30}": {"base": suite(0.3, nulls=200), long: suite(0.4)} for name in "abc"
    }
    by = {name: {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 80} for name in ("0-4k", "4-8k", long)}
    texts = [
        suites_text(
            {task: {"base": models["base"]} for task, models in tasks.items()}, width=width, unicode=unicode
        ),
        table_text({"base": suite(0.3, nulls=9, length=by)}, title="x", width=width, unicode=unicode),
        lengths_text(
            {"base": lengths(*[0.5] * 9), long: lengths(*[0.6] * 9)}, title="x", width=width, unicode=unicode
        ),
        curve_text(
            {"base": curve(0.2, 0.4), long: curve(0.4, 0.2)}, width=width, unicode=unicode, colour=False
        ),
    ]
    if width >= 60:
        texts.append(suites_text(tasks, width=width, unicode=unicode))
    for text in texts:
        assert max(len(line) for line in text.split("\n")) <= width, text
        assert "\x1b" not in text
        assert unicode or text.isascii()


def test_lengths_have_a_curve_and_their_numbers() -> None:
    text = lengths_text(
        {"base": lengths(1.0, 0.5, 0.0)}, title="multihop", width=60, unicode=False, colour=False
    )
    lines = text.split("\n")
    assert lines[1].startswith(" 1.0 |###")
    assert lines[9].endswith("###")
    assert lines[11].split() == ["1K", "length", "of", "the", "context", "(tokens)", "4K"]
    assert lines[-1].split() == ["###", "base", "1.00", "+-0.10", "0.50", "+-0.10", "0.00", "+-0.10"]


def test_a_gap_stands_beside_what_noise_gives() -> None:
    text = curve_text({"base": curve(0.4, 0.6)}, title="val:code", width=80, unicode=True, colour=False)
    assert "  base: gap 0.12, noise alone gives 0.08, p = 0.012" in text
    assert "0.500 ±0.030" in text
    untested = {key: value for key, value in curve(0.4, 0.6).items() if key not in ("gap_test", "estimate")}
    text = curve_text({"base": untested}, width=80, unicode=True, colour=False)
    assert "noise" not in text
    assert "±" not in text
    assert Result("t", gap=0.3).gap_words() == "gap 0.30"
    assert [p_words(p) for p in (None, 0.0004, 0.041, 0.41)] == ["", "p < 0.001", "p = 0.041", "p = 0.41"]


def test_a_step_in_words_has_each_task_and_suites_together() -> None:
    tasks = {"val:code": {"m": curve(0.1, 0.2)}, "csqa": {"m": suite(0.5)}, "gsm8k": {"m": suite(0.4)}}
    texts = tasks_text(tasks, width=80, unicode=True, colour=False)
    assert [text.split("\n")[0] for text in texts] == ["val:code", "suites"]
    assert tasks_text({"csqa": {"m": suite(0.5)}}, width=80)[0].startswith("csqa\n")
    assert task_text("multihop", {"m": lengths(0.5, 0.6)}, width=80).startswith("multihop\n")


def test_svg_stands_beside_png_and_both_repeat(tmp_path: Path) -> None:
    tasks = {
        "val:code": {"base": curve(0.4, 0.6), "tuned": curve(0.9, 0.9)},
        "multihop": {"base": lengths(0.9, 0.5)},
        "csqa": {"base": suite(0.5), "tuned": suite(0.6)},
    }
    one = draw_tasks(tmp_path / "one" / "curves.png", tasks)
    two = draw_tasks(tmp_path / "two" / "curves.png", tasks)
    for ending in (".png", ".svg"):
        assert one.with_suffix(ending).read_bytes() == two.with_suffix(ending).read_bytes()
    svg = one.with_suffix(".svg").read_text(encoding="utf-8")
    assert svg.lstrip().startswith("<?xml")
    assert "<dc:date>" not in svg
    assert matplotlib.image.imread(one).shape[0] == 3 * 660
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["curves.png", "curves.svg"]


def test_a_band_is_drawn_where_there_are_intervals(tmp_path: Path) -> None:
    bare = {key: value for key, value in curve(0.4, 0.6).items() if key != "intervals"}
    pictures = [
        matplotlib.image.imread(curve_png(tmp_path / f"{n}.png", {"m": scores}))
        for n, scores in enumerate((bare, curve(0.4, 0.6)))
    ]
    changed = (pictures[0] != pictures[1]).any(-1).mean()
    assert 0.02 < changed < 0.2
    assert not (tmp_path / "0.svg").exists()


def test_single_suites_have_no_picture_of_their_own(tmp_path: Path) -> None:
    assert draw_task(tmp_path, "csqa", {"m": suite(0.5)}) is None
    assert draw_task(tmp_path, "multihop", {"m": lengths(0.5, 0.6)}) == tmp_path / "curve-multihop.png"


def test_one_length_is_a_table_and_no_curve() -> None:
    text = lengths_text(
        {"m": {"view": "lengths", "lengths": [2048], "values": [0.5], "unit": "tokens"}},
        title="multihop",
        width=80,
        unicode=True,
    )
    assert text.startswith("multihop\n")
    assert "by length of the context (tokens)" in text
    assert "┤" not in text
    assert "0.50" in text
