"""`lcx export` and `lcx import`: models and data for other programs, and rows from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lcx.cli import options as opt

if TYPE_CHECKING:
    from lcx.data.formats import Written

app = typer.Typer(
    **opt.APP,
    no_args_is_help=True,
    epilog=opt.examples(
        "lcx export model runs/in2 --to my-model",
        "lcx export data runs/in2/synth --format trl-sft --to rows.jsonl",
    ),
)
import_app = typer.Typer(**opt.APP)

Source = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="A step's folder, a folder of bundles, or rows: a file, hf:NAME."),
]
To = Annotated[str, typer.Option("--to", metavar="FILE", help="Where to write: a .jsonl or .json file.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]
Form = Literal["trl-sft", "trl-preference", "trl-prompt", "sharegpt", "messages", "longbench"]


@app.callback()
def export_callback() -> None:
    """A model or data in a form that other programs read."""


@app.command(
    name="model",
    epilog=opt.examples(
        "lcx export model runs/in2 --to my-model",
        "lcx export model runs/in2/train/model --to my-model --dtype bf16",
        "lcx export model model.gguf --to my-model",
        after="The folder loads in transformers, peft, TRL, vLLM and `transformers serve`.",
    ),
)
def export_model(
    source: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a model's folder or adapter, a GGUF file or a name."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="The folder to write.")],
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option("--dtype", help="Precision of the weights (default: the base's)."),
    ] = "auto",
    step: Annotated[
        str, typer.Option("--step", metavar="STEP", help="Which train step of a run (default: the last).")
    ] = "",
    push: Annotated[
        str, typer.Option("--push", metavar="REPO", help="Push it to this repository of the hub, too.")
    ] = "",
    force: Force = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write a model with its adapter merged, tokenizer, generation settings and a model card."""
    from lcx.cli import show
    from lcx.context import stderr_console
    from lcx.evaluation.export import blocks_of_run
    from lcx.training.export import export_model, find

    console = stderr_console(opt.STATE.quiet)
    found = find(source, step)
    folder = export_model(
        found,
        to,
        dtype=dtype,
        push=push,
        force=force,
        evaluations=blocks_of_run(found.run, f"step:{found.step}") if found.run else (),
        say=lambda text: console.print(text, markup=False, soft_wrap=True),
    )
    if json:
        show.emit_json({"model": str(folder), "files": sorted(file.name for file in folder.iterdir())})
        return
    print(f"wrote {folder}")
    if push:
        print(f"pushed to https://huggingface.co/{push}")


@app.command(
    name="data",
    epilog=opt.examples(
        "lcx export data runs/in2/synth --format trl-sft --to rows.jsonl",
        "lcx export data runs/logo/synth --format trl-preference --to pairs.jsonl --template in2",
        after="Contexts stand in the first user's words, as --template puts them there. What a format has no place "
        "for is counted and said.",
    ),
)
def export_data(
    source: Source,
    form: Annotated[Form, typer.Option("--format", help="Who is to read it.")],
    to: To,
    template: Annotated[
        str,
        typer.Option(
            "--template", metavar="TEMPLATE", help="Words around context and question (default: plain)."
        ),
    ] = "plain",
    fields: opt.Fields = None,
    force: Force = False,
    json: opt.Json = False,
) -> None:
    """Write a step's data, or any rows, in the format of another program."""
    from lcx.data import formats
    from lcx.data.rows import parse_fields

    _free(to, force)
    named = _fields(parse_fields, fields)
    _tell(formats.export_rows(source, to, form, template=template, fields=named), json)


@import_app.command(
    name="import",
    epilog=opt.examples(
        "lcx import sharegpt.json --to rows.jsonl",
        "lcx import hf:nvidia/ChatQA2-Long-SFT-data@train --to data --fields context=document",
        after="Which names and formats are known: docs/rows.md. Training takes such files as they are, too.",
    ),
)
def import_rows(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Rows in any known format: a file, a folder, hf:NAME.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FILE",
            help="A .jsonl or .json file of rows; or a folder, in which questions share their contexts.",
        ),
    ],
    fields: opt.Fields = None,
    force: Force = False,
    json: opt.Json = False,
) -> None:
    """Write rows of any known format as rows of lcx: context, question, and answer or chosen and rejected."""
    from lcx.data import formats
    from lcx.data.rows import parse_fields

    _free(to, force)
    _tell(formats.import_rows(source, to, fields=_fields(parse_fields, fields)), json)


def _fields(parse: Any, given: str | None) -> dict[str, str] | None:
    from lcx.errors import UsageError

    try:
        return dict(parse(given)) if given else None
    except ValueError as bad:
        raise UsageError(str(bad), hint="--fields context=passage,answer=target") from None


def _free(to: str, force: bool) -> None:
    """Raise UsageError where something is at a place to write to, unless it may be overwritten."""
    from lcx.errors import UsageError

    place = Path(to).expanduser()
    if not force and (place.is_file() or (place.is_dir() and any(place.iterdir()))):
        raise UsageError(f"'{to}' is there already", hint="--force overwrites it; or another --to.")


def _tell(made: Written, json: bool) -> None:
    from lcx.cli import show
    from lcx.formatting import several

    if json:
        show.emit_json(
            {"file": str(made.path), "rows": made.rows, "counts": made.counts, "notes": made.notes}
        )
        return
    print(f"wrote {several(made.rows, 'row' if made.path.suffix else 'bundle')} to {made.path}")
    for what, count in sorted(made.counts.items()):
        print(f"  {count:,} {what}")
    for note in made.notes:
        print(f"  {note}")
