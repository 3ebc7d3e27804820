"""`lcx recipes` and `lcx presets`: what is there to run, and how it is launched."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.plugins import Plugins
    from lcx.recipe import Step

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
            first = places[0][1]
            clash = len(places) > 1 and not (owner == first and loaded.bundled(first))
            row = {"name": name, "owner": owner, "path": str(path), "clash": clash, "error": ""}
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
            else r["summary"] + (" (claimed twice: run it by its path)" if r["clash"] else ""),
        )
        for r in rows
    ]
    print(show.table(cells, ("recipe", "method", "steps", "from", "summary")))


@app.command(
    epilog=opt.examples(
        "lcx recipes show in2",
        "lcx recipes show in2 --origin",
        "lcx recipes show in2 --describe train.tuning",
        "lcx recipes show in2 --set train.batch=64 > mine.yaml",
    )
)
def show(
    name: Name,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STEP.KEY", help="Only these settings: STEP, KEY, STEP.KEY or eval.options.TASK."
        ),
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    describe: Annotated[bool, typer.Option("--describe", help="Say what each setting is and takes.")] = False,
    sets: opt.Sets = None,
    json: opt.Json = False,
) -> None:
    """Print every setting of a recipe as it would be used here: a recipe file in itself."""
    from lcx.cli import show, stages

    job = stages.describe_job(stages.Request(recipe=name, sets=sets or ()))
    steps = stages.resolve(job, {}, None)
    found = job.recipe
    if describe or keys:
        _describe(steps, keys or (), json=json)
        return
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


def _describe(steps: Sequence[Step], wanted: Sequence[str], *, json: bool) -> None:
    """Print what settings are: a block a setting, or a row each as JSON."""
    from lcx import plugins
    from lcx.cli import reference, show

    rows = []
    for step, key, value in reference.describe_keys(steps, wanted, plugins.loaded()):
        origin = step.origins.get(key.name.partition(".")[0], "")
        rows.append(
            {"step": step.id, **vars(key), "values": list(key.values), "value": value, "from": origin}
        )
    if json:
        show.emit_json({"settings": rows})
        return
    for row in rows:
        show.lines(show.settings_lines({f"{row['step']}.{row['name']}": row["value"]}, {}))
        print(f"    {row['about']}\n    takes {row['takes']}")
        if row["value"] != row["default"]:
            show.lines([f"    from {row['from']}; default {show.value_text(row['default'])}"])


@app.command(epilog=opt.examples("lcx recipes schema > recipe.schema.json", "lcx recipes schema in2"))
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="For files that extend this recipe's method.")
    ] = None,
) -> None:
    """Print the JSON Schema of recipe files, with the settings of every installed plugin."""
    from lcx import plugins, recipe
    from lcx.cli import reference, show

    loaded = plugins.loaded()
    show.emit_json(reference.recipe_schema(loaded, recipe.load(name, loaded).method if name else ""))


@app.command(epilog=opt.examples("lcx recipes copy in2", "lcx recipes copy in2 mine.yaml --force"))
def copy(
    name: Name,
    dest: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A file or folder (default: here).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file.")] = False,
) -> None:
    """Copy a recipe's file, to change it and run it by its path. Its first line tells editors its JSON Schema."""
    from lcx import plugins, recipe
    from lcx.cli import reference
    from lcx.errors import LcxError
    from lcx.paths import cache_folder
    from lcx.storage import make_folder, write_json, write_text

    loaded = plugins.loaded()
    found = recipe.load(name, loaded)
    source = found.path
    target = _target(dest, source.name, "recipe", force)
    text = _moved(
        re.sub(r"\A# yaml-language-server:.*\n", "", source.read_text(encoding="utf-8")), source, target
    )
    with contextlib.suppress(
        LcxError
    ):  # a cache that cannot be written costs the editor's help, not the copy
        described = make_folder(cache_folder() / "schemas") / f"{found.method}.json"
        write_json(described, reference.recipe_schema(loaded, found.method))
        text = f"# yaml-language-server: $schema={described.absolute().as_uri()}\n{text}"
    write_text(target, text)
    shown = str(target) if "/" in str(target) else f"./{target}"
    print(f"wrote {shown}\nnext: lcx run --recipe {shown} --dry-run")


