"""What this machine has for lcx, what it lacks, and the line that mends each lack.

Two parts: what can be read without PyTorch, and what only PyTorch knows. The second runs in a process of its own with
a limit of time, so that a library that cannot be imported, or ends the process, is a finding like any other:

    python -P -m lcx.doctor '{"device": "auto", "model": null}'
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcx import __version__
from lcx.errors import LcxError
from lcx.formatting import percent, several
from lcx.paths import cache_folder, runs_folder
from lcx.plugins import Plugins

__all__ = ["Finding", "examine", "healthy", "issue_text"]

GOOD, NOTE, LACK, BROKEN = "good", "note", "lack", "broken"
"""States of a finding. A `lack` is something that some commands want and others do without; `broken` stops work."""
SECONDS = 120
"""A first import of PyTorch from a cold disk takes half a minute."""
LEAST_FREE = 5
"""GB below which a disk soon stops a training: one checkpoint of an adapter with its optimizer's states."""
AGREE = 1e-4
"""Largest relative difference of log-probabilities in fp32 between a packed row and plain rows; CPUs show 2e-7."""
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes")
FASTER_CPU = ("amx_bf16", "avx512_bf16")
"""Flags of a processor that multiplies bf16 matrices faster than fp32 ones."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its group and name, its state, what was found, and what mends it."""

    group: str
    name: str
    state: str
    found: str
    mend: str = ""


def healthy(findings: Sequence[Finding]) -> bool:
    """True where nothing is broken."""
    return all(one.state != BROKEN for one in findings)


def examine(
    plugins: Plugins, *, model: str | None = None, device: str = "auto", urls: Sequence[str] = ()
) -> Iterator[Finding]:
    """Every finding, as soon as it is there: machine, libraries, plugins, keys, servers, then what PyTorch says."""
    yield from _machine()
    yield from _libraries()
    yield from _folders()
    yield from _keys()
    yield from _plugins(plugins)
    for url in urls:
        yield _server(url)
    yield from _torch(model, device)


def issue_text(findings: Sequence[Finding]) -> str:
    """The findings as Markdown, to paste into an issue. Home folders and user names are left out."""
    home = str(Path.home())
    rows = [f"{one.state:6}  {one.group} {one.name}: {one.found}".replace(home, "~") for one in findings]
    return "\n".join(
        ["<details><summary>lcx doctor</summary>", "", "```text", *rows, "```", "", "</details>"]
    )


# ---- without PyTorch


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("lcx", "version", GOOD, f"{__version__} in {sys.prefix}")
    yield Finding("lcx", "Python", GOOD, f"{version} on {platform.system()} {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory()
    found = several(cores, "core") + (f", {memory:.0f} GB of memory" if memory else "")
    flags = set(_cpu_flags())
    fast = next((flag for flag in FASTER_CPU if flag in flags), "")
    yield Finding("machine", "processor", GOOD, f"{found}, {fast}" if fast else found)
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdigit() and int(threads) < cores:
        yield Finding(
            "machine",
            "threads",
            NOTE,
            f"OMP_NUM_THREADS={threads} leaves {cores - int(threads)} of {several(cores, 'core')} idle",
            "unset OMP_NUM_THREADS",
        )


def _memory() -> float:
    """The machine's memory in GB; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return 0.0


def _cpu_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def _libraries() -> Iterator[Finding]:
    """Installed versions against the ranges that lcx declares."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in importlib.metadata.requires("lcx") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "libraries", "lcx", NOTE, "lcx runs from its source and is not installed", "pip install -e ."
        )
        return
    shown = []
    for wanted in declared:
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("libraries", wanted.name, BROKEN, "not installed", f"pip install '{wanted}'")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            found = f"{version} is installed, and lcx wants {wanted.specifier}"
            yield Finding("libraries", wanted.name, BROKEN, found, f"pip install '{wanted}'")
        elif wanted.name in LIBRARIES:
            shown.append(f"{wanted.name} {version}")
    yield Finding("libraries", "versions", GOOD, ", ".join(sorted(shown)))


def _folders() -> Iterator[Finding]:
    for name, folder, variable in (
        ("cache", cache_folder(), "LCX_CACHE"),
        ("runs", runs_folder(), "LCX_RUNS"),
    ):
        there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
        if not os.access(there, os.W_OK):
            yield Finding("disk", name, BROKEN, f"{folder} cannot be written", f"export {variable}=FOLDER")
            continue
        free = shutil.disk_usage(there).free / 1e9
        found = f"{folder}, {free:.0f} GB free" if free >= 10 else f"{folder}, {free:.1f} GB free"
        low = free < LEAST_FREE
        yield Finding("disk", name, LACK if low else GOOD, found, f"export {variable}=FOLDER" if low else "")


def _keys() -> Iterator[Finding]:
    """Which keys there are; never what they are."""
    there = [name for name in KEYS if os.environ.get(name)]
    found = ", ".join(f"{name} {'is set' if name in there else 'is not set'}" for name in KEYS)
    yield Finding("keys", "variables", GOOD if there else NOTE, found)


