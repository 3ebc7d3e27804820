"""Plugins of `plugins/contrib`: each a distribution of its own, loaded here from its sources."""

from __future__ import annotations

import importlib
import random
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Template

from lcx import plugins, recipe
from lcx.cli.recipes import checked
from lcx.context import Context
from lcx.data.bundles import read_bundles, write_bundles
from lcx.data.files import Rejects
from lcx.data.table import build_table, load_table
from lcx.data.templates import load_template
from lcx.data.tokens import BUILTIN
from lcx.errors import UsageError
from lcx.plugins import Plugins
from lcx.records import Branch, Bundle, Document
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


def stage_of(
    contrib: Plugins, tmp_path: Path, text: str
) -> tuple[list[StepResult], Callable[[str], list[Bundle]]]:
    """Results of a recipe's steps, and a function for a step's bundles."""
    path = tmp_path / "r.yaml"
    path.write_text(text)
    run = Run(tmp_path / "run", "r")
    done: list[StepResult] = []
    for step in recipe.resolve(recipe.load(str(path), contrib), contrib, project={}):
        done.append(execute(step, run, Context(), contrib))
    return done, lambda name: list(read_bundles(tmp_path / "run" / name / "data"))


LINES = """method: longrlvr
steps:
  - {id: questions, stage: synth, method: in2, corpus: "stdlib:records:8", tokenizer: words, segment_by: lines,
     segment_tokens: 4, examples: 6, questions_per_context: 2, context_tokens: [103, 103], mix: {fine: 1.0}}
  - {stage: synth, input: "step:questions", candidates: 3, cites: CITES}
"""


@pytest.mark.parametrize("cites", ["numbers", "words"])
def test_longrlvr_asks_about_chunks_whose_evidence_is_known(
    cites: str, contrib: Plugins, tmp_path: Path
) -> None:
    _, bundles = stage_of(contrib, tmp_path, LINES.replace("CITES", cites))
    asked = bundles("synth")
    assert len(asked) == 6
    made = importlib.import_module("lcx_longrlvr.stages")
    for bundle in asked:
        chunks = (bundle.context or "").split("\n\n" if cites == "numbers" else "\n")
        assert len(chunks) == 8
        [evidence] = bundle.meta["evidence"]
        chunk = chunks[evidence - 1]
        if cites == "numbers":
            assert chunk.startswith(f"[{evidence}] ")
        answer = bundle.meta["reference"]
        assert set(answer.split()) <= set(chunk.split())
        said = f"Evidence: [{evidence}]\nAnswer: {answer}" if cites == "numbers" else answer
        settings = SimpleNamespace(beta=2.0, alone=0.1)
        assert made.reward(said, bundle.meta, settings) == {"right": 1.0, "grounding": 1.0, "reward": 2.0}
        assert bundle.branches[0].role == "candidate"
    recipes = (CONTRIB / "longrlvr/lcx_longrlvr/recipes/longrlvr.yaml").read_text()
    assert "template: longrlvr" in recipes  # training reads the prompt that was answered
    asks = load_template("longrlvr")
    assert "Evidence: [number]" in asks.after


