"""The core's train steps: from a step's settings, its model and its data to a trained model in `STEP/model`.

Free of torch and numpy when it is imported: what a step lacks is said before seconds go into loading them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcx.context import StepResult
from lcx.errors import LcxError, MissingError, UsageError

if TYPE_CHECKING:
    from lcx.data.assembly import Assembler
    from lcx.recipe import Step
    from lcx.records import Bundle
    from lcx.run import Run
    from lcx.steps import StepWork
    from lcx.training.data import TrainingData
    from lcx.training.settings import PreferenceSettings, TrainSettings

# On a CPU bitsandbytes warns at import about a kernel that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

COUNTED_BYTES = 256 << 20
"""A dry run reads data of up to so many bytes, to say how many optimizer steps there will be."""


def train_step(work: StepWork[TrainSettings]) -> StepResult:
    """Supervised fine-tuning on the bundles of `settings.input`; the model is saved in `STEP/model`."""
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    model, data = run.model(step), run.bundles(step)
    if slow := slow_adapters(step):
        ctx.log(slow)

    from lcx.data.assembly import open_assembler
    from lcx.modeling.load import load_tokenizer
    from lcx.training.data import EncodedDataset, training_bundles
    from lcx.training.runner import train_sft

    with ctx.main_first():
        settings = settings.model_copy(update={"model": ctx.ready_model(model)})
        tokenizer = load_tokenizer(settings.model or "")
        assembler = open_assembler(tokenizer, settings.template, settings.chat, data)
    for note in said_of_answers(assembler):
        ctx.log(note)
    found = training_bundles(data, step, run, ctx, supervised=True)
    dataset = EncodedDataset(found.bundles, assembler)
    held = held_out(settings, run, tokenizer, supervised=True)
    apart = EncodedDataset(*held) if held is not None else None
    result = train_sft(settings, dataset, tokenizer, run.folder(step), ctx, apart)
    result.notes += filter(None, [slow])
    return _completed(result, assembler, found)


def preference_step(work: StepWork[PreferenceSettings]) -> StepResult:
    """Preference optimisation on the bundles of `settings.input`; the model is saved in `STEP/model`."""
    step, run, ctx, settings = work.step, work.run, work.ctx, work.settings
    model, data = run.model(step), run.bundles(step)
    if slow := slow_adapters(step):
        ctx.log(slow)

    from lcx.data.assembly import open_assembler
    from lcx.modeling.load import load_tokenizer
    from lcx.training.data import training_bundles
    from lcx.training.losses import find_loss, loss_options
    from lcx.training.preference import train_preference

    loss = find_loss(ctx.plugins.losses, settings.loss)
    options = loss_options(loss, settings.given_options())
    with ctx.main_first():
        settings = settings.model_copy(update={"model": ctx.ready_model(model)})
        tokenizer = load_tokenizer(settings.model or "")
        assembler = open_assembler(tokenizer, settings.template, settings.chat, data)
    for note in said_of_answers(assembler):
        ctx.log(note)
    found = training_bundles(data, step, run, ctx)
    bundles = found.bundles
    mixed: dict[str, int] = {}
    if settings.short:
        from lcx.data.files import Rejects
        from lcx.training.data import with_short

        bundles, mixed = with_short(bundles, settings.short, rejects := Rejects(), settings.short_fields)
        if len(rejects) and ctx.rank == 0:
            rejects.write(run.folder(step) / "rejected-short.jsonl")
        ctx.log(f"{mixed['short bundles mixed in']:,} short pairs mixed in from {settings.short}")
    held = held_out(settings, run, tokenizer, supervised=False)
    result = train_preference(
        settings, loss, options, bundles, assembler, tokenizer, run.folder(step), ctx, held
    )
    result.counts.update(mixed)
    result.notes += filter(None, [slow])
    return _completed(result, assembler, found)


def held_out(
    settings: TrainSettings, run: Run, tokenizer: Any, *, supervised: bool
) -> tuple[Sequence[Bundle], Assembler] | None:
    """The bundles of `eval_input` and their encoder; None where it names nothing. Errors as of the training data."""
    from lcx.data.assembly import open_assembler
    from lcx.training.data import read_training_data

    given = settings.eval_input
    if not given:
        return None
    place = Path(given) if given.startswith("hf:") else run.resolve(given, "data")
    if not given.startswith("hf:") and not place.exists():
        raise MissingError(f"no held-out data at '{place}'", hint="--set train.eval_input=FILE of rows")
    bundles = read_training_data(place, settings.fields, supervised=supervised).bundles
    return bundles, open_assembler(tokenizer, settings.template, settings.chat, place)


LOW_RATE = 1e-5
"""A learning rate below this is one of full training; LoRA's weights begin at zero and need more."""


