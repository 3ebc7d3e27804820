"""What may come from a stranger, and what it cannot do: each test bears the number of the line of SECURITY.md it holds.

Every case runs in a folder of its own, `box`, beside a folder `victim`; afterwards the tree around it has the digest
that it had before, and nothing was connected to but this machine.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SYNTH = "method: in2\nsteps:\n  - stage: synth\n    corpus: stdlib:records:2\n    tokenizer: words\n"


def tree(folder: Path) -> str:
    """A digest of names, kinds, links and contents below a folder."""
    found = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(root, name)
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            found.update(repr((str(path), what)).encode())
    return found.hexdigest()


class Sandbox:
    """A working folder `box` beside a folder of somebody's files."""

    def __init__(self, around: Path) -> None:
        self.around, self.box, self.victim = around, around / "box", around / "victim"
        self.box.mkdir()
        self.victim.mkdir()
        (self.victim / "thesis.txt").write_text("ten years of work")
        (self.victim / "link").symlink_to("thesis.txt")

    def outside(self) -> str:
        """The digest of everything but what lies in `box`."""
        return tree(self.victim) + str(sorted(path.name for path in self.around.iterdir()))

    def recipe(self, text: str | bytes, name: str = "r.yaml") -> str:
        file = self.box / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"./{name}"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path)
    before = made.outside()
    monkeypatch.chdir(made.box)
    connected: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield made
    assert made.outside() == before, "something outside the folder changed"
    strange = [
        one for one in connected if isinstance(one, tuple) and one[0] not in ("127.0.0.1", "::1", "localhost")
    ]
    assert not strange


LAUGHS = "".join(
    f"      k{n}: &b{n} [{','.join(['*b' + str(n - 1)] * 9) if n else 'lol'}]\n" for n in range(9)
)
BAD_NAMES = [
    "../victim", "..", ".", "/tmp/x", "a/b", "x\ny", "a\0b", "a" * 300, "-rf", ".lock", "\x1b[31mred", "\u200b", " ",
    "manifest.json", "Report.html", "caf\u00e9", "a\\b", "", "~", "a b", "x" * 65, "\u202eabc",
]  # fmt: skip
BAD_YAML = {
    "a key given twice": (SYNTH + "    corpus: other\n", "line 6: 'corpus' is given again"),
    "steps given twice": (SYNTH + "steps:\n  - stage: train\n", "line 6: 'steps' is given again"),
    "aliases that multiply": (SYNTH + "    llm_options:\n" + LAUGHS, "more than 50,000 values"),
    "an alias of itself": (SYNTH + "    llm_options: &s\n      me: *s\n", "*s holds itself"),
    "a number of 5,000 digits": (SYNTH + f"    seed: {'9' * 5000}\n", "a number of 5,000 digits"),
    "a number of 5,000 digits as a text": (SYNTH + f"    seed: '{'9' * 5000}'\n", "'seed'"),
    "a number of 100 digits as a text": (SYNTH + f"    seed: '{'9' * 100}'\n", "more than 64 bits"),
    "deep lists": (SYNTH + f"    llm_options: {'[' * 2000}{']' * 2000}\n", "nested deeper than 40"),
    "deep lists without an end": (SYNTH + "    llm_options: " + "[" * 100_000, "nested deeper than 40"),
    "depth by aliases": (
        SYNTH + "    llm_options:\n      a: &a " + "[" * 30 + "]" * 30 + "\n      b: " + "[" * 30 + "*a" + "]" * 30,
        "nested deeper than 40",
    ),
    "30,000 steps": ("method: in2\nsteps:\n" + "  - stage: synth\n" * 30_000, "more than 50,000 values"),
    "101 steps": ("method: in2\nsteps:\n" + "".join(map("  - {{stage: synth, id: s{}}}\n".format, range(101))), "101"),
    "2 MiB": ("#" * (2 << 20), "larger than 1 MiB"),
    "an infinity": (SYNTH + "    temperature: .inf\n", ".inf is no number"),
    "no number": (SYNTH + "    llm_options: {x: -.NaN, y: .NaN}\n", ".NaN is no number"),
    "a number past all floats": (SYNTH + "    temperature: 1e999\n", "1e999 is no number"),
    "an infinity in words": (SYNTH + "    temperature: inf\n", "finite number"),
    "UTF-16": (SYNTH.encode("utf-16"), "not valid YAML"),
    "NUL": (SYNTH + "    llm: 'a\0b'\n", "not valid YAML"),
    "NUL, escaped": (SYNTH + '    llm: "a\\0b"\n', "NUL"),
    "half a surrogate pair": (SYNTH + '    llm: "\\ud800"\n', "line 6"),
    "code": (SYNTH + "    llm: !!python/object/apply:os.system ['touch ../victim/x']\n", "the tag !!python/object"),
    "a function": (SYNTH + "    llm: !function os.system\n", "the tag !function"),
    "bytes": (SYNTH + "    llm: !!binary aGVsbG8=\n", "the tag !!binary"),
    "two documents": (SYNTH + "---\n" + SYNTH, "a second document"),
    "a key that is a list": (SYNTH + "    ? [a]\n    : 1\n", "a key is one word"),
    "a name that is a list": ("name: [a]\n" + SYNTH, "'name' is a text"),
    "clock": (SYNTH + "    concurrency: 1:30\n", "not '1:30'"),
    "ids that differ in capitals": (
        "method: in2\nsteps:\n  - {id: a, stage: synth}\n  - {id: A, stage: train}\n", "'a' and 'A'"
    ),
}  # fmt: skip


