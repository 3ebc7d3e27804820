"""Verdicts on planted differences, what is corrected with what, and the text that says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lcx.errors import UsageError
from lcx.evaluation.compare import Comparison, Options, Verdict, checked_comparison, compare
from lcx.evaluation.scores import find_sides
from lcx.evaluation.show.comparison import comparison_text
from lcx.evaluation.statistics.paired import holm
from tests.compared import curve, suite, two_models, write_result


def found_in(run: Path, **options: float) -> Comparison:
    return compare(*find_sides([str(run)]), Options(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_models(tmp_path_factory.mktemp("runs") / "mine")


def one(found: Comparison, task: str, group: str | None = None) -> Verdict:
    return next(v for v in found.verdicts if v.task == task and v.group == (group or task))


def test_each_group_gets_the_verdict_that_was_planted(run: Path) -> None:
    found = found_in(run)
    database = one(found, "val:database")
    assert database.verdict == "better"
    assert database.difference == pytest.approx(database.b - database.a)
    assert database.low < database.difference < database.high  # type: ignore[operator]
    assert database.conditional
    spans = {v.group: v.verdict for v in found.verdicts if v.kind == "span"}
    assert spans == {"0-49": "no evidence", "50-99": "better", "100-149": "better", "150-199": "no evidence"}
    qasper = one(found, "longbench:qasper")
    assert qasper.verdict == "no evidence"
    assert qasper.sees == pytest.approx((qasper.high - qasper.low) / 2)  # type: ignore[operator]
    assert (qasper.drawn, qasper.contexts, qasper.n) == ("contexts", 120, 120)
    assert found.not_compared.keys() == {"reward"}


def test_p_is_corrected_over_the_groups_of_a_family(run: Path) -> None:
    found = found_in(run)
    families: dict[str, list[Verdict]] = {}
    for verdict in found.verdicts:
        families.setdefault(verdict.family, []).append(verdict)
    assert {name: len(of) for name, of in families.items()} == {
        "tasks": 2, "short tasks": 2, "val:database by span": 4, "longbench:qasper by length": 3,
        "csqa by length": 3, "gsm8k by length": 3,
    }  # fmt: skip
    for of in families.values():
        assert [v.p_holm for v in of] == holm([v.p for v in of])
        assert all(v.family_size == len(of) for v in of)
        assert all((v.verdict == "no evidence") == (v.p_holm > 0.05) for v in of)


def test_losses_of_short_tasks_are_flagged(run: Path) -> None:
    found = found_in(run)
    csqa, gsm8k = one(found, "csqa"), one(found, "gsm8k")
    assert csqa.short
    assert csqa.verdict == "worse"
    assert csqa.reading == "hurt: the loss is above 2"
    assert {verdict.task for verdict in found.regressions} == {"csqa"}
    assert gsm8k.verdict == "no evidence"
    assert gsm8k.reading.startswith("open: a loss of up to")
    tolerant = found_in(run, margin=60.0)
    assert one(tolerant, "csqa").verdict == "worse"
    assert one(tolerant, "csqa").reading == "held: a loss above 60 is ruled out"
    assert not tolerant.regressions


def test_a_model_is_not_better_than_itself(run: Path, tmp_path: Path) -> None:
    base = run / "eval" / "base"
    twin = tmp_path / "twin"
    twin.mkdir()
    for path in base.iterdir():
        (twin / path.name).write_bytes(path.read_bytes())
    found = compare(*find_sides([str(base), str(twin)]))
    assert {v.verdict for v in found.verdicts} == {"no evidence"}
    assert all(v.low < 0 < v.high for v in found.verdicts)  # type: ignore[operator]
    assert {v.p_holm for v in found.verdicts} == {1.0}


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.35, 0.6, 2.0])
def test_a_verdict_and_its_interval_say_the_same(tmp_path: Path, shift: float) -> None:
    """Rewards of 0 to 10, all of them moved by a little and by chance: 60 tasks, as a small LongReward has them."""
    chance = np.random.default_rng(0).normal(0, 0.6, 60)
    for name, gain in (("a", 0 * chance), ("b", shift + chance)):
        rows = [
            {"id": str(n), "context_id": str(n), "reward": 4 + n % 3 + one}
            for n, one in enumerate(gain.tolist())
        ]
        write_result(tmp_path / "eval" / name, {"reward": ({"scale": [0, 10]}, rows)})
    [verdict] = found_in(tmp_path).verdicts
    half = 2.001 * float(chance.std(ddof=1)) / 60**0.5  # Student's t, 59 degrees of freedom
    assert verdict.low is not None
    assert verdict.high is not None
    assert (verdict.high - verdict.low) / 2 == pytest.approx(half, rel=0.02)
    assert (verdict.verdict == "better") == (verdict.low > 0) == (shift >= 0.2)


def test_other_scales_keep_their_unit(tmp_path: Path) -> None:
    for name, shift in (("a", 0.0), ("b", 0.5)):
        rows = [{"id": str(n), "context_id": str(n), "reward": 4 + n % 5 + shift} for n in range(40)]
        write_result(tmp_path / "eval" / name, {"reward": ({"scale": [0, 10]}, rows)})
    found = found_in(tmp_path)
    [verdict] = found.verdicts
    assert (verdict.unit, verdict.a, verdict.b) == ("score", 6.0, 6.5)
    assert verdict.verdict == "better"
    back = compare(*find_sides([str(tmp_path)], ["b", "a"]), Options(margin=4.0))
    assert back.regressions, "0.5 of 10 is more than 4 points"
    assert not compare(*find_sides([str(tmp_path)], ["b", "a"]), Options(margin=6.0)).regressions


def test_what_differs_besides_the_model_is_said(tmp_path: Path) -> None:
    scores, rows = suite(0.5, 0)
    write_result(
        tmp_path / "eval" / "a",
        {"csqa": ({**scores, "data": "1", "compat": None}, rows)},
        template_hash="aa",
        weights="w",
    )
    more = [*rows, {**rows[0], "item": "qasper:new#0"}]
    write_result(
        tmp_path / "eval" / "b",
        {"csqa": ({**scores, "data": "2", "compat": "film"}, more)},
        template_hash="bb",
        weights="w",
    )
    notes = "\n".join(found_in(tmp_path).notes)
    for words in ("template hash: aa and bb", "same weights", "1 items only in b", "data differ", "as film"):
        assert words in notes


@pytest.mark.parametrize(("other", "differs"), [("h1", False), ("h2", True)])
def test_chat_templates_are_compared_by_what_is_in_them(tmp_path: Path, other: str, differs: bool) -> None:
    for name, hashed in (("a", "h1"), ("b", other)):
        template = {"name": f"/models/{name}", "hash": hashed}
        write_result(tmp_path / "eval" / name, {"csqa": suite(0.5, 0)}, chat_template=template)
    assert ("chat template" in "\n".join(found_in(tmp_path).notes)) == differs


def test_nothing_to_compare_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    write_result(tmp_path / "eval" / "a", {"csqa": suite(0.5, 0), "val:code": curve(1, 1, 0)})
    write_result(tmp_path / "eval" / "b", {"csqa": suite(0.5, 0, of="other"), "needle": ({}, None)})
    with pytest.raises(UsageError) as bad:
        checked_comparison(*find_sides([str(tmp_path)]), Options())
    assert "nothing in common" in bad.value.what
    assert "csqa: they share no item" in bad.value.why
    assert "val:code: only a has it" in bad.value.why


def test_the_text_fits_and_says_what_it_is_about(run: Path) -> None:
    found = found_in(run)
    text = comparison_text(found)
    assert max(len(line) for line in text.split("\n")) <= 80
    for words in (
        "A  base", "B  train", "short tasks", "csqa: hurt: the loss is above 2", "for 4 contexts only",
        "corrected over 4 groups", "not compared", "no predictions-reward.jsonl", "no evidence (±",
    ):  # fmt: skip
        assert words in " ".join(text.split()) or words in text
    assert text.index("short tasks") < text.index("by span")


def test_long_names_give_way(tmp_path: Path) -> None:
    name = "longbench:a_set_with_a_very_long_name_of_its_own"
    for model, right in (("a" * 60, 0.0), ("b", 1.0)):
        write_result(tmp_path / "eval" / model, {name: suite(right, 0, items=40), "perplexity": ({}, None)})
    text = comparison_text(found_in(tmp_path))
    assert max(len(line) for line in text.split("\n")) <= 80
    assert "longbench:a_set" in text
    assert "+100.0" in text
