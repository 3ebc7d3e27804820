"""The core's train steps: wiring of run folder, templates and models for any method's bundles."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lcx.context import Context, StepResult
from lcx.errors import MissingError, UsageError
from lcx.hub import tiny_spec
from lcx.recipe import Step
from lcx.run import Run, cache_folder

ROW_FILES = (".jsonl", ".json", ".parquet")
"""Endings of files whose rows are training data."""

# On a CPU bitsandbytes warns at import about a kernel that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def train_step(step: Step, run: Run, ctx: Context) -> StepResult:
    """Supervised fine-tuning on the bundles of `settings.input`; the model is saved in `STEP/model`."""
    from lcx.training.settings import TrainSettings

    settings = step.settings
    assert isinstance(settings, TrainSettings)
    model = require_model(settings.model, step, run)
    data = bundles_folder(settings.input, step, run)

    from lcx.modeling.load import load_tokenizer
    from lcx.training.sft import EncodedDataset, train_sft

    with ctx.main_first():
        settings = settings.model_copy(update={"model": ready_model(model, ctx)})
        tokenizer = load_tokenizer(settings.model or "")
        assembler = make_assembler(tokenizer, settings.template, settings.chat, data)
    bundles, aside = training_bundles(data, step, run, ctx)
    dataset = EncodedDataset(bundles, assembler)
    result = train_sft(settings, dataset, tokenizer, run.folder(step), ctx)
    return _completed(result, assembler, aside)


def preference_step(step: Step, run: Run, ctx: Context) -> StepResult:
    """Preference optimisation on the bundles of `settings.input`; the model is saved in `STEP/model`."""
    from lcx.plugins import loaded
    from lcx.training.preference_settings import PreferenceSettings

    settings = step.settings
    assert isinstance(settings, PreferenceSettings)
    model = require_model(settings.model, step, run)
    data = bundles_folder(settings.input, step, run)

    from lcx.modeling.load import load_tokenizer
    from lcx.training.preference import train_preference
    from lcx.training.preference_losses import find_loss, loss_options

    loss = find_loss(loaded().losses, settings.loss)
    named = {"beta": settings.beta, "gamma": settings.gamma, "sft_weight": settings.sft_weight}
    options = loss_options(loss, {**named, **settings.loss_options})
    with ctx.main_first():
        settings = settings.model_copy(update={"model": ready_model(model, ctx)})
        tokenizer = load_tokenizer(settings.model or "")
        assembler = make_assembler(tokenizer, settings.template, settings.chat, data)
    bundles, aside = training_bundles(data, step, run, ctx)
    mixed: dict[str, int] = {}
    if settings.short:
        from lcx.data.documents import Rejects
        from lcx.training.mixing import with_short

        bundles, mixed = with_short(bundles, settings.short, rejects := Rejects())
        if len(rejects) and ctx.rank == 0:
            rejects.write(run.folder(step) / "rejected-short.jsonl")
        ctx.log(f"{mixed['short bundles mixed in']:,} short pairs mixed in from {settings.short}")
    result = train_preference(settings, loss, options, bundles, assembler, tokenizer, run.folder(step), ctx)
    result.counts.update(mixed)
    return _completed(result, assembler, aside)


def _completed(result: StepResult, assembler: Any, aside: dict[str, int]) -> StepResult:
    """The result with what was set aside, how the prompt was made, and what its tokens lost."""
    result.counts.update(aside)
    if aside:
        result.files["rejected"] = "rejected.jsonl"
    result.extra = {**result.extra, "prompt": assembler.info}
    lossy = assembler.store.info["lossy"] if assembler.store is not None else 0
    if lossy:
        result.counts["segments whose tokens do not decode to their text"] = lossy
    return result


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
    """The folder of bundles, or file of rows, behind `input`. Raises MissingError where there is none."""
    if not reference:
        raise MissingError(
            f"step '{step.id}' needs data",
            hint=f"lcx {step.stage} --recipe {run.reference} --step {step.id} --run {run.path} --input PATH "
            "(a folder of bundles, or a .jsonl file of rows with question and answer)",
        )
    place = run.resolve(reference, "data")
    if not place.is_dir() and not (place.is_file() and place.suffix in ROW_FILES):
        raise MissingError(
            f"no data at '{place}'" if not place.is_file() else f"{place} is no file of rows",
            why="" if not place.is_file() else f"files of rows end with {', '.join(ROW_FILES)}",
            hint="--input FOLDER with bundles-*.parquet in it, or --input FILE.jsonl with a question and "
            "its answers in each row",
        )
    return place


def training_bundles(data: Path, step: Step, run: Run, ctx: Context) -> tuple[Any, dict[str, int]]:
    """The bundles of a folder, or of a file of rows, and how many rows could not be used and why."""
    if data.is_dir():
        from lcx.data.bundles import read_bundles

        bundles: Any = read_bundles(data)
        counts: dict[str, int] = {}
    else:
        from lcx.data.documents import Rejects
        from lcx.data.pair_rows import read_pair_rows

        rejects = Rejects()
        bundles = read_pair_rows(data, rejects)
        counts = {f"rows set aside: {reason}": count for reason, count in rejects.counts.items()}
        if counts and ctx.rank == 0:
            rejects.write(run.folder(step) / "rejected.jsonl")
    ctx.log(f"{len(bundles):,} bundles from {data}")
    return bundles, counts


def forecast_step(step: Step, run: Run, ctx: Context) -> dict[str, Any]:
    """What a train or eval step will do, from its settings and the data if that is there. Imports no torch."""
    values = step.values()
    if step.stage == "eval":
        from lcx.evaluation.planning import eval_forecast

        return eval_forecast(step)
    found: dict[str, Any] = {
        "model": values["model"],
        "tuning": values["tuning"],
        "branches_a_step": values["batch"],
        "data": values["input"],
    }
    from lcx.forecast.report import memory_line

    if memory := memory_line(values, ctx.device):
        found["memory"] = memory
    reference = str(values["input"] or "")
    if reference.startswith("step:") and run.state(reference.removeprefix("step:")) != "done":
        found["note"] = f"the data of {reference} is not there yet"
        return found
    from lcx.work.files import read_json

    if reference.startswith("step:"):
        record = run.manifest["steps"][reference.removeprefix("step:")]
        questions = record.get("metrics", {}).get("questions")
        mean = record.get("metrics", {}).get("context_tokens", {}).get("mean")
        if questions:
            steps = (
                values["max_steps"]
                if values["max_steps"] > 0
                else -(-questions // values["batch"]) * values["epochs"]
            )
            found |= {"questions": questions, "optimizer_steps": steps}
        if mean:
            found["context_tokens"] = round(mean * record["metrics"]["contexts"])
        most = record.get("metrics", {}).get("context_tokens", {}).get("most")
        if most and (memory := memory_line(values, ctx.device, context=int(most))):
            found["memory"] = memory
    elif (Path(reference) / "table.json").is_file():
        found["segments"] = read_json(Path(reference) / "table.json")["segments"]
    return found
