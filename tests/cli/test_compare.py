"""`lcx compare` from the command line: output, exit codes, the page, and no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli_help import heavy_after
from tests.compared import curve, two_models, write_result
from tests.conftest import Ran

Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_models(tmp_path_factory.mktemp("runs") / "mine")


def test_the_text_has_a_verdict_a_group(cli: Cli, run: Path) -> None:
    ran = cli("compare", str(run))
    assert ran.code == 0
    assert not ran.err
    assert max(len(line) for line in ran.out.split("\n")) <= 80
    lines = [line.split() for line in ran.out.split("\n")]
    assert any(line[:1] == ["val:database*"] and line[-1] == "better" for line in lines)
    assert any(line[:1] == ["csqa"] and line[-1] == "worse" for line in lines)


def test_json_is_one_object(cli: Cli, run: Path) -> None:
    found = cli("compare", f"{run}:base", f"{run}:train", "--json", "--alpha", "0.01").json
    assert (found["a"]["name"], found["b"]["name"], found["alpha"]) == ("base", "train", 0.01)
    whole = next(one for one in found["verdicts"] if one["group"] == "val:database")
    assert whole["verdict"] == "better"
    assert {"p", "p_holm", "family", "low", "high", "sees", "conditional", "n", "unit"} <= set(whole)
    assert found["regressions"]
    assert found["not_compared"].keys() == {"reward"}
    assert found == cli("compare", str(run), "--json", "--alpha", "0.01").json


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((), 0),
        (("--fail-on-regression",), 1),
        (("--fail-on-regression", "--margin", "90"), 0),
        (("--models", "train,base", "--fail-on-regression"), 1),
        (("--models", "train"), 2),
        (("--alpha", "1.5"), 2),
        (("--level", "0"), 2),
    ],
)
def test_exit_codes(cli: Cli, run: Path, more: tuple[str, ...], code: int) -> None:
    ran = cli("compare", str(run), *more)
    assert ran.code == code
    assert ran.err.startswith({0: "", 1: "B is worse", 2: "error: "}[code])
    assert code or not ran.err
    assert bool(ran.out) == (code < 2)


def test_errors_name_the_way_out(cli: Cli, run: Path, tmp_path: Path) -> None:
    ran = cli("compare", str(tmp_path / "nothing"))
    assert ran.code == 4
    assert "lcx eval" in ran.err
    ran = cli("compare", str(run), str(run))
    assert ran.code == 2
    assert f"{run}:train" in ran.err
    ran = cli("compare", str(run / "eval" / "base"), "--json")
    assert json.loads(ran.out or ran.err)["exit_code"] == 2


def test_results_without_scores_of_rows_are_scored_here(cli: Cli, tmp_path: Path) -> None:
    for name, middle, seed in (("a", 0.4, 0), ("b", 0.9, 1)):
        write_result(tmp_path / "eval" / name, {"val:database": curve(0.9, middle, seed, bare=True)})
    found = cli("compare", str(tmp_path), "--json").json
    assert found["verdicts"][0]["verdict"] == "better"
    assert found["verdicts"][0]["n"] == 800


def test_a_page_is_written(cli: Cli, run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = cli("compare", str(run), "--html", str(page))
    assert ran.code == 0
    assert f"wrote {page}" in ran.out
    text = page.read_text(encoding="utf-8")
    assert "val:database" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_nothing_heavy_is_imported(run: Path) -> None:
    assert heavy_after("compare", str(run)) == set()


def test_results_of_another_shape_are_called_by_their_place(cli: Cli, run: Path, tmp_path: Path) -> None:
    """Every 40th place of a scores.json holds something else: a page, a table, or an error that is no bug's."""
    shutil.copytree(run, tmp_path / "run")
    file = next((tmp_path / "run").rglob("scores.json"))
    scores = json.loads(file.read_text())

    def places(one: Any) -> list[tuple[Any, Any]]:
        inner = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        return [place for key, part in inner for place in ((one, key), *places(part))]

    values = cycle(["NaN", "null", '"x"', "[]", '{"a": 1}', "1e308"])
    for holder, key in places(scores)[::40]:
        kept, holder[key] = holder[key], "@"
        value = next(values)
        file.write_text(json.dumps(scores).replace('"@"', value))
        holder[key] = kept
        for line in (("report", str(tmp_path / "run")), ("compare", str(tmp_path / "run"))):
            ran = cli(*line)
            assert "bug" not in ran.err
            assert ran.code in (0, 2, 4)
            assert ("NaN, which is no JSON value" in ran.err) == (value == "NaN")
