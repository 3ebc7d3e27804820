"""Plugins of `plugins/contrib`: each a distribution of its own, loaded here from its sources."""

from __future__ import annotations

import importlib
import random
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcx import plugins, recipe
from lcx.cli.recipes import checked
from lcx.context import Context
from lcx.data.bundles import read_bundles, write_bundles
from lcx.plugins import Plugins
from lcx.records import Branch, Bundle
from lcx.run import Run
from lcx.steps import StepResult, execute

CONTRIB = Path(__file__).resolve().parents[2] / "plugins" / "contrib"
NAMES = sorted(path.parent.name for path in CONTRIB.glob("*/pyproject.toml"))
MOST_LINES = 200


@pytest.fixture
def contrib(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """The core, lcx's own plugins and those of `plugins/contrib`."""
    for name in NAMES:
        monkeypatch.syspath_prepend(str(CONTRIB / name))
    yield plugins.load(extra={name: importlib.import_module(f"lcx_{name}") for name in NAMES})
    for module in [one for one in sys.modules if one.partition(".")[0] in {f"lcx_{name}" for name in NAMES}]:
        del sys.modules[module]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_whole(name: str, contrib: Plugins) -> None:
    folder = CONTRIB / name
    files = [path for path in folder.rglob("*") if path.suffix in (".py", ".toml")]
    assert sum(len(path.read_text().splitlines()) for path in files) <= MOST_LINES
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lcx"] == {name: f"lcx_{name}"}
    recipes = sorted(path.stem for path in folder.rglob("*.yaml"))
    assert recipes == [name, f"{name}-tiny"]
    for path in folder.rglob("*.yaml"):
        row = checked(str(path), contrib)
        assert row["ok"], row


def score(
    contrib: Plugins, tmp_path: Path, method: str, bundles: list[Bundle], **settings: object
) -> tuple[StepResult, list[Bundle]]:
    """What the method's score step makes of candidates."""
    write_bundles(tmp_path / "data", bundles, name="bundles", index=0, count=1)
    lines = "".join(f"    {key}: {value}\n" for key, value in settings.items())
    path = tmp_path / "r.yaml"
    path.write_text(f"method: {method}\nsteps:\n  - stage: score\n    input: {tmp_path / 'data'}\n{lines}")
    [step] = recipe.resolve(recipe.load(str(path), contrib), contrib, project={})
    result = execute(step, Run(tmp_path / "run", "r"), Context(), contrib)
    return result, list(read_bundles(tmp_path / "run" / "score" / "data"))


def candidates(name: str, *answers: str, **meta: object) -> Bundle:
    return Bundle(
        name,
        tuple(Branch("q", one, "candidate") for one in answers),
        context="a long text",
        meta=dict(meta),
    )


@pytest.mark.parametrize("similarity", ["words", "sealong-letters"])
def test_sealong_prefers_what_others_agree_with(similarity: str, contrib: Plugins, tmp_path: Path) -> None:
    if similarity != "words":
        import numpy as np

        from lcx.retrieval import Dense

        def opened(model: str, options: object) -> Dense:
            return Dense(
                lambda texts, queries: np.array(
                    [np.bincount(list(t.encode()), minlength=256) for t in texts]
                ),
                {},
            )

        contrib.retrievers.add("sealong-letters", opened, "test")
    bundles = [
        candidates("agree", "the red mill", "the red mill stands", "a red mill", "zzz qqq"),
        candidates("same", "one", "one", "one"),
        candidates("few", "one", "", "two"),
    ]
    result, [pair] = score(contrib, tmp_path, "sealong", bundles, similarity=similarity, near=2, low=0.25)
    chosen, rejected = pair.branches
    assert (chosen.role, rejected.role) == ("chosen", "rejected")
    assert "red mill" in chosen.answer
    assert rejected.answer == "zzz qqq"
    assert chosen.meta["agreement"] > rejected.meta["agreement"]
    assert pair.context == "a long text"
    assert result.counts["pairs"] == 1
    assert result.counts["set aside: the answers are the same"] == 1
    assert result.counts["set aside: too few whole answers"] == 1


def test_sealongs_agreement_is_the_mean_with_all_others(contrib: Plugins) -> None:
    made = importlib.import_module("lcx_sealong.score")
    rng = random.Random(0)
    answers = [" ".join(rng.choices(["a", "b", "c", "d"], k=rng.randint(1, 5))) for _ in range(6)]

    def naive(one: str, other: str) -> float:
        first, second, shared = one.split(), other.split(), 0
        for word in first:
            if word in second:
                second.remove(word)
                shared += 1
        return 2 * shared / (len(first) + len(other.split()))

    for place, found in enumerate(made.by_words(answers)):
        others = [naive(answers[place], other) for at, other in enumerate(answers) if at != place]
        assert found == pytest.approx(sum(others) / 5)
