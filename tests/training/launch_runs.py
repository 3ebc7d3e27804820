"""What tests of several processes share: a run whose data is there, a small random model, and a plugin that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETTINGS = {
    "epochs": "4",
    "batch": "64",
    "micro_batch": "4",
    "learning_rate": "1e-3",
    "logging_steps": "1",
    "save_steps": "4",
}
SABOTEUR = '''
"""Fails in the second process, as SABOTAGE says; or waits in all until the file is there that it names."""
import os, signal, time
from lcx import hookimpl

@hookimpl(wrapper=True)
def lcx_train(step, run, ctx):
    from lcx.errors import MissingError
    from lcx.training.runner import SharedPrefixTrainer
    plain = SharedPrefixTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        if os.environ["SABOTAGE"].startswith("/"):
            while self.state.global_step == 5 and not os.path.exists(os.environ["SABOTAGE"]):
                time.sleep(0.01)
        elif ctx.rank == 1 and self.state.global_step == 2:
            if os.environ["SABOTAGE"] == "typed":
                raise MissingError("the second process lacks a thing", why="it was told so", hint="give it one")
            if os.environ["SABOTAGE"] == "bug":
                raise ZeroDivisionError("in the second process")
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *args, **kwargs)

    SharedPrefixTrainer.compute_loss = compute_loss
    return (yield)
'''


MARK = "LAUNCH_TEST_RUN"
"""Variable by which the processes of a run are known."""


def variables(run: Path) -> dict[str, str]:
    """What a run's processes find in their environment."""
    return {**os.environ, "OMP_NUM_THREADS": "1", MARK: str(run)}


@dataclass
class Start:
    """A run whose synth step is done, and a model to train on it."""

    program: str
    run: Path
    model: Path

    def words(self, run: Path, *more: str, **settings: str) -> list[str]:
        """`lcx train` on a copy of the run."""
        if not run.exists():
            shutil.copytree(self.run, run)
        sets = [
            word
            for key, value in {**SETTINGS, **settings}.items()
            for word in ("--set", f"train.{key}={value}")
        ]
        words = [self.program, "train", "--recipe", "in2-tiny", "--run", str(run), "--model", str(self.model)]
        return [*words, *sets, *more]

    def train(
        self, run: Path, *more: str, environment: dict[str, str] | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.words(run, *more, **settings),
            capture_output=True,
            text=True,
            env=variables(run) | (environment or {}),
            check=False,
        )


def prepare(program: str, folder: Path) -> Start:
    """40 contexts of 8 records each, and a model of two layers that never saw any."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lcx.modeling.tiny import load_world

    sets = ["synth.examples=320", "synth.context_tokens=[103, 103]"]
    words = [program, "synth", "--recipe", "in2-tiny", "--run", str(folder / "run")]
    subprocess.run([*words, *(w for s in sets for w in ("--set", s))], check=True, capture_output=True)
    world = load_world()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(world.tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            initializer_range=0.2,
        )
        LlamaForCausalLM(config).save_pretrained(folder / "model")
    world.tokenizer.save_pretrained(folder / "model")
    return Start(program, folder / "run", folder / "model")


def curve(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "train/curve.json").read_text())
    return found


def losses(run: Path) -> list[float]:
    assert [point["step"] for point in curve(run)] == list(range(1, len(curve(run)) + 1))
    return [point["loss"] for point in curve(run)]


def worst(one: Path, two: Path) -> float:
    """The largest relative distance between weights of the same name of two trained models."""
    from lcx.modeling.load import load_model

    a, b = (dict(load_model(run / "train/model", device="cpu").state_dict()) for run in (one, two))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).norm() / b[name].norm().clamp(min=1e-12)) for name in a)


def saboteur(folder: Path, sabotage: str) -> dict[str, str]:
    """Variables that make lcx find the failing plugin as if it were installed, and tell it what to do."""
    info = folder / "lcx_saboteur-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lcx-saboteur\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lcx]\nsaboteur = lcx_saboteur\n")
    (folder / "lcx_saboteur.py").write_text(SABOTEUR)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHON": sys.executable,
        "SABOTAGE": sabotage,
    }