def slow_adapters(step: Step) -> str:
    """A sentence where adapters would be trained at a rate that nobody chose for them; else empty."""
    settings: Any = step.settings
    same = step.origins.get("tuning") == step.origins.get("learning_rate")
    if settings.tuning == "full" or settings.learning_rate >= LOW_RATE or same:
        return ""
    return (
        f"learning_rate {settings.learning_rate:g} was made for full training, and tuning is {settings.tuning}: "
        "adapters hardly move at it (1e-4 is usual: --set train.learning_rate=1e-4)"
    )


def said_of_answers(assembler: Any) -> list[str]:
    """What is worth knowing of where answers begin and end under the model's chat template."""
    from lcx.llm.prompts import opening_thought

    found = [assembler.end_note] if assembler.end_note else []
    if mark := opening_thought(assembler.turn.after).strip():
        found.append(
            f"the chat template opens a thought ({mark}) before every answer: answers without its end are learnt as "
            "thoughts (a template that opens none, or answers that begin with a thought and its end)"
        )
    return found


def _completed(result: StepResult, assembler: Any, found: TrainingData) -> StepResult:
    """The result with what was set aside, how the prompt was made, and what its tokens lost."""
    result.counts.update(found.counts)
    result.notes += [*found.notes, *said_of_answers(assembler)]
    if len(found.rejects):
        result.files["rejected"] = "rejected.jsonl"
    result.extra = {**result.extra, "prompt": assembler.info}
    lossy = assembler.store.info["lossy"] if assembler.store is not None else 0
    if lossy:
        result.counts["segments whose tokens do not decode to their text"] = lossy
    return result


def forecast(work: StepWork[TrainSettings]) -> dict[str, Any]:
    """The forecast of a train step from its settings, and from its data where that is there. Imports no torch."""
    run, ctx, values = work.run, work.ctx, work.step.values()
    found: dict[str, Any] = {
        "model": values["model"],
        "tuning": values["tuning"],
        "branches_a_step": values["batch"],
        "data": values["input"],
    }
    from lcx.forecast.report import memory_line, time_line

    longest: dict[str, int] = {}

    def timed() -> dict[str, Any]:
        steps = found.get("optimizer_steps")
        time = time_line(values, steps, ctx.device, **longest) if steps and ctx.world_size == 1 else ""
        return found | ({"time": time} if time else {})

    if memory := memory_line(values, ctx.device):
        found["memory"] = memory
    reference = str(values["input"] or "")
    if reference.startswith("step:") and run.state(reference.removeprefix("step:")) != "done":
        found["note"] = f"the data of {reference} is not there yet"
        return found
    from lcx.storage import read_json

    if reference.startswith("step:"):
        metrics = run.manifest["steps"][reference.removeprefix("step:")].get("metrics", {})
        tokens = metrics.get("context_tokens", {})
        if questions := metrics.get("questions"):
            found["questions"] = questions
            contexts = questions if "loss" in values else metrics.get("contexts", questions)
            found["optimizer_steps"] = _steps(values, contexts, questions, ctx.world_size)
        if mean := tokens.get("mean"):
            found["context_tokens"] = round(mean * metrics["contexts"])
        if most := tokens.get("most"):
            longest = {"tokens": int(most), **_sampled(run.bundles(work.step))}
            if memory := memory_line(values, ctx.device, **longest):
                found["memory"] = memory
        target = values.get("target_length")
        if target and most and most > target:
            found["note"] = f"contexts have up to {int(most):,} tokens, more than target_length {target:,}"
        return timed()
    data = Path(reference).expanduser()
    if (data / "table.json").is_file():
        found["segments"] = read_json(data / "table.json")["segments"]
    if reference and data.exists() and _size(data) <= COUNTED_BYTES:
        from lcx.training.data import read_training_data

        bundles = read_training_data(data, values.get("fields"), supervised="loss" not in values).bundles
        if "loss" in values and not values.get("short"):
            bundles = comparable_bundles(bundles)
        row, counted = longest_row(bundles, str(values["model"] or ""))
        if row:
            tokens = row["tokens"] + row["question"] + row["answer"]
            found["longest_row"] = f"{'' if counted else 'about '}{tokens:,} tokens without the template"
            if counted:
                check_longest(work.step, tokens)
            longest = row
            if memory := memory_line(values, ctx.device, **row):
                found["memory"] = memory
        found["contexts"] = len(bundles)
        branches = len(bundles) if "loss" in values else sum(len(bundle.branches) for bundle in bundles)
        found["optimizer_steps"] = _steps(values, len(bundles), branches, ctx.world_size)
    elif values["max_steps"] > 0:
        found["optimizer_steps"] = values["max_steps"]
    return timed()


SAMPLED = 32
"""Contexts of a step's data whose questions and answers are looked at."""


