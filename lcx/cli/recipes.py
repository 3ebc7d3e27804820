"""`lcx recipes`: list, show, copy and validate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.plugins import Plugins

app = typer.Typer(
    **APP, no_args_is_help=True, epilog=opt.examples("lcx recipes list", "lcx recipes show in2 --origin")
)

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a path to its YAML file.")]


@app.callback()
def recipes() -> None:
    """List, show, copy and validate recipes."""


@app.command(name="list", epilog=opt.examples("lcx recipes list", "lcx recipes list --json"))
def list_recipes(json: opt.Json = False) -> None:
    """List the recipes of lcx and of every plugin, with their steps."""
    from lcx import plugins, recipe
    from lcx.cli import show
    from lcx.errors import LcxError

    rows: list[dict[str, Any]] = []
    loaded = plugins.loaded()
    for name, places in recipe.recipe_files(loaded).items():
        for path, owner in places:
            row = {"name": name, "owner": owner, "path": str(path), "clash": len(places) > 1, "error": ""}
            try:
                found = recipe.load(str(path), loaded)
                steps = [{"id": s.id, "stage": s.stage, "method": s.method} for s in found.steps]
                row.update(method=found.method, summary=found.summary, paper=found.paper, steps=steps)
            except LcxError as bad:
                row.update(method="", summary="", paper="", steps=[], error=bad.what)
            rows.append(row)
    if json:
        show.emit_json({"recipes": rows})
        return
    cells = [
        (
            r["name"],
            r["method"],
            " ".join(s["id"] for s in r["steps"]),
            "lcx" if r["owner"] == plugins.CORE else r["owner"],
            f"error: {r['error']}"
            if r["error"]
            else r["summary"] + (" (claimed twice)" if r["clash"] else ""),
        )
        for r in rows
    ]
    print(show.table(cells, ("recipe", "method", "steps", "from", "summary")))


@app.command(
    epilog=opt.examples(
        "lcx recipes show in2",
        "lcx recipes show in2 --origin",
        "lcx recipes show in2 --set train.batch=64 > mine.yaml",
    )
)
def show(
    name: Name,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    sets: opt.Sets = None,
    json: opt.Json = False,
) -> None:
    """Print every setting of a recipe as it would be used here: a recipe file in itself."""
    from lcx.cli import show, work

    job = work.describe_job(work.Request(recipe=name, sets=sets or ()))
    steps = work.resolve(job, {}, None)
    found = job.recipe
    head = {k: getattr(found, k) for k in ("name", "method", "summary", "paper") if getattr(found, k)}
    if json:
        every = [
            {"id": s.id, "stage": s.stage, "method": s.method, "settings": s.values(), "origins": s.origins}
            for s in steps
        ]
        show.emit_json({**head, "path": str(found.path), "steps": every})
        return
    print(f"# {found.path}")
    show.lines(show.settings_lines(head))
    print("steps:")
    for step in steps:
        print(f"- id: {step.id}\n  stage: {step.stage}\n  method: {step.method}")
        show.lines(
            f"  {line}" for line in show.settings_lines(step.values(), step.origins if origin else None)
        )


@app.command(epilog=opt.examples("lcx recipes copy in2", "lcx recipes copy in2 mine.yaml --force"))
def copy(
    name: Name,
    dest: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A file or folder (default: here).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file.")] = False,
) -> None:
    """Copy a recipe's file, to change it and run it by its path."""
    from lcx import plugins, recipe
    from lcx.errors import UsageError
    from lcx.storage import write_text

    source = recipe.load(name, plugins.loaded()).path
    target = Path(dest).expanduser() if dest else Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"a recipe's file ends in .yaml, not '{target.name}'")
    if target.exists() and not force:
        raise UsageError(f"{target} exists", hint="--force overwrites it; or give another name.")
    write_text(target, _moved(source.read_text(encoding="utf-8"), source, target))
    shown = str(target) if "/" in str(target) else f"./{target}"
    print(f"wrote {shown}\nnext: lcx run --recipe {shown} --dry-run")


def _moved(text: str, source: Path, target: Path) -> str:
    """The file's text for its new place: its name, and the path of what it extends, where that was
    relative.
    """
    if target.stem != source.stem:
        text = re.sub(r"^name:.*$", f"name: {target.stem}", text, flags=re.MULTILINE)

    def absolute(match: re.Match[str]) -> str:
        return f"extends: {(source.parent / match[1]).resolve()}"

    return re.sub(r"""^extends:\s*["']?([^"'\s#]+\.ya?ml)["']?""", absolute, text, flags=re.MULTILINE)


@app.command(epilog=opt.examples("lcx recipes validate", "lcx recipes validate in2 mine.yaml recipes/"))
def validate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE", help="Names, files or folders (default: all recipes)."),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Check recipes: YAML, methods, keys, values and references between steps. Folders are searched in
    depth.
    """
    from lcx import plugins
    from lcx.cli import show

    loaded = plugins.loaded()
    rows = [_checked(place, loaded) for place in _places(targets or [], loaded)]
    if json:
        show.emit_json({"recipes": rows, "ok": all(r["ok"] for r in rows)})
    else:
        for row in rows:
            print(f"ok    {row['recipe']}" if row["ok"] else f"FAIL  {row['recipe']}: {row['error']}")
            if row["why"]:
                print(f"      {row['why']}")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(max(row["exit_code"] for row in rows))


def _places(targets: list[str], loaded: Plugins) -> list[str]:
    from lcx import recipe
    from lcx.errors import UsageError

    if not targets:
        return [str(path) for places in recipe.recipe_files(loaded).values() for path, _ in places]
    found: list[str] = []
    for target in targets:
        folder = Path(target).expanduser()
        if folder.is_dir():
            files = sorted(p for p in folder.rglob("*") if p.suffix in (".yaml", ".yml") and p.is_file())
            if not files:
                raise UsageError(f"no YAML files in {folder}")
            found += [str(path) if "/" in str(path) else f"./{path}" for path in files]
        else:
            found.append(target)
    return found


def _checked(place: str, loaded: Plugins) -> dict[str, Any]:
    from lcx import recipe
    from lcx.errors import LcxError

    try:
        recipe.resolve(recipe.load(place, loaded), loaded, project={})
    except LcxError as bad:
        return {"recipe": place, "ok": False, "error": bad.what, "why": bad.why, "exit_code": bad.exit_code}
    return {"recipe": place, "ok": True, "error": "", "why": "", "exit_code": 0}