def _target(dest: str | None, name: str, kind: str, force: bool) -> Path:
    """The file that a copy goes to. Raises UsageError for another kind of file, and for one that is there."""
    from lcx.errors import UsageError

    target = Path(dest).expanduser() if dest else Path(name)
    if target.is_dir():
        target = target / name
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"a {kind}'s file ends in .yaml, not '{target.name}'")
    if target.exists() and not force:
        raise UsageError(f"{target} exists", hint="--force overwrites it; or give another name.")
    return target


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
    rows = [checked(place, loaded) for place in _places(targets or [], loaded)]
    if json:
        show.emit_json({"recipes": rows, "ok": all(r["ok"] for r in rows)})
    else:
        for row in rows:
            print(f"ok    {row['recipe']}" if row["ok"] else f"FAIL  {row['recipe']}: {row['error']}")
            if row["why"]:
                print(f"      {row['why']}")
            if row["hint"]:
                print(f"      -> {row['hint']}")
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


def checked(place: str, loaded: Plugins) -> dict[str, Any]:
    """One row a recipe: whether its YAML, methods, keys, values and names are right, and what is wrong."""
    from lcx import recipe
    from lcx.errors import LcxError

    try:
        for step in recipe.resolve(recipe.load(place, loaded), loaded, project={}):
            recipe.check_names(step, loaded)
            _check_tasks(step, loaded)
    except LcxError as bad:
        return {"recipe": place, "ok": False, **bad.as_dict()}
    return {"recipe": place, "ok": True, "error": "", "why": "", "hint": "", "exit_code": 0}


def _check_tasks(step: Step, loaded: Plugins) -> None:
    """Raises UsageError where an eval step names a task, or an option of one, that there is not."""
    if step.stage != "eval":
        return
    from lcx.errors import UsageError
    from lcx.evaluation.planning import check_windows, plan_tasks
    from lcx.evaluation.settings import EvalSettings

    if isinstance(step.settings, EvalSettings):
        try:
            check_windows(plan_tasks(step.settings, loaded))
        except UsageError as bad:
            raise UsageError(f"step '{step.id}': {bad.what}", why=bad.why, hint=bad.hint) from None


# ---- lcx presets

presets_app = typer.Typer(
    **APP, no_args_is_help=True, epilog=opt.examples("lcx presets list", "lcx presets copy fsdp mine.yaml")
)

Preset = Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name.")]


@presets_app.callback()
def presets_callback() -> None:
    """List, show and copy the accelerate configs behind --strategy."""


@presets_app.command(name="list", epilog=opt.examples("lcx presets list", "lcx presets list --json"))
def list_presets(json: opt.Json = False) -> None:
    """List the presets with what they do."""
    from lcx.cli import show
    from lcx.training import plan

    rows = [(name, plan.preset_summary(name)) for name in plan.preset_names()]
    if json:
        show.emit_json({"presets": [{"name": name, "summary": text} for name, text in rows]})
    else:
        print(show.table(rows, ("preset", "what it does")))


@presets_app.command(
    name="show", epilog=opt.examples("lcx presets show zero3", "lcx presets show fsdp > mine.yaml")
)
def show_preset(name: Preset) -> None:
    """Print a preset's file."""
    from lcx.training import plan

    print(plan.preset_text(name), end="")


@presets_app.command(
    name="copy", epilog=opt.examples("lcx presets copy fsdp mine.yaml", "lcx presets copy zero3 --force")
)
def copy_preset(
    name: Preset,
    dest: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A file or folder (default: here).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file.")] = False,
) -> None:
    """Copy a preset's file, to change it and name it by its path: --strategy mine.yaml."""
    from lcx.storage import write_text
    from lcx.training import plan

    text = plan.preset_text(name)
    target = _target(dest, f"{name}.yaml", "preset", force)
    write_text(target, text)
    print(f"wrote {target}\nnext: lcx train --recipe NAME --gpus N --strategy {target}")
