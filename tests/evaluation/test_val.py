"""The three probes: what they ask can be answered in one way only, and the same seed asks the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from lcx.data.stdlib import catalogue_documents
from lcx.errors import UsageError
from lcx.evaluation.planning import plan_tasks
from lcx.evaluation.probes import val as items
from lcx.evaluation.settings import EvalSettings
from lcx.evaluation.task import Task, options_of
from lcx.plugins import loaded
from lcx.records import Bundle, Document
from lcx.settings import validate
from tests.evaluation.tasks import build as built
from tests.evaluation.tasks import probes, row_of, task

# fmt: off
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath",
         "inlet", "jetty", "knoll", "larch", "marsh", "north", "ocean", "prism"]
# fmt: on


def text_documents(sentences: int = 400, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)
    texts = [
        " ".join(rng.choice(WORDS) for _ in range(rng.randint(9, 20))).capitalize() + "."
        for _ in range(sentences)
    ]
    return [Document(f"t{n}", " ".join(texts[n : n + 20]), {"kind": "text"}) for n in range(0, sentences, 20)]


def code_documents(functions: int = 120) -> list[Document]:
    bodies = [
        f'def work_{n}(a, b):\n    """Docstring {n}."""\n    total_{n} = a * {n} + b\n'
        f"    if total_{n} > {n * 7}:\n"
        f"        return total_{n} - b\n    return shared_helper(a, b)\n"
        for n in range(functions)
    ]
    return [
        Document(f"c{n}.py", "\n\n".join(bodies[n : n + 10]), {"kind": "code"})
        for n in range(0, functions, 10)
    ]


@pytest.fixture(scope="module")
def catalogue() -> list[Document]:
    return [Document(**row) for row in catalogue_documents(30, 1)]


def build(name: str, documents: list[Document], size: int, **more: object) -> list[Bundle]:
    return built(name, documents, size=size, **more)


def answerable(probe: Task, bundle: Bundle) -> None:
    """Every question's words stand in one line only; the reference scores 1 and an empty answer 0."""
    fold = str.lower if probe.name == "val:document" else str
    lines = fold(bundle.context or "").split("\n")
    for branch in bundle.branches:
        query = re.escape(fold(branch.meta["query"]))
        found = [number for number, line in enumerate(lines) if re.search(rf"(?<!\w){query}(?!\w)", line)]
        assert len(found) == 1, branch
        assert branch.meta["query"] in branch.question
        assert branch.role == "query"
        assert probe.score(row_of(branch, branch.answer)) == 1.0
        assert set(probe.row_fields) <= set(row_of(branch, ""))
        assert probe.score(row_of(branch, "")) == 0.0


def test_database_from_records(catalogue: list[Document]) -> None:
    bundles = build("val:database", catalogue, 32, sets=5, style="bare")
    assert len(bundles) == 5
    assert len({bundle.id for bundle in bundles}) == 5
    assert len({bundle.context for bundle in bundles}) == 5
    for bundle in bundles:
        answerable(task("val:database"), bundle)
        lines = (bundle.context or "").split("\n")
        assert len(lines) == bundle.meta["items"] == 32
        assert bundle.meta["skipped"] == 32 - len(bundle.branches)
        for branch in bundle.branches:
            star, key, module, *rest = lines[branch.meta["position"]].split()
            assert (star, branch.question, branch.answer) == ("*", key, f"{key} {module}")
            assert branch.meta["description"] == " ".join(rest)


@pytest.mark.parametrize("name", [name for name in sorted(probes()) if name.startswith("val:")])
@pytest.mark.parametrize("style", ["natural", "bare"])
def test_each_task_from_records(catalogue: list[Document], name: str, style: str) -> None:
    bundles = build(name, catalogue, 24, sets=2, style=style)
    for bundle in bundles:
        answerable(task(name), bundle)
        assert len(bundle.branches) > 12


