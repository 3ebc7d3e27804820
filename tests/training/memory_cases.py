"""Real training steps whose memory is measured, and the same steps as the forecast sees them.

As a program it measures cases from stdin, each in a fork of a process that has imported everything, and prints
the peak of resident memory less what the fork began with:

    python -m tests.training.memory_cases MODELS < cases.json
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "square": {"layers": 4, "hidden": 256, "heads": 8, "kv_heads": 2, "intermediate": 688, "vocab": 8192},
    "deep": {"layers": 12, "hidden": 160, "heads": 5, "kv_heads": 5, "intermediate": 432, "vocab": 2048},
    "wide": {"layers": 2, "hidden": 320, "heads": 5, "kv_heads": 1, "intermediate": 864, "vocab": 49152},
    "small": {"layers": 3, "hidden": 128, "heads": 4, "kv_heads": 2, "intermediate": 352, "vocab": 1024},
    "large": {"layers": 2, "hidden": 1024, "heads": 16, "kv_heads": 16, "intermediate": 2304, "vocab": 4096},
    "flat": {"layers": 1, "hidden": 2048, "heads": 16, "kv_heads": 16, "intermediate": 3072, "vocab": 2048},
    "broad": {"layers": 1, "hidden": 1024, "heads": 16, "kv_heads": 16, "intermediate": 2304, "vocab": 16384},
}
CASE: dict[str, Any] = {
    "shape": "square",
    "context": 1024,
    "answer": 96,
    "branches": 1,
    "micro": 1,
    "passes": 1,
    "steps": 2,
    "loss": "",
    "tuning": "full",
    "checkpointing": False,
    "precision": "fp32",
    "reference": "",
    "settings": {},
    "device": "cpu",
}


def save_model(shape: str, folder: Path) -> Path:
    """A random Llama of a shape as `save_pretrained` leaves one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    one = SHAPES[shape]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=one["vocab"],
            hidden_size=one["hidden"],
            intermediate_size=one["intermediate"],
            num_hidden_layers=one["layers"],
            num_attention_heads=one["heads"],
            num_key_value_heads=one["kv_heads"],
            max_position_embeddings=1 << 20,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def forecast_of(case: dict[str, Any]) -> Any:
    """The forecast of a case, in bytes."""
    from lcx.forecast.memory import step_memory
    from lcx.forecast.model import Plan, Shape, packed_row

    case = {**CASE, **case}
    more = {"lora_targets": tuple(case["settings"].get("lora_targets", ("all-linear",)))}
    return step_memory(
        Plan(
            shape=Shape(**SHAPES[case["shape"]]),
            row=packed_row(case["context"], 0, case["answer"], case["branches"], case["micro"]),
            tuning=case["tuning"],
            precision=case["precision"],
            checkpointing=case["checkpointing"],
            passes=case["passes"],
            optimizer=case["settings"].get("optimizer", "adamw_torch"),
            reference=case["reference"],
            device=case["device"],
            **more,
        )
    )


def trainer_of(case: dict[str, Any], folder: Path, out: Path) -> Any:
    """The trainer of a case, as `lcx train` makes it, ready to run its steps."""
    import numpy as np
    from rich.console import Console

    from lcx.context import Context
    from lcx.plugins import loaded
    from lcx.records import EncodedBranch, EncodedBundle
    from lcx.training.arguments import build_model
    from lcx.training.data import fit_all
    from lcx.training.losses import find_loss, loss_options
    from lcx.training.preference import preference_trainer
    from lcx.training.runner import Prepared, shared_prefix_trainer
    from lcx.training.settings import PreferenceSettings, TrainSettings, step_shape

    case = {**CASE, **case}
    random, vocabulary = np.random.default_rng(0), SHAPES[case["shape"]]["vocab"]

    def bundle(number: int) -> EncodedBundle:
        branches = tuple(
            EncodedBranch(random.integers(3, vocabulary, case["answer"]).tolist(), 0, role)
            for role in (
                ["chosen"] + ["rejected"] * (case["branches"] - 1)
                if case["loss"]
                else [""] * case["branches"]
            )
        )
        return EncodedBundle(f"b{number}", random.integers(3, vocabulary, case["context"]), branches)

    contexts = case["micro"] * case["passes"]
    data = fit_all([bundle(number) for number in range(case["steps"] * contexts)], window=1 << 20)
    options = {
        "model": str(folder),
        "batch": contexts * (1 if case["loss"] else case["branches"]),
        "micro_batch": case["micro"],
        "tuning": case["tuning"],
        "gradient_checkpointing": case["checkpointing"],
        "precision": case["precision"],
        "save_steps": 0,
        **case["settings"],
    }
    ctx = Context(console=Console(file=io.StringIO()), device=case["device"])
    shape = step_shape(contexts, case["micro"], 1, 1.0)
    if not case["loss"]:
        settings = TrainSettings(**options)
        prepared = Prepared(settings, build_model(settings, ctx), data, shape)
        return shared_prefix_trainer(prepared, out, ctx)
    pairs = PreferenceSettings(**options, loss=case["loss"])
    loss = find_loss(loaded().losses, case["loss"])
    prepared = Prepared(pairs, build_model(pairs, ctx), data, shape)
    return preference_trainer(
        prepared, pairs, loss, loss_options(loss, {}), case["reference"], None, out, ctx
    )


def resident(field: str) -> int:
    """This process's memory in bytes: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(case: dict[str, Any], folder: Path, small: Path, out: Path) -> int:
    """Peak of resident memory of a case's steps above what this process held before.

    A step of a tiny model comes first, since libraries import much of themselves when they are first used.
    """
    from lcx.modeling.load import quiet

    tiny = {**case, "shape": "small", "context": 8, "answer": 4, "steps": 1}
    with quiet():
        trainer_of(tiny, small, out).train()
        gc.collect()
        before = resident("VmRSS")
        trainer_of(case, folder, out).train()
    return resident("VmHWM") - before


def _in_a_fork(case: dict[str, Any], folder: Path, small: Path, out: Path) -> int:
    """The measurement from a child that shares all imports and has no memory of its own yet."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(writer, str(measured(case, folder, small, out)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text)


def main() -> None:
    """Measure the cases of stdin, whose models lie in the folder of the first argument."""
    import torch

    import lcx.training.preference
    import lcx.training.runner  # noqa: F401

    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    print(
        json.dumps(
            [
                _in_a_fork(case, root / case["shape"], root / "small", root / "out")
                for case in json.load(sys.stdin)
            ]
        )
    )


if __name__ == "__main__":
    main()