def commands(file: str) -> list[list[str]]:
    return [["recipes", "validate", file], ["recipes", "show", file], ["run", "--recipe", file, "--dry-run"]]


def test_1_names_that_lead_elsewhere_are_refused(sandbox: Sandbox, cli: Callable) -> None:
    for number, name in enumerate(BAD_NAMES):
        escaped = "".join(f"\\U{ord(sign):08x}" for sign in name)
        for text in (SYNTH + f'    id: "{escaped}"\n', f'name: "{escaped}"\n' + SYNTH):
            if not name and text.startswith("name"):
                continue  # an empty name is none: the file's own is taken
            file = sandbox.recipe(text, f"r{number}.yaml")
            before = tree(sandbox.box)
            for words in commands(file):
                ran = cli(*words)
                assert ran.code == 2, (name, words)
                assert "bug" not in ran.err
            assert tree(sandbox.box) == before


@pytest.mark.parametrize("kind", BAD_YAML)
def test_2_a_file_of_settings_holds_plain_values_only(kind: str, sandbox: Sandbox, cli: Callable) -> None:
    text, message = BAD_YAML[kind]
    file = sandbox.recipe(text)
    before = tree(sandbox.box)
    for words in commands(file):
        ran = cli(*words)
        assert ran.code == 2, ran
        assert message in ran.out + ran.err
        assert len(ran.out + ran.err) < 1500
    assert tree(sandbox.box) == before


def test_2_values_are_what_they_look_like(sandbox: Sandbox, cli: Callable) -> None:
    text = (
        "name: no\nmethod: in2\nsteps:\n  - stage: synth\n    id: yes\n    corpus: 2001-01-01\n    seed: 010\n"
        "    examples: 1_000\n    tokenizer: on\n    temperature: 1e-1\n"
        "    llm_options: {a: &a {n: 1.50, b: 0x1f}, c: {<<: *a, n: no}}\n"
    )
    ran = cli("recipes", "show", sandbox.recipe(text), "--json")
    assert ran.code == 0, ran.err
    step = ran.json["steps"][0]
    found = step["settings"]
    assert (ran.json["name"], step["id"]) == ("no", "yes")
    names = ("corpus", "seed", "examples", "tokenizer", "temperature")
    assert [found[name] for name in names] == ["2001-01-01", 10, 1000, "on", 0.1]
    assert found["llm_options"] == {"a": {"n": 1.5, "b": "0x1f"}, "c": {"n": "no", "b": "0x1f"}}