def _sampled(data: Path) -> dict[str, int]:
    """About how many tokens the questions and answers of a context have, and how many they are, as `Launch` has it."""
    from lcx.data.bundles import read_bundles

    bundles = read_bundles(data)[:SAMPLED]
    branches = [branch for bundle in bundles for branch in bundle.branches]
    if not branches:
        return {}
    question, answer = (
        max(1, sum(len(getattr(branch, part)) for branch in branches) // (4 * len(branches)))
        for part in ("question", "answer")
    )
    each = max(1, round(len(branches) / len(bundles)))
    return {"question": question, "answer": answer, "questions": each, "rejected": max(1, each - 1)}


def comparable_bundles(bundles: Sequence[Bundle]) -> Sequence[Bundle]:
    """The bundles that can be compared. Raises LcxError where there is none."""
    from lcx.training.data import comparable, no_pairs, screen

    found = screen(bundles)
    no_pairs(found)
    return [kept for number in found.kept if (kept := comparable(bundles[number])[0]) is not None]


ASKED_ROWS = 8
"""Of so many rows with the most characters the tokens are counted, to find the longest."""


def longest_row(bundles: Sequence[Bundle], model: str) -> tuple[dict[str, int], bool]:
    """The row of the most tokens, by fields of `Launch`, and whether its tokens were counted.

    They are where the model's tokenizer is on this machine; four characters are taken for a token elsewhere. Empty
    for bundles of segments, whose texts lie elsewhere.
    """
    from lcx.data.tokens import load_backend
    from lcx.hub import folder_of, tiny_folder, tiny_spec

    rows = [bundle for bundle in bundles if bundle.context is not None]
    if not rows or len(rows) < len(bundles):
        return {}, False

    def most(bundle: Bundle, part: str) -> str:
        return max((str(getattr(branch, part)) for branch in bundle.branches), key=len)

    def characters(bundle: Bundle) -> int:
        return len(bundle.context or "") + len(most(bundle, "question")) + len(most(bundle, "answer"))

    named = tiny_spec(model)
    spec = "" if model.startswith("step:") else model
    folder = tiny_folder(*named) if named else folder_of(spec, ("tokenizer.json",))
    backend = load_backend(folder) if folder is not None and (folder / "tokenizer.json").is_file() else None

    def tokens(text: str) -> int:
        return len(text) // 4 if backend is None else len(backend.encode(text, add_special_tokens=False).ids)

    found = []
    for bundle in sorted(rows, key=characters, reverse=True)[:ASKED_ROWS]:
        question, answer = tokens(most(bundle, "question")), tokens(most(bundle, "answer"))
        several = len(bundle.branches)
        found.append(
            {
                "tokens": max(2, tokens(bundle.context or "")),
                "question": question,
                "answer": max(1, answer),
                "questions": several,
                "rejected": max(1, several - 1),
            }
        )
    return max(found, key=lambda row: row["tokens"] + row["question"] + row["answer"]), backend is not None


def check_longest(step: Step, tokens: int) -> None:
    """Raise what training would raise of a row of so many tokens: one too long, or beyond the target length."""
    from lcx.forecast.model import known_window

    settings: Any = step.settings
    limits = {name: getattr(settings, name, None) for name in ("max_tokens", "real_length")}
    limits["the model's window"] = known_window(str(settings.model or ""), settings.rope)
    name, limit = min(((n, at) for n, at in limits.items() if at), key=lambda one: one[1], default=("", 0))
    if limit and tokens > limit:
        if settings.too_long == "error":
            raise LcxError(
                f"the longest row has {tokens:,} tokens and its template's, more than {name} of {limit:,}",
                hint="Make shorter contexts, or set too_long to drop or truncate-middle.",
            )
        tokens = limit
    target = getattr(settings, "target_length", None)
    if target and tokens > target:
        raise UsageError(
            f"a target length of {target:,} has no room for the longest row of {tokens:,} tokens and its template's",
            hint=f"--set {step.id}.target_length=N, with N above that, or a lower real_length and too_long: drop",
        )


def _steps(values: Mapping[str, Any], bundles: int, branches: int, processes: int) -> int:
    """Optimizer steps in all, as the training will say; a batch of preferences counts bundles, like `branches`."""
    from lcx.training.settings import optimizer_steps, step_shape

    if share := values.get("eval_share"):
        left = 1 - max(1, round(share * bundles)) / max(1, bundles)
        bundles, branches = round(left * bundles), round(left * branches)
    rows = values["engine"] == "trl" and "loss" not in values  # a row for each answer
    mean = 1.0 if rows else branches / max(1, bundles)
    shape = step_shape(values["batch"], 1 if rows else values["micro_batch"], processes, mean)
    return optimizer_steps(branches if rows else bundles, shape, values["epochs"], values["max_steps"])


def _size(data: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [data] if data.is_file() else data.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