def test_longrlvrs_reward_and_pairs(contrib: Plugins, tmp_path: Path) -> None:
    meta = {"evidence": [2, 5], "cites": "numbers", "chunks": [], "reference": "the red mill"}
    made, settings = importlib.import_module("lcx_longrlvr.stages"), SimpleNamespace(beta=2.0, alone=0.1)

    def rewarded(answer: str) -> tuple[float, float, float]:
        return tuple(made.reward(answer, meta, settings).values())  # type: ignore[return-value]

    assert rewarded("Evidence: [2] [5]\nAnswer: It is the red mill.") == (1, 1, 2)
    right, ground, whole = rewarded("Evidence: [2]\nAnswer: the red mill")
    assert (right, ground) == (
        1,
        pytest.approx(5 * 1 * 0.5 / (4 * 1 + 0.5)),
    )  # F2 of precision 1 and recall 1/2
    assert whole == pytest.approx(1 + ground)
    assert rewarded("the red mill") == (1, 0, 1)  # nothing is cited
    assert rewarded("Evidence: [2] [5]\nAnswer: a redmill") == (0, 1, pytest.approx(0.1))
    assert rewarded("Evidence: [2] [5] [999]\nAnswer: no")[1] < 1  # a number that no chunk has
    words = {**meta, "cites": "words", "chunks": ["a", "b", "c", "d", "mill"]}
    assert made.read("b mill", words) == ("b mill", {2, 5})
    bundles = [
        candidates("good", "Evidence: [2] [5]\nAnswer: the red mill", "Evidence: [1]\nAnswer: no", **meta),
        candidates("same", "Answer: no", "Answer: none", **meta),
        Bundle("cut", (Branch("q", "x", "candidate", meta={"cut": True}),), context="c", meta=meta),
    ]
    result, [pair] = score(contrib, tmp_path, "longrlvr", bundles)
    chosen, rejected = pair.branches
    assert (chosen.role, chosen.meta["reward"], rejected.role, rejected.meta["reward"]) == (
        *("chosen", 2.0),
        *("rejected", 0.0),
    )
    assert result.counts["set aside: no answer is worse by the margin"] == 2


