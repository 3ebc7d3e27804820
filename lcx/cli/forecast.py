"""`lcx forecast`: memory, longest context and operations of a train step, before anything loads."""

from __future__ import annotations

import contextlib
import shlex
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.forecast.cards import Card
    from lcx.forecast.model import Plan, Shape
    from lcx.forecast.report import Forecast
    from lcx.forecast.steps import Launch
    from lcx.recipe import Step

app = typer.Typer(**APP)


@app.command(
    name="forecast",
    epilog=opt.examples(
        "lcx forecast --recipe in2-qlora --shape mistral-7b --card 24",
        "lcx forecast --recipe in2 --model PATH_OR_HUB_ID --gpus 8 --strategy fsdp --card a100-80",
        "lcx forecast --shape llama3-8b --rejected 2 --tokens 8192 --set tuning=lora",
        "lcx forecast --shape layers=32,hidden=4096,heads=32,kv_heads=8,intermediate=14336,vocab=128256",
        after="What is assumed is printed with every forecast, and explained in docs/forecast.md.",
    ),
)
def forecast(
    recipe: opt.MaybeRecipe = None,
    step: opt.StepId = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="A path or hub id; its config.json is enough."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="SHAPE", help="A model's shape: a name, or layers=N,hidden=N,..."),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="CARD", help="A card by name, its GB, or cpu for this machine."),
    ] = None,
    gpus: opt.Gpus = None,
    strategy: opt.Strategy = None,
    offload: opt.Offload = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", metavar="K", help="How many machines train together.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", metavar="N", min=2, help="Context tokens (default: the recipe's most)."),
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option("--answer-tokens", metavar="N", min=1, help="Tokens of an answer.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", metavar="N", min=1, help="Questions a context, in SFT.")
    ] = None,
    rejected: Annotated[
        int | None, typer.Option("--rejected", metavar="N", min=1, help="Rejected answers a context.")
    ] = None,
    attn: opt.Attn = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            "--mfu",
            metavar="SHARE",
            min=0.01,
            max=1.0,
            help="Share of the peak reached (default: 0.4 of a card's, 0.3 of what this CPU shows).",
        ),
    ] = None,
    sets: opt.Sets = None,
    json: opt.Json = False,
) -> None:
    """Memory of a train step, the longest context that fits, and its operations; nothing is loaded."""
    from lcx.cli import show
    from lcx.errors import UsageError
    from lcx.forecast.cards import find_card
    from lcx.forecast.steps import Launch

    if (gpus or 1) < 1 or (nodes or 1) < 1 or 0 in (gpus, nodes):
        raise UsageError("--gpus and --nodes are at least 1")
    launch = Launch(
        gpus=(gpus or 1) * (nodes or 1),
        strategy=_strategy(strategy),
        offload=offload is not None,
        tokens=tokens,
        answer=answer_tokens,
        questions=questions,
        rejected=rejected,
        attn=attn,
    )
    asked = Asked(recipe, step, tuple(sets or ()), model, shape, card, launch)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not a result
        found = asked.forecast(find_card(card) if card else None, mfu)
    following = asked.next_command(found)
    if json:
        show.emit_json({**found.as_dict(), "next": following})
        return
    print(_text(found, asked.shape_text or asked.model or asked.chosen.values()["model"]))
    print(f"next: {following}")


def _strategy(text: str | None) -> str | None:
    """ddp, fsdp, zero2 or zero3 for what --strategy names: one of these, or an accelerate config."""
    from lcx.errors import UsageError
    from lcx.forecast.model import STRATEGIES
    from lcx.training.plan import find_config, strategy_of

    if text is None:
        return None
    found = strategy_of(find_config(text))
    if found not in STRATEGIES:
        raise UsageError(f"no forecast for the strategy {found} of {text}", hint="--strategy fsdp")
    return found


