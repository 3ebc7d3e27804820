"""The page as a file: whole, repeatable, without a link to anywhere, and made without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lcx.evaluation.scores import EvalResult, find_results
from lcx.evaluation.show.page import write_comparison, write_report
from lcx.storage import read_json, write_json
from tests.evaluation.report.report_data import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine", trials=50)


class Reader(HTMLParser):
    """Collects ids, what is left open, and addresses."""

    void = ("meta", "link", "input", "br", "wbr")

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "action"):
                self.addresses.append(value or "")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_the_page_is_one_whole_file(run: Path, tmp_path: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = path.read_text(encoding="utf-8")
    reader = read(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    for address in reader.addresses:
        assert address == "data:," or (address.startswith("#") and address[1:] in reader.ids), address
    assert not re.search(r"https?://(?!www\.w3\.org/)", page), "nothing is fetched"
    assert "@@" not in page
    assert path.stat().st_size < 5_000_000
    assert write_report(run, tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_what_it_says_first(run: Path, tmp_path: Path) -> None:
    page = write_report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    words = re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", " ", page[page.index("<main>") : page.index('id="tasks"')])
    )
    assert "Training helped in" in words
    assert "most in val:database (+0.36)" in words
    assert "Before: the model loses what stands in the middle (val:database)" in words
    assert "information as contexts grow (needle, multihop)" in words
    assert "longbench: 6 tasks" in words


def test_the_script_is_the_only_one_that_may_run(run: Path, tmp_path: Path) -> None:
    page = write_report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(r"default-src 'none'; .*script-src 'sha256-[\w+/]+=*'\"", page)
    assert page.count("<script") == 2
    data = json.loads(page[page.index('id="data">') + 10 : page.index("</script>")])
    assert len(data["tasks"]) == 10


def test_one_model_alone_has_no_verdict_on_training(run: Path, tmp_path: Path) -> None:
    page = write_report(run / "eval" / "base-7b", tmp_path / "one.html").read_text(encoding="utf-8")
    assert "raining" not in page[page.index("<main>") : page.index("<footer>")]
    assert "base-7b: the model loses what stands in the middle" in page


@dataclass
class Side:
    name: str
    results: list[EvalResult]


def test_two_results_of_two_runs_are_compared(run: Path, tmp_path: Path) -> None:
    one, other = (find_results(run / "eval" / name) for name in ("base-7b", "train"))
    path = write_comparison(tmp_path / "two.html", Side("first", one), Side("second:train", other))
    page = path.read_text(encoding="utf-8")
    assert "second:train is better than first in" in page
    assert "second:train against first" in page


def test_three_models_and_gaps_in_what_they_were_asked(run: Path, tmp_path: Path) -> None:
    results: dict[str, Any] = read_json(run / "eval" / "base-7b" / "scores.json")
    for number, name in enumerate(("a", "b", "c")):
        tasks = dict(list(results["tasks"].items())[number:])
        write_json(tmp_path / name / "scores.json", {**results, "model": name, "tasks": tasks})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert read(page).open == []
    assert page.count('data-model="') == 3


@pytest.mark.slow
def test_nothing_heavy_is_imported(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from lcx.cli.boundary import run; "
        f"assert run(['report', {str(run)!r}, '--out', {str(tmp_path / 'x.html')!r}]) == 0; "
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "x.html"), "[]"]


def test_the_command(run: Path, tmp_path: Path, cli: Any) -> None:
    ran = cli("report", str(run), "--step", "eval", "--json")
    assert ran.code == 0
    assert ran.json == {
        "report": str(run / "eval" / "report.html"),
        "bytes": (run / "eval" / "report.html").stat().st_size,
    }
    ran = cli("report", str(tmp_path / "nix"))
    assert ran.code == 4
    assert "no results" in ran.err
    assert "lcx eval" in ran.err