def _plugins(plugins: Plugins) -> Iterator[Finding]:
    for entry in plugins.entries:
        name = f"{entry.name} ({entry.package} {entry.version})"
        if entry.state == "failed":
            mend = (
                f"lcx plugins check {entry.name} shows where; without it: lcx plugins uninstall {entry.name}"
            )
            yield Finding("plugins", entry.name, BROKEN, entry.error, mend)
        elif entry.state == "off":
            yield Finding("plugins", entry.name, NOTE, f"{name} is left out by LCX_PLUGINS")
    loaded = [entry.name for entry in plugins.entries if entry.state == "loaded"]
    yield Finding("plugins", "loaded", GOOD if loaded else NOTE, ", ".join(loaded) or "none")


def _server(url: str) -> Finding:
    """Whether a server of the OpenAI API answers; no key is sent."""
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    from lcx.llm.openai import is_loopback

    base = url if "://" in url else f"http://{url}"
    base = base.rstrip("/") + ("" if base.rstrip("/").endswith("/v1") else "/v1")
    direct = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(base).hostname or "") else []
    try:
        with urllib.request.build_opener(*direct).open(f"{base}/models", timeout=10) as reply:
            listed = json.loads(reply.read(1_000_000))
        names = [str(one.get("id")) for one in listed.get("data", ()) if isinstance(one, dict)]
    except urllib.error.HTTPError as bad:
        if bad.code in (401, 403):
            return Finding("servers", base, GOOD, f"answers, and wants a key (HTTP {bad.code})")
        mend = "the address of the API ends with /v1 for most servers"
        return Finding("servers", base, BROKEN, f"HTTP {bad.code} for {base}/models", mend)
    except (OSError, ValueError, AttributeError) as bad:
        return Finding("servers", base, BROKEN, f"no answer: {bad}", "start the server, or mend the address")
    found = f"answers with {several(len(names), 'model')}: {', '.join(names[:3])}" + (
        ", ..." if names[3:] else ""
    )
    return Finding("servers", base, GOOD, found)


def _torch(model: str | None, device: str) -> Iterator[Finding]:
    """What a process of its own finds with PyTorch; its end is a finding too."""
    words = [sys.executable, "-P", "-m", "lcx.doctor", json.dumps({"model": model, "device": device})]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
        out, err, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        out, err, code = _text(late.stdout), f"no end after {SECONDS} s", -1
    found = [Finding(**row) for row in _rows(out)]
    yield from found
    if code:
        last = (err.strip().splitlines() or [f"ended with exit code {code}"])[-1]
        done_with = f" after '{found[-1].name}'" if found else ""
        yield Finding(
            "PyTorch",
            "process",
            BROKEN,
            f"the process that asks PyTorch ended{done_with}: {last}",
            "pip install --force-reinstall torch; then lcx doctor again",
        )


def _text(out: Any) -> str:
    return out.decode(errors="replace") if isinstance(out, bytes) else str(out or "")


def _rows(out: str) -> list[dict[str, str]]:
    """Lines of JSON among whatever libraries print."""
    return [json.loads(line) for line in out.splitlines() if line.startswith('{"group"')]


# ---- with PyTorch, in a process of its own


def _ask_torch(model: str | None, device: str) -> Iterator[Finding]:
    """Device, 4-bit weights, attention kernels, the named model, and whether packed rows agree with plain ones."""
    yield from _devices()
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("4-bit", lambda: _four_bits(device)),
        ("attention", lambda: _attention()),
        ("agreement", lambda: _agreement(device)),
    ]
    if model:
        checks.append(("model", lambda: _model(model)))
    for name, check in checks:
        try:
            yield from check()
        except LcxError as bad:
            yield Finding("PyTorch", name, BROKEN, f"{bad.what} {bad.why}".strip(), bad.hint)
        except Exception as bad:  # whatever a library raises is what was asked for
            yield Finding("PyTorch", name, BROKEN, f"{type(bad).__name__}: {bad}".splitlines()[0])


def _devices() -> Iterator[Finding]:
    import torch

    built = torch.version.cuda or torch.version.hip
    driver = shutil.which("nvidia-smi")
    if not torch.cuda.is_available():
        if driver and _driver_sees():
            why = f"the driver sees a GPU, and PyTorch {torch.__version__} does not"
            mend = (
                "pip install torch from the index that fits the driver (https://pytorch.org/get-started)"
                if built
                else "this PyTorch is built for the CPU: pip install --force-reinstall torch"
            )
            yield Finding("PyTorch", "GPU", BROKEN, why, mend)
        else:
            yield Finding(
                "PyTorch", "GPU", NOTE, f"none; PyTorch {torch.__version__} computes on the CPU in fp32"
            )
        return
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: fp16 or fp32 only"
        busy = free < 0.5 * total
        found = f"{card.name}, {total / 2**30:.0f} GiB ({percent(free / total)} free), {bf16}, CUDA {built}"
        mend = "nvidia-smi shows who uses it" if busy else ""
        yield Finding("PyTorch", f"GPU {number}", NOTE if busy else GOOD, found, mend)


