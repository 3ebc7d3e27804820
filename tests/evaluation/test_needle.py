"""Needles in text: each stands where it was asked for, fills the length, and has one answer that is nowhere else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from lcx.data.assembly import Assembler
from lcx.errors import UsageError
from lcx.evaluation.probes import haystack as filler
from lcx.evaluation.probes.needle import NEEDLE, draw_needles
from lcx.evaluation.statistics.grids import default_lengths, depth_points
from lcx.records import Bundle, Document
from tests.data.tokenizers_for_tests import byte_level
from tests.evaluation.tasks import build, row_of, score_predictions

FACT = re.compile(r"The storage code of the (\w+ \w+) is (\d+)\.")
ANSWER = 16


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="</s>", bos_token="<s>")


@pytest.fixture(scope="module")
def encode(tokenizer: Any) -> Callable[[Bundle], Any]:
    return Assembler(tokenizer, "in2").encode


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Paragraphs of sentences of 4 to 14 words; no sentence occurs twice."""
    rng = random.Random(5)
    words = ("river", "mill", "grain", "evening", "harbour", "signal", "letter", "winter", "copper", "garden")
    made = []
    for number in range(12):
        paragraphs = []
        for part in range(4):
            sentences = [
                " ".join(rng.choices(words, k=rng.randint(3, 13))).capitalize() + f" {number}-{part}-{k}."
                for k in range(6)
            ]
            paragraphs.append(" ".join(sentences))
        made.append(Document(f"d{number}", "\n\n".join(paragraphs), {"kind": "text"}))
    return made


@pytest.fixture(scope="module")
def options(tokenizer: Any, encode: Callable[[Bundle], Any]) -> Callable[..., dict[str, Any]]:
    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt(bundle: Bundle) -> int:
        encoded = encode(bundle)
        return len(encoded.prefix) + max(branch.answer_start for branch in encoded.branches) + ANSWER

    def make(**more: Any) -> dict[str, Any]:
        known = {"count": count, "prompt_tokens": prompt}
        return {**known, "lengths": (900, 2500), "depths": 5, "sets": 2, **more}

    return make


def places(tokenizer: Any, bundle: Bundle) -> tuple[int, list[tuple[str, str, int, int]]]:
    """Tokens of the context, and (key, value, tokens before it, own tokens) of each fact, by one tokenisation."""
    context = bundle.context or ""
    starts = [start for start, _ in tokenizer(context, return_offsets_mapping=True)["offset_mapping"]]
    found = []
    for match in FACT.finditer(context):
        before = sum(start < match.start() for start in starts)
        found.append((match[1], match[2], before, sum(start < match.end() for start in starts) - before))
    return len(starts), found


def test_needles_stand_at_their_depths(
    tokenizer: Any, encode: Any, documents: list[Document], options: Callable[..., dict[str, Any]]
) -> None:
    bundles = build(NEEDLE, documents, 0, **options())
    assert [bundle.id for bundle in bundles] == [f"needle:0:{s}:{n}" for s in (0, 1) for n in (900, 2500)]
    longest = max(len(tokenizer(text)["input_ids"]) for one in documents for text in filler.cut(one))
    assert longest < 100
    for bundle in bundles:
        length = bundle.meta["length"]
        encoded = encode(bundle)
        used = len(encoded.prefix) + max(branch.answer_start for branch in encoded.branches) + ANSWER
        assert length - longest <= used <= length, "as full as whole sentences allow, and never too full"
        total, found = places(tokenizer, bundle)
        assert [branch.meta["depth"] for branch in bundle.branches] == [0.0, 0.25, 0.5, 0.75, 1.0]
        for branch, (key, value, before, own) in zip(bundle.branches, found, strict=True):
            assert (branch.meta["query"], branch.meta["value"], branch.answer) == (key, value, value)
            assert key in branch.question
            assert value not in branch.question
            assert abs(before - branch.meta["depth"] * (total - own)) <= longest
            assert abs(branch.meta["at"] - before / (total - own)) < 0.03
        assert found[0][2] == 0
        assert found[-1][2] + found[-1][3] == total


def _shared(one: str, other: str) -> str:
    """The beginning that two texts share, up to a full stop."""
    count = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return one[: one.rindex(".", 0, count) + 1]