@pytest.mark.parametrize("name", ["val:document", "val:database"])
def test_tasks_from_ordinary_text(name: str) -> None:
    for bundle in build(name, text_documents(), 60, sets=2):
        answerable(task(name), bundle)
        assert [branch.meta["position"] for branch in bundle.branches] == sorted(
            branch.meta["position"] for branch in bundle.branches
        )


def test_code_asks_for_a_line_that_only_one_function_has() -> None:
    bundles = build("val:code", code_documents(), 50, sets=3)
    for bundle in bundles:
        heads = re.findall(r"^def (\w+)", bundle.context or "", re.M)
        assert len(heads) == 50
        assert "Docstring" not in (bundle.context or "")
        for branch in bundle.branches:
            assert branch.answer == branch.meta["name"] == heads[branch.meta["position"]]
            assert (bundle.context or "").count(branch.meta["query"]) == 1
            assert "shared_helper" not in branch.meta["query"]
            body = (bundle.context or "").split(f"def {branch.answer}(")[1].split("\ndef ")[0]
            assert branch.meta["query"] in body


def test_what_occurs_twice_is_skipped_and_counted() -> None:
    same = "\n".join(f"def only_{n}(x):\n    return same_for_all(x, 1)\n" for n in range(6))
    own = "\n".join(f"def other_{n}(x):\n    return different_{n}(x, 1)\n" for n in range(6))
    (bundle,) = build("val:code", [Document("a", same + "\n" + own, {"kind": "code"})], 12, sets=1)
    assert bundle.meta["skipped"] == 6
    assert {branch.answer for branch in bundle.branches} == {f"other_{n}" for n in range(6)}
    # A line that is the beginning of another one is not unique either.
    longer = "def p(x):\n    return compute(x)\n\ndef q(x):\n    return compute(x) + 1234\n"
    (bundle,) = build("val:code", [Document("a", longer, {"kind": "code"})], 2, sets=1)
    assert [branch.answer for branch in bundle.branches] == ["q"]


def test_an_id_may_be_the_beginning_of_another() -> None:
    document = Document("r", "* run os a b\n* run_all re c d", {"keys": ["run", "run_all"]})
    (bundle,) = build("val:database", [document], 2, sets=1)
    assert bundle.meta["skipped"] == 0


def test_case_tells_ids_apart_but_not_phrases() -> None:
    document = Document("r", "* Queue queue a b\n* Path os path c", {"keys": ["Queue", "Path"]})
    (bundle,) = build("val:database", [document], 2, sets=1)
    assert bundle.meta["skipped"] == 0
    once, again = "Go on with the next of them now, please.", "You WITH THE NEXT OF THEM went on and on."
    texts = [Document("t", f"{once} {again}", {"kind": "text"})]
    (bundle,) = build("val:document", texts, 2, sets=1)
    for branch in bundle.branches:
        assert (bundle.context or "").lower().count(branch.meta["query"].lower()) == 1


def test_the_seed_decides() -> None:
    documents, given = text_documents(), {"size": 40, "sets": 2}
    one = built("val:document", documents, 3, **given)
    assert one == built("val:document", iter(documents), 3, **given)
    assert one[0].context != built("val:document", documents, 4, **given)[0].context


@pytest.mark.parametrize("name", ["val:document", "val:code", "val:database"])
def test_too_small_a_corpus_says_what_to_change(name: str) -> None:
    documents = text_documents(40) + code_documents(20)
    with pytest.raises(UsageError) as error:
        build(name, documents, 5000)
    assert "5000" in error.value.what
    assert re.search(r"gives [1-9]\d*", error.value.what)
    assert f"options.{name}.size=" in error.value.hint
    with pytest.raises(UsageError, match="gives 0"):
        build(name, [], 10)


@pytest.mark.parametrize(
    ("name", "documents", "words"),
    [
        ("val:document", code_documents(3), ("sentences of 8 to 60 words", "1 file of code", "prose")),
        ("val:code", text_documents(4), ("functions", "1 text,", "source code")),
    ],
)
def test_a_corpus_that_suits_no_task_says_what_it_has_and_what_is_needed(
    name: str, documents: list[Document], words: tuple[str, ...]
) -> None:
    for given in ({}, {"context_tokens": 500, "count": len}):
        with pytest.raises(UsageError) as error:
            build(name, documents, 1, **given)
        said = f"{error.value.why} {error.value.hint}"
        assert all(word in said for word in words)
        assert "lcx.evaluation" not in said
        assert "=0" not in said


