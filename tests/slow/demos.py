"""Demos of several seeds side by side: each keeps one core busy, so that two cores do two in the time of one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Demo:
    """`lcx demo --json` in a process of its own."""

    def __init__(self, program: str, words: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self.told, self.said = folder / "out.json", folder / "err.log"
        command = [program, "demo", "--json", *words, "--out", str(folder / "demo")]
        with self.told.open("w") as out, self.said.open("w") as err:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    def result(self) -> Any:
        """What it printed, once it has ended well."""
        assert self.process.wait() == 0, self.said.read_text()[-3000:]
        return json.loads(self.told.read_text())


@contextmanager
def demos(program: str, folder: Path, seeds: Sequence[int], *words: str) -> Iterator[dict[int, Demo]]:
    """A running demo for each seed; those that still run at the end of the block are stopped."""
    running = {seed: Demo(program, [*words, "--seed", str(seed)], folder / f"seed{seed}") for seed in seeds}
    try:
        yield running
    finally:
        for demo in running.values():
            demo.process.kill()
            demo.process.wait()
