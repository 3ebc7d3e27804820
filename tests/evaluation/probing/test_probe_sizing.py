"""Knobs and sizing files: what may be said, what is refused and how, and what a sized probe is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcx.errors import UsageError
from lcx.evaluation.planning import KEYS, SETTINGS, named, read_sizing
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import Knob, Measure, Probe, builtin_probes, get_probe, knob_values
from tests.evaluation.probing.toolbox import build, documents, options

SOME = {
    "keys": Knob(4, "keys of a context", least=2, most=9),
    "fill": Knob(False, "fill it"),
    "alpha": Knob(2.0, "exponent"),
    "stamp": Knob("date", "what tells them apart", choices=("date", "revision")),
}


def test_knobs_have_defaults_and_take_what_a_command_line_gives() -> None:
    assert knob_values("p", SOME, {}) == {"keys": 4, "fill": False, "alpha": 2.0, "stamp": "date"}
    given = knob_values("p", SOME, {"keys": "9", "fill": "true", "alpha": 3, "stamp": "revision"})
    assert given == {"keys": 9, "fill": True, "alpha": 3.0, "stamp": "revision"}
    assert isinstance(given["alpha"], float)
    assert knob_values("p", {}, {}) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kyes": 3}, r"p has no knob 'kyes'\. Did you mean 'keys'\?"),
        ({"keys": 1}, r"the knob 'keys' is at least 2 and at most 9, not 1"),
        ({"keys": 10}, r"not 10"),
        ({"keys": 2.5}, r"the knob 'keys' is a whole number, not 2.5"),
        ({"keys": True}, r"is a whole number, not True"),
        ({"keys": "many"}, r"is a whole number, not 'many'"),
        ({"keys": None}, r"is a whole number, not None"),
        ({"keys": float("nan")}, r"is a whole number"),
        ({"fill": "maybe"}, r"the knob 'fill' is true or false, not 'maybe'"),
        ({"fill": 1}, r"is true or false"),
        ({"alpha": "x"}, r"the knob 'alpha' is a number"),
        ({"stamp": "revison"}, r"cannot be 'revison'\. Did you mean 'revision'\?"),
        ({"stamp": 3}, r"the knob 'stamp' is a text"),
    ],
)
def test_bad_knobs_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        knob_values("p", SOME, given)


@pytest.mark.parametrize(
    "name", [name for name, probe in builtin_probes().items() if isinstance(probe, Probe)]
)
def test_every_probe_lists_its_knobs_and_refuses_others(name: str) -> None:
    probe = builtin_probes()[name]
    assert isinstance(probe, Probe)
    for knob in probe.knobs.values():
        assert knob.summary
        assert not knob.summary.endswith(".")
    assert knob_values(name, probe.knobs, {}) == {key: knob.default for key, knob in probe.knobs.items()}
    if probe.knobs:
        with pytest.raises(UsageError, match=f"{name} has no knob 'colour'"):
            probe.build(documents(), options(name, knobs={"colour": 1}), 0)


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_sizing_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# long needles\nprobe: needle\nname: needle-64k\nlengths: [65536]\ndepths: 20\nsets: 2\n"
        "knobs: {}\nsize: 5\n",
    )
    sized = read_sizing(path)
    assert (sized.name, sized.probe) == ("needle-64k", "needle")
    assert sized.overrides == {"lengths": [65536], "depths": 20, "sets": 2, "knobs": {}, "size": 5}
    short = read_sizing(write(tmp_path, "probe: ruler:multikey\nknobs: {keys: 8}\n", "many-keys.yml"))
    assert (short.name, short.probe, short.overrides) == (
        "many-keys",
        "ruler:multikey",
        {"knobs": {"keys": 8}},
    )
    assert set(SETTINGS) <= set(EvalSettings.model_fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "probe: needle\nlenghts: [8]\n",
            r"mine.yaml, line 2: unknown key 'lenghts'\. Did you mean 'lengths'\?",
        ),
        ("probe: needle\nlengths: [8, 9\nsets: 2\n", r"mine.yaml, line [23]: not valid YAML"),
        ("probe: needle\n\tsets: 2\n", r"line 2: not valid YAML"),
        ("- probe\n", r"a sized probe is a YAML mapping"),
        ("", r"a sized probe is a YAML mapping"),
        ("lengths: [8]\n", r"'probe' names the probe"),
        ("probe: [needle]\n", r"'probe' names the probe"),
        ("probe: needle\nname: 7\n", r"line 2: 'name' is a text, not 7"),
        ("probe: needle\nsets: 2\nsets: 3\n", r"line 3: 'sets' is given again"),
        ("probe: needle\nsets: few\n", r"mine.yaml: 'sets'.*not 'few'"),
        ("probe: needle\nsets: 0\n", r"mine.yaml: 'sets'"),
        ("probe: needle\nlengths: [1]\n", r"mine.yaml: 'lengths': lengths are at least 2"),
        ("probe: needle\nknobs: [keys]\n", r"line 2: 'knobs' is a mapping"),
        ("probe: needle\nsize: 0\n", r"line 2: 'size' is a number of items"),
        ("probe: needle\nsize: a\n", r"line 2: 'size' is a number of items"),
    ],
)
def test_bad_sizing_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_sizing(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the probe's file"):
        read_sizing(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"probe: n\xe9edle\n")
    with pytest.raises(UsageError, match="cannot read the probe's file"):
        read_sizing(tmp_path / "latin.yaml")
    assert KEYS[0] == "probe"


def test_a_sized_probe_goes_by_its_own_name() -> None:
    needle = get_probe("ruler:multikey")
    assert isinstance(needle, Probe)
    sized = named(needle, "many-keys")
    assert isinstance(sized, Probe)
    made = sized.build(documents(), options("ruler:multikey"), 0)
    whole = build("ruler:multikey")
    assert sized.name == "many-keys"
    assert [bundle.id for bundle in made] == [
        bundle.id.replace("ruler:multikey:", "many-keys:") for bundle in whole
    ]
    assert [bundle.context for bundle in made] == [bundle.context for bundle in whole]
    assert {bundle.kind for bundle in made} == {"many-keys"}
    read = get_probe("perplexity")
    assert isinstance(read, Measure)
    texts = named(read, "long-read").build(
        documents(), options(lengths=(64,), tokenize=lambda text: [len(word) for word in text.split()]), 0
    )
    assert [one.id for one in texts] == ["long-read:0:0", "long-read:0:1"]