def test_contexts_of_a_number_of_tokens() -> None:
    count = lambda text: len(text.split())  # noqa: E731
    bundles = build("val:database", text_documents(2000), 1, sets=3, context_tokens=600, count=count)
    assert len({bundle.meta["items"] for bundle in bundles}) == 1
    for bundle in bundles:
        assert 450 < count(bundle.context or "") <= 600
    with pytest.raises(UsageError, match="90000 tokens"):
        build("val:database", text_documents(), 1, context_tokens=90000, count=count)


def test_endless_corpora_end() -> None:
    def endless() -> Iterator[Document]:
        number = 0
        while True:
            yield from text_documents(40, number)
            number += 1

    assert len(built("val:document", endless(), size=50, sets=2)) == 2
    rows = ({**row, "id": str(n)} for n in range(10**9) for row in catalogue_documents(1, n))
    bundles = built("val:database", (Document(**row) for row in rows), size=32, sets=40)
    assert len(bundles) == 40


def test_functions_of_other_languages() -> None:
    source = (
        "package main\n\nfunc addAll(a int, b int) int {\n\ttotal := a + b + offset\n\treturn total\n}\n\n"
        "static int count_words(const char *s) {\n    int words_seen = 0;\n    return words_seen + 1;\n}\n\n"
        "export function drawLine(ctx, x) {\n  ctx.beginPath(x, x);\n}\n\n"
        "if (x) {\n  somethingElse(1, 2);\n}\n"
        "while (running) {\n  stepForward(1, 2);\n}\n"
    )
    found = list(items.functions(Document("x", source, {"kind": "code"}), random.Random(0)))
    assert [item.value for item in found] == ["addAll", "count_words", "drawLine"]
    assert (
        found[1].text
        == "static int count_words(const char *s) {\n    int words_seen = 0;\n    return words_seen + 1;"
    )


def test_python_heads_over_several_lines_and_broken_sources() -> None:
    source = "class A:\n    def spread(\n        self,\n        x: int = 3,\n    ) -> int:\n"
    source += "        y_value = x + 12345\n        return y_value\n"
    (item,) = items.functions(Document("x", source, {"kind": "code"}), random.Random(0))
    assert item.text == "def spread( self, x: int = 3, ) -> int:\n    y_value = x + 12345\n    return y_value"
    assert not list(
        items.functions(Document("x", "def broken(:\n  pass", {"kind": "code"}), random.Random(0))
    )


def test_settings() -> None:
    settings = EvalSettings.model_validate({"tasks": "val:code, val:database", "sizes": {"database": 32}})
    assert settings.tasks == ("val:code", "val:database")
    assert settings.options == {"val:database": {"size": 32}}, "an old name of an option"
    sizes = {one.name: one.options.size for one in plan_tasks(settings, loaded())}  # type: ignore[attr-defined]
    assert sizes == {"val:code": 800, "val:database": 32}
    assert options_of(task("val:database"), {}).size == 750
    own = {"tasks": "val:code", "sizes": {"code": 9}, "options": {"val:code": {"size": 7}}}
    assert EvalSettings.model_validate(own).options == {"val:code": {"size": 7}}, "the new name wins"
    other = {"tasks": "val:code,my:lines", "sizes": {"lines": 4, "own:task": 5}}
    assert EvalSettings.model_validate(other).options == {"my:lines": {"size": 4}, "own:task": {"size": 5}}
    with pytest.raises(UsageError, match="databse"):
        validate(EvalSettings, {"sizes": {"databse": 3}}, where="eval")
    with pytest.raises(UsageError, match="Did you mean 'too_long'"):
        validate(EvalSettings, {"to_long": "drop"}, where="eval")
    assert "batch" in EvalSettings.volatile()
