"""The same seed gives the same data as ever: rows of each method's synth and score steps against committed digests.

Whoever changes them on purpose says so in the changelog and runs `python -m tests.plugins.test_same_data`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

DIGESTS = Path(__file__).with_name("same_data.json")
COMMON = ["synth.corpus=CORPUS", "synth.tokenizer=simple", "score.judge=builtin", "synth.seed=3"]
RECIPES = {
    "in2": ["synth.examples=40", "synth.context_tokens=[300,600]", "synth.segment_tokens=24"],
    "logo": ["synth.examples=16", "synth.chunks=4", "synth.segment_tokens=48", "synth.writer=builtin"],
    "longreward": [
        *("synth.examples=8", "synth.context_tokens=[200,400]", "synth.writer=builtin"),
        *("synth.llm=builtin", "synth.candidates=4", "score.tokenizer=simple"),
    ],
}
SUBJECTS = ("gannet", "heron", "plover", "curlew", "avocet", "siskin", "dunlin", "osprey")
PLACES = ("harbour", "estuary", "lighthouse", "marsh", "reservoir", "orchard", "meadow", "quarry")


def write_corpus(folder: Path) -> None:
    """Documents of sentences, records and code lines, the same on every machine."""
    folder.mkdir(parents=True)
    for number in range(12):
        lines = []
        for place in range(30):
            bird, spot = SUBJECTS[(number * 7 + place) % 8], PLACES[(number * 3 + place * 5) % 8]
            lines.append(f"The {bird} of document {number} nested near the {spot} for {place + number} days.")
            if place % 5 == 0:
                lines.append(
                    f"{bird.title()} ring {number}-{place}: seen at the {spot} by {number + 2} people"
                )
        (folder / f"d{number:02}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def digests(run: Path) -> dict[str, str]:
    """A digest of the rows of every file of data, whatever wrote the file."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted(run.glob("*/data/*.parquet")):
        rows = pq.read_table(path).to_pylist()
        text = json.dumps(rows, sort_keys=True, ensure_ascii=False, default=str)
        found[str(path.relative_to(run))] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def made(recipe: str, folder: Path) -> dict[str, str]:
    """Run a recipe's synth and score steps on the corpus in a folder, and digest what they made."""
    if not (folder / "corpus").is_dir():
        write_corpus(folder / "corpus")
    words = ["run", "--recipe", recipe, "--from", "synth", "--to", "score", "--run", str(folder / recipe)]
    for text in [*COMMON, *RECIPES[recipe]]:
        words += ["--set", text.replace("CORPUS", str(folder / "corpus"))]
    done = subprocess.run([sys.executable, "-m", "lcx", *words, "-q"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return digests(folder / recipe)


@pytest.mark.parametrize(
    "recipe", [one if one != "longreward" else pytest.param(one, marks=pytest.mark.slow) for one in RECIPES]
)
def test_data_is_as_ever(recipe: str, tmp_path: Path) -> None:
    assert made(recipe, tmp_path) == json.loads(DIGESTS.read_text(encoding="utf-8"))[recipe]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("LCX_CACHE", str(Path(place) / "cache"))
        every = {name: made(name, Path(place)) for name in RECIPES}
    DIGESTS.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