def test_nothing_leaks(documents: list[Document], options: Callable[..., dict[str, Any]]) -> None:
    seen = set()
    for bundle in build(NEEDLE, documents, 0, **options()):
        context = bundle.context or ""
        facts = FACT.findall(context)
        assert len({key for key, _ in facts}) == len({value for _, value in facts}) == 5
        for key, value in facts:
            assert context.casefold().count(key) == 1
            assert context.count(value) == 1
            seen.add((key, value))
        # What is left without the facts are beginnings of documents, and each but two is whole: the pool's last
        # document and the context's are cut.
        left = " ".join(FACT.sub("", context).split())
        order = list(dict.fromkeys(re.findall(r"(\d+)-\d+-\d+\.", left)))
        cut = 0
        for number in order:
            text = " ".join(documents[int(number)].text.split())
            taken = text if left.startswith(text) else _shared(text, left)
            assert taken.endswith(".")
            cut += taken != text
            left = left.removeprefix(taken).strip()
        assert left == ""
        assert cut <= 2
    assert len(seen) == 20, "every context has facts of its own"


def test_names_that_the_corpus_has_are_not_used() -> None:
    taken = draw_needles("", 10, "s")[3]
    again = draw_needles(f"Look, the {taken.key.upper()} and {taken.value}!", 10, "s")
    assert taken.key not in {needle.key for needle in again}
    assert taken.value not in {needle.value for needle in again}
    hundred = draw_needles("", 100, "s")
    assert len({needle.key for needle in hundred}) == len({needle.value for needle in hundred}) == 100
    assert len({word for needle in draw_needles("", 26, "s") for word in needle.key.split()}) == 52


def test_one_needle_a_context(documents: list[Document], options: Callable[..., dict[str, Any]]) -> None:
    alone = build(NEEDLE, documents, 0, **options(contexts="single", sets=1))
    shared = build(NEEDLE, documents, 0, **options(sets=1))
    assert len(alone) == 10
    assert [len(bundle.branches) for bundle in alone] == [1] * 10
    assert [len(FACT.findall(bundle.context or "")) for bundle in alone] == [1] * 10
    asked = [branch.question for bundle in shared for branch in bundle.branches]
    assert [bundle.branches[0].question for bundle in alone] == asked
    assert [bundle.branches[0].meta["position"] for bundle in alone] == [0, 1, 2, 3, 4] * 2


def test_the_seed_decides(documents: list[Document], options: Callable[..., dict[str, Any]]) -> None:
    one = build(NEEDLE, documents, 3, **options())
    assert one == build(NEEDLE, iter(documents), 3, **options())
    assert one[0].context != build(NEEDLE, documents, 4, **options())[0].context
    assert one[0].context != one[2].context
    # A length's contexts do not depend on which others there are, but for the size of the pool.
    assert build(NEEDLE, documents, 3, **options(lengths=(2500,)))[0] == one[1]


def test_lengths_follow_the_window(documents: list[Document], options: Callable[..., dict[str, Any]]) -> None:
    assert default_lengths(131072) == (16384, 32768, 65536, 131072)
    assert default_lengths(40960) == (4096, 8192, 16384, 32768)
    assert default_lengths(None)[-1] == 8192
    assert default_lengths(200) == (64, 128)
    assert depth_points(3) == (0.0, 0.5, 1.0)
    assert depth_points(1) == (0.5,)
    made = build(NEEDLE, documents, 0, **options(lengths=(), window=3000, sets=1))
    assert [bundle.meta["length"] for bundle in made] == [1024, 2048], "256 and 512 cannot hold five needles"


def test_what_does_not_fit_is_said(
    documents: list[Document], options: Callable[..., dict[str, Any]], tokenizer: Any
) -> None:
    with pytest.raises(UsageError, match="300 tokens are too few for 5 needles") as short:
        build(NEEDLE, documents, 0, **options(lengths=(300, 2500)))
    assert "depths lower" in short.value.hint
    with pytest.raises(UsageError, match="needs 90000 tokens a context, but the corpus gives") as large:
        build(NEEDLE, documents, 0, **options(lengths=(90000,)))
    assert "lengths lower" in large.value.hint
    with pytest.raises(UsageError, match="too few for 5 needles"):
        build(NEEDLE, documents, 0, **options(lengths=(), window=256))
    with pytest.raises(UsageError, match="tokenizer"):
        build(NEEDLE, documents)