def _driver_sees() -> bool:
    done = subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode == 0 and "GPU" in done.stdout


def _four_bits(device: str) -> Iterator[Finding]:
    """A matrix through bitsandbytes' nf4 and back."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from lcx.modeling.load import pick_device

    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(pick_device(device))
    packed, state = quantize_4bit(matrix, quant_type="nf4")
    off = float((dequantize_4bit(packed, state) - matrix).abs().mean())
    version = importlib.metadata.version("bitsandbytes")
    if not off < 0.2:  # nf4 rounds normal numbers by 0.07 on average
        yield Finding(
            "PyTorch",
            "4-bit",
            BROKEN,
            f"bitsandbytes {version} gives other weights back",
            "pip install -U bitsandbytes",
        )
    else:
        yield Finding(
            "PyTorch", "4-bit", GOOD, f"bitsandbytes {version} works on {matrix.device.type}: tuning qlora"
        )


def _attention() -> Iterator[Finding]:
    import torch

    version = next((_version(name) for name in ("flash-attn", "flash_attn") if _version(name)), "")
    if not torch.cuda.is_available():
        yield Finding("PyTorch", "attention", GOOD, "PyTorch's own kernels (flash-attn needs a GPU)")
    elif version:
        yield Finding("PyTorch", "attention", GOOD, f"flash-attn {version}")
    else:
        found = "PyTorch's own kernels; flash-attn takes less memory and time on long contexts"
        yield Finding("PyTorch", "attention", NOTE, found, "pip install 'lcx[flash]'")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _model(spec: str) -> Iterator[Finding]:
    """What a model's config says about the ways in which lcx can train and ask it."""
    from lcx.modeling.load import load_config, window
    from lcx.modeling.support import why_not_decoded, why_not_packed

    config = load_config(spec)
    size = window(config)
    yield Finding(
        "model",
        spec,
        GOOD,
        f"{config.model_type}, a window of {size:,} tokens" if size else config.model_type,
    )
    for name, reason, mend in (
        ("training", why_not_packed(config), "--set train.engine=trl trains it, a row for every branch"),
        ("answers", why_not_decoded(config), "each question is asked with its whole context"),
    ):
        state = LACK if reason else GOOD
        yield Finding(
            "model", name, state, reason or "one context for all of its branches", mend if reason else ""
        )


def _agreement(device: str) -> Iterator[Finding]:
    """Log-probabilities of a packed row against those of plain rows, on a small random Llama in fp32."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lcx.modeling.load import pick_device
    from lcx.modeling.shared_prefix import pack, use_shared_prefix
    from lcx.records import EncodedBranch, EncodedBundle

    where, vocabulary = pick_device(device), 97
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config).float().to(where).eval()
    draw = np.random.default_rng(0)
    branches = tuple(EncodedBranch(draw.integers(3, vocabulary, n).tolist(), n // 2) for n in (9, 17, 30))
    bundle = EncodedBundle("a", draw.integers(3, vocabulary, 400), branches)

    def logprobs(ids: Any, targets: Any, **more: Any) -> Any:
        logits = model(input_ids=torch.as_tensor(ids, device=where)[None], use_cache=False, **more).logits[0]
        return logits.float().log_softmax(-1), torch.as_tensor(targets, device=where)[:, None]

    plain = []
    with torch.inference_mode():
        for branch in branches:
            ids = [*bundle.prefix.tolist(), *branch.ids]
            first = len(bundle.prefix) + branch.answer_start
            found, targets = logprobs(ids, ids[first:])
            plain.append(found[first - 1 : -1].gather(-1, targets)[:, 0])
        use_shared_prefix(model, "sdpa")
        row = pack([bundle])
        found, targets = logprobs(
            row.input_ids,
            row.targets,
            position_ids=torch.from_numpy(row.position_ids)[None].to(where),
            segments=row.segments,
            logits_to_keep=torch.from_numpy(row.logit_index).to(where),
        )
        packed = found.gather(-1, targets)[:, 0]
    expected = torch.cat(plain)
    off = float((packed - expected).norm() / expected.norm())
    said = f"packed rows and plain rows differ by {off:.0e} on {where.type} (fp32)"
    if off <= AGREE:
        yield Finding("PyTorch", "agreement", GOOD, said)
    else:
        yield Finding(
            "PyTorch",
            "agreement",
            BROKEN,
            said,
            "--set train.engine=trl; please report it with `lcx doctor --issue`",
        )


def _main(given: Mapping[str, Any]) -> None:
    for finding in _ask_torch(given["model"], given["device"]):
        print(json.dumps(asdict(finding)), flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
