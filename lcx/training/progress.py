"""Progress of a training run on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from transformers import TrainerCallback

LINE_SECONDS = 15.0
"""Seconds between plain lines."""


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def count(number: float) -> str:
    """`950`, `12.3K`, `4.5M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


class ProgressCallback(TrainerCallback):
    """Shows step, loss, tokens a second and the time left. `tokens()` is the number of tokens seen so far."""

    def __init__(
        self, console: Console, tokens: Callable[[], int], losses: Callable[[], float | None]
    ) -> None:
        self.console, self.tokens, self.losses = console, tokens, losses
        self.bar: Progress | None = None
        self.began = self.said = 0.0
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, and the bar where there is a terminal."""
        if not state.is_world_process_zero:
            return
        self.began = self.said = time.monotonic()
        self.first_step = state.global_step
        if state.global_step:
            self.console.print(f"resumed at step {state.global_step} of {state.max_steps}", markup=False)
        if self.console.is_terminal and not self.console.quiet:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.bar.add_task("", total=state.max_steps, completed=state.global_step, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar, or print a line where the last one is some seconds old."""
        if not state.is_world_process_zero:
            return
        note = self._note(state)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=state.global_step, note=note)
        elif time.monotonic() - self.said >= LINE_SECONDS or state.global_step == state.max_steps:
            self.said = time.monotonic()
            self.console.print(f"step {state.global_step}/{state.max_steps}  {note}", markup=False)

    def close(self) -> None:
        """Take the bar away, also after an error."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _note(self, state: Any) -> str:
        spent = time.monotonic() - self.began
        left = spent / max(1, state.global_step - self.first_step) * (state.max_steps - state.global_step)
        loss = self.losses()
        parts = [f"loss {loss:.4f}"] if loss is not None else []
        if self.tokens():
            parts.append(f"{count(self.tokens() / max(spent, 1e-9))} tokens/s")
        return "  ".join([*parts, f"{clock(left)} left"])
