"""The guide on probes: its table of knobs is whole, its YAML is read, and its plugin is the one that is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import UsageError
from lcx.evaluation.planning import read_sized
from lcx.evaluation.task import GridOptions, Task
from lcx.records import Document
from tests.evaluation.probing.toolbox import documents, rows_of
from tests.evaluation.tasks import build, probes, score_predictions

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
PLUGIN = ROOT / "tests" / "plugin_package" / "lcx_haystack" / "lines.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


def test_every_probe_and_every_option_is_in_the_tables() -> None:
    for name, task in probes().items():
        assert f"`{name}`" in GUIDE
        for key, option in task.options.model_fields.items():
            if key not in GridOptions.model_fields:
                default = (
                    str(option.default).lower() if isinstance(option.default, bool | None) else option.default
                )
                assert f"| `{name}` | `{key}` | {default} | {option.description}" in GUIDE


def test_the_sizing_file_is_read(tmp_path: Path) -> None:
    [text] = blocks("yaml")
    (tmp_path / "x.yaml").write_text(text)
    sized = read_sized(tmp_path / "x.yaml")
    assert (sized.name, sized.probe, sized.values["keys"]) == ("multikey-64k", "ruler:multikey", 100)


def plugin() -> Task:
    shown = blocks("python")[0]
    assert shown == PLUGIN.read_text(encoding="utf-8"), "the guide shows the probe that the tests install"
    module: dict[str, Any] = {}
    exec(compile(shown, "lines.py", "exec"), module)
    return module["LINES"]


def test_the_plugins_probe_asks_what_can_be_answered() -> None:
    probe = plugin()
    bundles = build(probe, documents(), size=12, sets=2, words="4")
    assert bundles == build(probe, iter(documents()), size=12, sets=2, words=4)
    assert [len(bundle.branches) for bundle in bundles] == [12, 12]

    def read(bundle: Any, branch: Any) -> str:
        number = re.findall(r"line (\d+)\?", branch.question)[0]
        return re.findall(rf"^Line {number}: .* (\w+)$", bundle.context, re.M)[0]

    said = score_predictions(probe, rows_of(tuple(bundles), read), span=6)
    assert (said["view"], said["spans"], said["average"]) == ("curve", [1.0, 1.0], 1.0)
    assert len(said["intervals"]) == 2
    for bundle in bundles:
        for branch in bundle.branches:
            [[start, end]] = branch.meta["gold"]
            assert (bundle.context or "")[start:end].endswith(f" {branch.answer}")
    with pytest.raises(UsageError, match="options of haystack:lines: unknown key 'lines'"):
        build(probe, documents(), lines=4)
    with pytest.raises(UsageError, match="words in it"):
        build(probe, [Document("n", "1 2 3")])
