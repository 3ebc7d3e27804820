"""What steps ask of their run: the model, the tiny model trained on the spot, the folder of data, the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcx.context import Context
from lcx.data.files import ROW_ENDINGS, is_row_file
from lcx.errors import MissingError, UsageError
from lcx.hub import tiny_spec
from lcx.recipe import Step
from lcx.run import Run, cache_folder


def make_assembler(tokenizer: Any, template: str, chat: str, data: Path | None) -> Any:
    """The encoder of bundles for one tokenizer. `data` is the folder of the segment table that plans refer to."""
    from lcx.data.assembly import Assembler
    from lcx.data.table import load_table
    from lcx.data.templates import load_template, without_chat
    from lcx.data.tokens import open_token_store

    chosen = load_template(template)
    if chat == "never":
        chosen = without_chat(chosen)
    elif chat == "always" and not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "chat: always, but the tokenizer has no chat template", hint="Set chat to auto or never."
        )
    if data is None or not (data / "table.json").is_file():
        return Assembler(tokenizer, chosen)
    table = load_table(data)
    return Assembler(tokenizer, chosen, table, open_token_store(tokenizer, table, cache_folder()))


def require_model(model: str | None, step: Step, run: Run) -> str:
    """The model's path or spec behind a setting. Raises MissingError where there is none."""
    if not model:
        named = step.origins.get("tasks") == "--task"  # by the command line, which the hint repeats
        asked = f" --task {','.join(getattr(step.settings, 'tasks', ()))}" if named else ""
        raise MissingError(
            f"step '{step.id}' needs a model",
            hint=f"lcx {step.stage} --recipe {run.reference} --run {run.path} --model PATH_OR_HUB_ID{asked}",
        )
    return str(run.resolve(model, "model")) if model.startswith("step:") else model


def tiny_base(seed: int, ctx: Context, *, name: str = "tiny", fresh: bool = False) -> Path:
    """The folder of a tiny model of a seed, trained on the spot where the cache has none, with progress."""
    from lcx.training.curriculum import load_or_train_base

    def tell(stage: str, step: int, limit: int, loss: float) -> None:
        if stage == "copy" and step == 1:
            ctx.log(f"training the {name} model of seed {seed}: about a minute, cached afterwards")
        ctx.pulse(f"    {stage}: step {step} of at most {limit}, loss {loss:.3f}")

    return load_or_train_base(seed, cache_folder() / "tiny", fresh=fresh, on_progress=tell, name=name)


def ready_model(model: str, ctx: Context) -> str:
    """A model's spec; where it is the tiny model, that is trained first, so that its progress shows."""
    named = tiny_spec(model)
    return model if named is None else str(tiny_base(named[1], ctx, name=named[0]))


def bundles_folder(reference: str | None, step: Step, run: Run) -> Path:
    """The folder of bundles, or file of rows, behind `input`; `hf:NAME` passes as a path. Raises MissingError."""
    if not reference:
        raise MissingError(
            f"step '{step.id}' needs data",
            hint=f"lcx {step.stage} --recipe {run.reference} --step {step.id} --run {run.path} --input PATH "
            "(a folder of bundles, or a .jsonl file of rows with question and answer)",
        )
    if reference.startswith("hf:"):
        return Path(reference)
    place = run.resolve(reference, "data")
    if not place.is_dir() and not (place.is_file() and is_row_file(place)):
        raise MissingError(
            f"no data at '{place}'" if not place.is_file() else f"{place} is no file of rows",
            why=""
            if not place.is_file()
            else f"files of rows end with {', '.join(ROW_ENDINGS)}, and maybe .gz",
            hint="--input FOLDER with bundles-*.parquet or files of rows in it, or --input FILE.jsonl with a question "
            "and its answers in each row",
        )
    return place


def forecast_step(step: Step, run: Run, ctx: Context) -> dict[str, Any]:
    """What a train or eval step will do, from its settings and the data if that is there. Imports no torch."""
    if step.stage == "eval":
        from lcx.evaluation.planning import eval_forecast

        return eval_forecast(step)
    from lcx.training.train import forecast

    return forecast(step, run, ctx)