def test_code_is_cut_at_lines_and_serves_where_there_is_no_text() -> None:
    code = Document("c", "def f(x):\n\n    return x\n\n\nclass A:\n    pass\n", {"kind": "code"})
    parts = filler.cut(code)
    assert "".join(parts) == "\n\n" + code.text.strip()
    assert [part.strip() for part in parts] == ["def f(x):", "return x", "class A:", "pass"]
    text = Document("t", "One. Two, e.g. three! “Four?” Five", {"kind": "text"})
    assert filler.cut(text) == ["\n\nOne.", " Two, e.g. three!", " “Four?”", " Five"]
    count = lambda text: len(text.split())  # noqa: E731
    assert len(filler.gather([code, text, code], 6, count)) == 1
    assert len(filler.gather([code, text], 13, count)) == 2
    lines, _ = filler.hide([filler.Piece(part, 3) for part in parts], [filler.Piece("N.", 1)], [0.5])
    assert lines.split("\n").count("N.") == 1


def test_scores_by_cell_equal_a_naive_recount(
    documents: list[Document], options: Callable[..., dict[str, Any]]
) -> None:
    bundles = build(NEEDLE, documents, 0, **options(sets=6))
    rng = random.Random(1)
    rows, expected = [], {}
    for bundle in bundles:
        for branch in bundle.branches:
            kind = rng.choice(["right", "sentence", "part", "wrong", "null"])
            value = branch.meta["value"]
            pred = {
                "right": value,
                "sentence": f"The code is {value}. I am sure.",
                "part": f"1{value}",
                "wrong": "I do not know.",
                "null": None,
            }[kind]
            rows.append(row_of(branch, pred))
            cell = expected.setdefault((branch.meta["length"], branch.meta["depth"]), [])
            cell.append(float(kind in ("right", "sentence")))
    rng.shuffle(rows)
    result = score_predictions("needle", rows)
    assert (result["lengths"], result["depths"]) == ([900, 2500], [0.0, 0.25, 0.5, 0.75, 1.0])
    means = {}
    for i, length in enumerate(result["lengths"]):
        for j, depth in enumerate(result["depths"]):
            cell = expected[length, depth]
            means[length, depth] = sum(cell) / len(cell)
            assert result["cells"][i][j] == pytest.approx(means[length, depth])
            assert result["counts"][i][j] == len(cell) == 6
    assert result["n"] == 60
    assert result["nulls"] == sum(row["pred"] is None for row in rows)
    assert result["average"] == pytest.approx(sum(means.values()) / 10)
    assert result["score"] == pytest.approx(10 * sum(means.values()))
    assert result["worst"]["score"] == min(means.values())
    assert means[result["worst"]["length"], result["worst"]["depth"]] == min(means.values())
    assert result["gap"] == pytest.approx(max(means.values()) - min(means.values()))
    assert result["by_length"][0] == pytest.approx(sum(v for (x, _), v in means.items() if x == 900) / 5)
    assert result["by_depth"][4] == pytest.approx(sum(v for (_, y), v in means.items() if y == 1.0) / 2)
    assert NEEDLE.score({"pred": "8123456", "value": "812345"}) == 0.0


def test_cells_without_answers_are_neither_zero_nor_missing() -> None:
    row = {"set_id": 0, "position_id": 0, "query": "k", "value": "v", "depth": 0.0}
    rows = [
        {**row, "length": 8, "pred": "v"},
        {**row, "length": 16, "pred": None, "skip": True},
    ]
    result = score_predictions("needle", rows)
    assert result["cells"] == [[1.0], [None]]
    assert result["counts"] == [[1], [0]]
    assert (result["average"], result["by_length"], result["skipped"]) == (1.0, [1.0, None], 1)
    with pytest.raises(UsageError, match="needs the field 'length'"):
        score_predictions("needle", [{**row, "pred": "v"}])
    with pytest.raises(UsageError, match="'depth' is a number"):
        score_predictions("needle", [{**row, "length": 8, "depth": "x", "pred": "v"}])
