"""The guide on probes: its table of knobs is whole, its YAML is read, and its plugin is the one that is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lcx.errors import UsageError
from lcx.evaluation.offline import score_predictions
from lcx.evaluation.planning import read_sizing
from lcx.evaluation.task import Probe, ProbeOptions, builtin_probes
from lcx.records import Document
from tests.evaluation.probing.toolbox import documents, rows_of

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
PLUGIN = ROOT / "tests" / "plugin_package" / "lcx_haystack" / "lines.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


def test_every_probe_and_every_knob_is_in_the_tables() -> None:
    for name, probe in builtin_probes().items():
        assert f"`{name}`" in GUIDE
        for key, knob in getattr(probe, "knobs", {}).items():
            default = str(knob.default).lower() if isinstance(knob.default, bool) else knob.default
            assert f"| `{name}` | `{key}` | {default} | {knob.summary}" in GUIDE


def test_the_sizing_file_is_read(tmp_path: Path) -> None:
    [text] = blocks("yaml")
    (tmp_path / "x.yaml").write_text(text)
    sized = read_sizing(tmp_path / "x.yaml")
    assert (sized.name, sized.probe, sized.overrides["knobs"]) == (
        "multikey-64k",
        "ruler:multikey",
        {"keys": 100},
    )


def plugin() -> Probe:
    shown = blocks("python")[0]
    assert shown == PLUGIN.read_text(encoding="utf-8"), "the guide shows the probe that the tests install"
    module: dict[str, Any] = {}
    exec(compile(shown, "lines.py", "exec"), module)
    return module["LINES"]


def test_the_plugins_probe_asks_what_can_be_answered() -> None:
    probe = plugin()
    bundles = probe.build(documents(), ProbeOptions(12, 2, knobs={"words": "4"}), 0)
    assert bundles == probe.build(iter(documents()), ProbeOptions(12, 2, knobs={"words": 4}), 0)
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
    with pytest.raises(UsageError, match="haystack:lines has no knob"):
        probe.build(documents(), ProbeOptions(12, 2, knobs={"lines": 4}), 0)
    with pytest.raises(UsageError, match="words in it"):
        probe.build([Document("n", "1 2 3")], ProbeOptions(12, 2), 0)
