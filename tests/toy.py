"""A method whose stages only count: what tests of the core and the command line run in place of a real
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lcx import hookimpl
from lcx.context import Context, StepResult
from lcx.plugins import Method
from lcx.recipe import Step
from lcx.run import Run
from lcx.settings import Settings, setting

TOY_RECIPE = """\
name: toy
method: toy
summary: three steps that only count
steps:
  - stage: synth
    examples: 5
  - stage: train
  - stage: eval
"""


class Inner(Settings):
    """Settings inside settings."""

    width: int = 1
    depth: int = 1


class ToySynth(Settings):
    """One field of each type."""

    examples: int = setting(3, ge=1, description="rows")
    rate: float = 0.5
    ratios: dict[str, float] = setting({"a": 0.5, "b": 0.5}, description="a mapping with a default")
    inner: Inner = setting(Inner(), description="nested settings")
    words: tuple[str, ...] = ()
    title: str = ""
    on: bool = False
    seed: int = 0
    threads: int = setting(1, description="speed only", json_schema_extra={"volatile": True})


class ToyTrain(Settings):
    """A step that takes data."""

    input: str | None = None
    model: str = "tiny"
    batch: int = 8
    seed: int = 0


class ToyEval(Settings):
    """A step that takes a model."""

    model: str | None = None
    tasks: tuple[str, ...] = ()
    options: dict[str, int] = setting({}, description="by task")
    sample_seed: int = 0


class Toy:
    """The plugin. `calls` remembers which steps ran; `fail` is raised by the next one."""

    def __init__(self, name: str = "toy") -> None:
        self.name = name
        self.calls: list[str] = []
        self.fail: BaseException | None = None

    @hookimpl
    def lcx_register_methods(self, register: Callable[..., None]) -> None:
        stages = {"synth": ToySynth, "train": ToyTrain, "eval": ToyEval}
        register(Method(name=self.name, summary="counts", stages=stages))

    def _stage(self, step: Step, run: Run) -> StepResult | None:
        if step.method != self.name:
            return None
        self.calls.append(step.id)
        if self.fail is not None:
            raise self.fail
        place = run.folder(step) / ("model" if step.stage == "train" else "data")
        place.mkdir(parents=True, exist_ok=True)
        (place / "rows.txt").write_text(step.id)
        return StepResult(
            counts={"rows": 3}, metrics={"score": 0.5}, files={"data": place.name}, notes=["a note"]
        )

    @hookimpl
    def lcx_synth(self, step: Step, run: Run, ctx: Context) -> StepResult | None:
        return self._stage(step, run)

    @hookimpl
    def lcx_train(self, step: Step, run: Run, ctx: Context) -> StepResult | None:
        return self._stage(step, run)

    @hookimpl
    def lcx_eval(self, step: Step, run: Run, ctx: Context) -> StepResult | None:
        return self._stage(step, run)

    @hookimpl
    def lcx_forecast(self, step: Step, run: Run, ctx: Context) -> dict[str, Any] | None:
        return {"calls": 7} if step.method == self.name else None
