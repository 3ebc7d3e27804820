"""`lcx plugins`: what is installed, what it brings, what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.plugins import Plugins

app = typer.Typer(**APP, no_args_is_help=True, epilog=opt.examples("lcx plugins list", "lcx plugins check"))

KINDS = ("methods", "recipes", "llms", "retrievers", "losses", "probes", "metrics")


@app.callback()
def plugins() -> None:
    """List and check plugins."""


@app.command(name="list", epilog=opt.examples("lcx plugins list", "lcx plugins list --json"))
def list_plugins(json: opt.Json = False) -> None:
    """List the installed plugins: package, version, state, and what each provides."""
    from lcx import plugins
    from lcx.cli import show

    loaded = plugins.loaded()
    rows, clashes = describe(loaded), find_clashes(loaded)
    if json:
        show.emit_json({"plugins": rows, "clashes": clashes})
        return
    cells = [
        (r["name"], f"{r['package']} {r['version']}", r["state"], r["error"] or _provided(r["provides"]))
        for r in rows
    ]
    print(show.table(cells, ("plugin", "package", "state", "provides")))
    show.lines(_clash_line(clash) for clash in clashes)


@app.command(epilog=opt.examples("lcx plugins check", "lcx plugins check in2", "lcx plugins check --json"))
def check(
    name: Annotated[str | None, typer.Argument(metavar="PLUGIN", help="Only this plugin.")] = None,
    json: opt.Json = False,
) -> None:
    """Check the plugins and show the whole error of each that failed; exit code 3 if any did or names
    clash.
    """
    from lcx import plugins
    from lcx.cli import show
    from lcx.errors import UsageError, suggestion

    loaded = plugins.loaded()
    rows, clashes = describe(loaded), find_clashes(loaded)
    if name is not None:
        known = [r["name"] for r in rows]
        if name not in known:
            raise UsageError(
                f"no plugin '{name}'. {suggestion(name, known)}".rstrip(), why=f"installed: {known}"
            )
        rows = [r for r in rows if r["name"] == name]
        clashes = [c for c in clashes if name in c["owners"]]
    bad = bool(clashes) or any(r["state"] == "failed" for r in rows)
    if json:
        show.emit_json({"plugins": rows, "clashes": clashes, "ok": not bad})
    else:
        for row in rows:
            print(f"{row['name']} ({row['package']} {row['version']}, {row['value']}): {row['state']}")
            if row["hooks"]:
                print(f"  hooks  {' '.join(row['hooks'])}")
            if row["trace"]:
                show.lines(f"  {line}" for line in row["trace"].rstrip().split("\n"))
        show.lines(_clash_line(clash) for clash in clashes)
        if not rows:
            print("no plugins are installed")
    if bad:
        raise typer.Exit(3)


def describe(loaded: Plugins) -> list[dict[str, Any]]:
    """One row a plugin, as --json prints it."""
    from lcx import recipe

    owners: dict[str, list[str]] = {}
    for name, places in recipe.recipe_files(loaded).items():
        for _, owner in places:
            owners.setdefault(owner, []).append(name)
    rows = []
    for entry in loaded.entries:
        provides = {kind: getattr(loaded, kind).owned_by(entry.name) for kind in KINDS if kind != "recipes"}
        provides["recipes"] = owners.get(entry.name, [])
        rows.append(
            {
                **{
                    key: getattr(entry, key)
                    for key in ("name", "package", "version", "value", "state", "bundled")
                },
                "provides": {kind: names for kind, names in provides.items() if names},
                "hooks": entry.hooks,
                "error": entry.error,
                "trace": entry.trace,
            }
        )
    return rows


def find_clashes(loaded: Plugins) -> list[dict[str, Any]]:
    """Names that two plugins claim."""
    from lcx import recipe

    found = [
        {"kind": getattr(loaded, kind).kind, "name": name, "owners": owners}
        for kind in KINDS
        if kind != "recipes"
        for name, owners in getattr(loaded, kind).clashes().items()
    ]
    for name, places in recipe.recipe_files(loaded).items():
        if len(places) > 1:
            found.append({"kind": "recipe", "name": name, "owners": [owner for _, owner in places]})
    return found


def _provided(provides: dict[str, list[str]]) -> str:
    return "; ".join(f"{kind} {' '.join(names)}" for kind, names in provides.items())


def _clash_line(clash: dict[str, Any]) -> str:
    return f"clash: the {clash['kind']} '{clash['name']}' is claimed by {' and '.join(clash['owners'])}"