@dataclass(frozen=True)
class Asked:
    """What a command line asks about."""

    recipe: str | None
    step: str | None
    sets: tuple[str, ...]
    model: str | None
    shape_text: str | None
    card: str | None
    launch: Launch

    @property
    def chosen(self) -> Step:
        """The train step: the recipe's, or one of defaults."""
        return self._steps()[0]

    def _steps(self) -> tuple[Step, dict[str, Any] | None]:
        """The train step, and the values of the recipe's step that makes its data."""
        if self.recipe is None:
            return _bare_step(self.sets, preference=self.launch.rejected is not None), None
        from lcx.cli import stages

        job = stages.describe_job(stages.Request(self.recipe, sets=self.sets))
        chosen = stages.pick_step(job.recipe, "train", self.step)
        steps = {one.id: one for one in stages.resolve(job, {}, chosen)}
        maker = next((one for one in steps.values() if one.stage == "synth"), None)
        return steps[chosen], maker.values() if maker else None

    def forecast(self, card: Card | None, mfu: float | None) -> Forecast:
        """The forecast of the step on a card, or on none in particular."""
        from lcx.forecast.report import Forecast
        from lcx.forecast.steps import plan_step

        step, synth = self._steps()
        values = step.values()
        shape, adapter = self._shape(values)
        options: dict[str, Any] = {"card": card, "synth": synth, "adapter_given": adapter}
        plan, about = plan_step(values, shape, self.launch, **options)

        def replan(context: int) -> Plan:
            return plan_step(values, shape, self.launch, context=context, **options)[0]

        return Forecast(plan, about, card, mfu, replan)

    def _shape(self, values: dict[str, Any]) -> tuple[Shape, bool]:
        """The model's shape, and whether the model is an adapter already."""
        from lcx.errors import MissingError, UsageError
        from lcx.forecast.model import SHAPE_HINT, is_adapter, parse_shape, shape_of_model

        if self.shape_text and self.model:
            raise UsageError("--model and --shape both say what the model is", hint="Give one of them.")
        if self.shape_text is not None:
            return parse_shape(self.shape_text), False
        spec = self.model or values["model"]
        if not spec:
            raise MissingError(
                "a forecast needs a model or a shape", hint=f"--model PATH_OR_HUB_ID, or {SHAPE_HINT}"
            )
        if spec.startswith("step:"):
            raise MissingError(
                f"the model of {spec} is not known before that step has run",
                hint=f"--model PATH_OR_HUB_ID of what it starts from, or {SHAPE_HINT}",
            )
        shape = shape_of_model(spec)
        window = (values.get("rope") or {}).get("max_position_embeddings")
        return replace(shape, window=int(window)) if window else shape, is_adapter(spec)

    def next_command(self, found: Forecast) -> str:
        """The command that trains, where the step fits, and else the forecast of a change that makes it fit."""
        words = ["--recipe", self.recipe] if self.recipe else []
        words += ["--step", self.step] if self.step else []
        words += ["--model", self.model] if self.model else []
        sets = [word for text in self.sets for word in ("--set", text)]
        if found.fits is False:
            words += ["--shape", self.shape_text] if self.shape_text else []
            change = found.changed().format(step=self.chosen.id)
            launch = self.launch
            for name, value in (
                ("--tokens", launch.tokens),
                ("--card", self.card),
                ("--gpus", launch.gpus if launch.gpus > 1 else None),
                ("--strategy", launch.strategy),
                ("--offload", "cpu" if launch.offload else None),
                ("--answer-tokens", launch.answer),
                ("--questions", launch.questions),
                ("--rejected", launch.rejected),
                ("--attn", launch.attn),
            ):
                words += [name, str(value)] if value and name not in change else []
            return f"lcx forecast {shlex.join([*words, *sets])} {change}"
        if self.recipe is None:
            return "lcx recipes list"
        if found.plan.gpus > 1:
            words += ["--gpus", str(found.plan.gpus), "--strategy", found.plan.strategy]
        words += ["--offload", "cpu"] if found.plan.offload else []
        return shlex.join(["lcx", "train", *words, *sets])


def _bare_step(sets: tuple[str, ...], preference: bool) -> Step:
    """A train step without a recipe: the settings' own defaults, with --set on top."""
    from lcx.recipe import Step, parse_set
    from lcx.settings import validate
    from lcx.training.settings import PreferenceSettings, TrainSettings

    given = {key: value for _, key, value in (parse_set(text, ["train"], "train") for text in sets)}
    preference = preference or "loss" in given
    if preference:
        given.setdefault("loss", "logo")
    schema = PreferenceSettings if preference else TrainSettings
    return Step("train", "train", "preference", "", validate(schema, given, where="--set"))


def _text(found: Forecast, name: str) -> str:
    """The forecast for people."""
    from lcx.cli import show
    from lcx.forecast.report import (
        amount,
        cards_that_fit,
        counted,
        elsewhere_line,
        gib,
        table_rows,
        whole_seconds,
    )
    from lcx.progress import duration

    plan, memory, flops = found.plan, found.memory, found.flops
    tuning = plan.tuning if plan.tuning == "full" else f"{plan.tuning} of rank {plan.lora_r}"
    where = "the CPU" if plan.device == "cpu" else "1 GPU"
    if plan.gpus > 1 or plan.strategy != "single":
        where = f"{plan.gpus} GPUs ({plan.strategy}{', offload cpu' if plan.offload else ''})"
    lines = [
        f"{name}: {amount(plan.shape.parameters)} parameters"
        + (f", and {amount(plan.trained)} of adapters" if plan.tuning != "full" else ""),
        f"{tuning}, {plan.precision}, on {where}, checkpointing {'on' if plan.checkpointing else 'off'}",
        "",
        show.table(
            table_rows(found.both()),
            ("GiB" if plan.device == "cpu" else "GiB a GPU", "checkpointing", "without"),
        ),
        *([line] if (line := elsewhere_line(found)) else []),
        "",
    ]
    if found.card is not None:
        verdict = "fits" if found.fits else "does not fit"
        name = "this machine" if plan.device == "cpu" else found.card.name
        lines.append(f"{verdict} {name}: {gib(memory.total)} of {found.card.gib:,.4g} GiB")
    else:
        lines.append(f"fits: {', '.join(cards_that_fit(memory)) or 'no card known by name'}")
    rows = [
        (f"{row['gib']:,.4g} GiB", f"{row['with_checkpointing']:,}", f"{row['without_checkpointing']:,}")
        for row in found.contexts()
    ]
    lines += ["", show.table(rows, ("longest context in", "checkpointing", "without")), ""]
    seconds = found.seconds()
    lines.append(
        f"a step: {flops.tokens:,} tokens, {flops.model:.3g} FLOPs ({flops.hardware:.3g} with those done twice)"
        + (f", about {seconds:,.3g} s" if seconds is not None else "")
    )
    steps = found.about.get("steps")
    if steps and (whole := whole_seconds(steps, seconds)) is not None:
        lines.append(
            f"the whole: {steps * flops.tokens:,} tokens in {counted(steps, 'step')}, at most about {duration(whole)}"
        )
    lines += [f"assumed: {text}" for text in found.assumptions()]
    return "\n".join(lines)
