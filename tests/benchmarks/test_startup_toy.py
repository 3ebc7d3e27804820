"""The startup benchmark runs at toy size against a second checkout, and what it committed holds."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("startup")


def test_it_checks_what_is_answered(startup: Any) -> None:
    good = {name: f"words\n{wanted}\n" for name, (_, wanted) in startup.TAB.items()}
    good |= {"recipes list": "in2-tiny", "train dry run": "learning_rate: 1", "help": "h", "version": "1"}
    assert startup.check({startup.OURS: good, startup.OTHER: {**good, "version": "2"}}) == ["version"]
    with pytest.raises(AssertionError, match="and Tab give"):
        startup.check({startup.OURS: {**good, "recipe by Tab": "words\n"}})
    more = {**good, "option by Tab": good["option by Tab"] + "--receive\n"}
    with pytest.raises(AssertionError, match="--receive"):
        startup.check({startup.OURS: good, startup.OTHER: more})
    with pytest.raises(SystemExit, match="no checkout of lcx"):
        startup.checkout(ROOT / "docs", Path("nowhere"))


@pytest.mark.slow
def test_toy_run_prints_json(startup: Any, capsys: pytest.CaptureFixture[str]) -> None:
    startup.main(["--rounds", "1", "--against", str(ROOT), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert set(result["commands"]) == {*startup.COMMANDS, *startup.TAB}
    for row in result["commands"].values():
        assert set(row) == {"here", "against", "here / against"}
        assert row["here / against"]["cpu"] == pytest.approx(row["here"]["cpu"] / row["against"]["cpu"])
    assert result["other_output"] == []
    assert {"cpu", "cores", "python", "typer"} <= set(result["machine"])
    assert result["settings"]["rounds"] == 1
    assert sys.version.startswith(result["machine"]["python"])


def test_committed_result_is_no_slower_than_before() -> None:
    result = json.loads((ROOT / "benchmarks/results/startup-cpu2.json").read_text())
    assert result["commits"]["against"] == "772ffed"
    assert result["settings"]["rounds"] >= 15
    for name in ("help", "option by Tab", "recipe by Tab", "task by Tab"):
        assert result["commands"][name]["here / against"]["cpu"] <= 1.05, name