def test_longmagpie_begins_a_users_turn(
    contrib: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = importlib.import_module("lcx_longmagpie.synth")
    chat = (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )

    class Tokenizer:
        bos_token = "<s>"
        chat_template: str | None = chat

        def apply_chat_template(
            self, messages: object, add_generation_prompt: bool = False, **_: object
        ) -> str:
            return str(
                Template(chat).render(
                    messages=messages, add_generation_prompt=add_generation_prompt, bos_token=self.bos_token
                )
            )

    tokenizer = Tokenizer()
    monkeypatch.setattr(made, "load_tokenizer", lambda spec: tokenizer)
    assert made.opening(SimpleNamespace(template=None), "local:m") == "\n\n<|user|>"
    assert made.opening(SimpleNamespace(template="tiny"), "local:m") == "\n?"
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        made.opening(SimpleNamespace(template=None), "local:m")
    sample = importlib.import_module("lcx_longreward.sampling").Sample
    assert made.unusable(sample("What is it?"), ["What is that?"]) == ""
    assert made.unusable(sample("What is it?"), ["What is that?", "what is it?"]) == "a repetition"
    assert made.unusable(sample("What is", cut=True), []) == "cut"
    assert made.unusable(sample("", why="empty"), []) == "empty"
    with pytest.raises(UsageError, match="cannot write questions"):
        stage_of(contrib, tmp_path, "method: longmagpie\nsteps:\n  - {stage: synth, llm: builtin}\n")


def test_longmagpies_turns_and_documents(contrib: Plugins, tmp_path: Path) -> None:
    text = LINES.splitlines()
    step = '  - {id: turns, stage: synth, method: user-turns, input: "step:questions", template: tiny}'
    _, bundles = stage_of(contrib, tmp_path, "\n".join([*text[:4], step]))
    asked, turned = bundles("questions"), bundles("turns")
    assert [[one.answer for one in bundle.branches] for bundle in turned] == [
        [f"{one.question} = {one.answer}" for one in bundle.branches] for bundle in asked
    ]
    assert {one.question for bundle in turned for one in bundle.branches} == {""}
    # A model that ends its turn where the training's template ends it has written the whole exchange
    assert load_template("tiny-turn").end == load_template("tiny").end

    # A text stands at any place among those of other documents, and none has a record by the name of its own
    table = load_table(tmp_path / "run/turns/data")
    windows = importlib.import_module("lcx_longreward.sampling").windows(table, 96, 96, Counter())
    made = importlib.import_module("lcx_longmagpie.synth")
    places, numbers = set(), set()
    for own in windows[:40]:
        said, fewer = made.among(table, own, windows, SimpleNamespace(seed=0, others=3, separator="\n"))
        lines, [first, *_] = said.split("\n"), made.text_of(table, own).split("\n")
        names = [line.split()[1] for line in lines]
        assert (len(lines) % 8, len(set(names)), fewer) == (0, len(names), False)
        places.add(lines.index(first) // 8)
        numbers.add(len(lines) // 8)
        alone = made.among(table, own, windows, SimpleNamespace(seed=0, others=0, separator="\n"))
        assert alone == (made.text_of(table, own), False)
        few = made.among(table, own, [own], SimpleNamespace(seed=0, others=3, separator="\n"))
        assert few == (alone[0], len(lines) > 8)
    assert (places, numbers) == ({0, 1, 2, 3}, {1, 2, 3, 4})


def test_longmagpie_counts_what_it_leaves_out(contrib: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    made = importlib.import_module("lcx_longmagpie.synth")
    sample = importlib.import_module("lcx_longreward.sampling").Sample
    lines = ["a b c d", "e f g h", "i j k l"]
    documents = [Document(line, line, {"keys": [line[0]]}) for line in lines]
    table = build_table(documents, BUILTIN["simple"], min_tokens=4, mode="lines")
    policies = []

    class Policy:
        def __init__(self, client: object, text: object, render: Callable[[], Any], *how: object) -> None:
            self.render, self.how = render(), how
            policies.append(self)

        def answer(self, prompts: list[Any]) -> list[tuple[list[Any], str]]:
            if not prompts[0].question:
                assert self.render("TEXT", "") == "TEXT\n?"
                return [([sample("x"), sample("X"), sample("y")], ""), ([], "refused"), ([sample("z")], "")]
            assert self.render("TEXT", prompts[0].question) == "TEXT\n? x ="
            return [([sample("x b")], ""), ([sample("y", cut=True)], ""), ([], "too long")]

    monkeypatch.setattr(made, "Policy", Policy)
    written: list[Bundle] = []
    shard = SimpleNamespace(places=[0], write=lambda rows: written.extend(rows))
    settings = {
        "segment_tokens": 4,
        "segment_by": "lines",
        "context_tokens": (4, 4),
        "examples": 3,
        "seed": 0,
    }
    settings |= {"template": "tiny", "others": 2, "separator": " | ", "top_p": 0.9}
    settings |= {"questions": 3, "question_temperature": 0.5, "question_tokens": 2}
    settings |= {"temperature": 0.0, "answer_tokens": 5}
    work = SimpleNamespace(
        settings=SimpleNamespace(**settings),
        spec=lambda _: ("local:x", {}),
        table=lambda **_: table,
        llm=lambda **_: None,
        service=SimpleNamespace(begin=lambda _: None, close=lambda _: None),
        counts=Counter(),
        rejects=Rejects(),
        step=SimpleNamespace(id="synth"),
        shards=lambda *_, **__: [shard],
        done=lambda metrics, extra: metrics,
    )
    assert made.synth(work) == {"contexts": 1, "questions": 1}
    assert [one.how for one in policies] == [(3, 0.5, 0.9, 2, "=", 0), (1, 0.0, 0.9, 5, ";", 0)]
    assert work.rejects.counts == {
        "the question is a repetition": 1,
        "the question is not there": 1,
        "the answer is cut": 1,
        "the answer is not there": 1,
    }
    assert {one.detail for one in work.rejects.items} == {"", "refused", "too long"}
    [bundle] = written
    assert bundle.branches == (Branch("x", "x b"),)
    assert set((bundle.context or "").split(" | ")) <= set(lines)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tiny_recipe_shows_its_effect(name: str, seed: int, contrib: Plugins, tmp_path: Path) -> None:
    """Fresh answers are better after the training than before, as each README's table has it: by the mean reward, or
    in LongMagpie's by the share of records found among 32, of which the middle's were lost.
    """
    run = Run(tmp_path / "run", f"{name}-tiny")
    found = recipe.load(f"{name}-tiny", contrib)
    plain = recipe.resolve(found, contrib, project={})
    seeds = {step.id: {"seed": seed} for step in plain if hasattr(step.settings, "seed")}
    steps = recipe.resolve(found, contrib, project={}, flags=seeds)
    done = {step.id: execute(step, run, Context(), contrib) for step in steps}
    before, after = done["before"].metrics, done["eval"].metrics
    if name == "longmagpie":
        assert after["average"] > before["average"] + 0.2
        assert after["gap"] < before["gap"] - 0.3
    else:
        assert after["reward"]["mean"] > before["reward"]["mean"]
