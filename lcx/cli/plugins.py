"""`lcx plugins`: what is installed, what is wrong with it and what mends it, a package to begin with, and pip."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

if TYPE_CHECKING:
    from lcx.plugins import Entry, Method, Plugins, Problem

app = typer.Typer(
    **APP,
    no_args_is_help=True,
    epilog=opt.examples("lcx plugins list", "lcx plugins check", "lcx plugins new mine"),
)

ARGUMENTS = {
    "llms": ("model", "options"),
    "retrievers": ("model", "options"),
    "metrics": ("pred", "row"),
}
"""What functions of these kinds are called with."""


@app.callback()
def plugins() -> None:
    """List, check, install and begin plugins."""


@app.command(
    name="list",
    epilog=opt.examples("lcx plugins list", "lcx plugins list --hooks", "lcx plugins list --json"),
)
def list_plugins(
    hooks: Annotated[
        bool, typer.Option("--hooks", help="Show each hook and who is called, in order.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """List the installed plugins: package, version, state, and what each provides."""
    from lcx import plugins
    from lcx.cli import show

    loaded = plugins.loaded()
    rows, clashes, called = describe(loaded), find_clashes(loaded), who_is_called(loaded)
    if json:
        show.emit_json({"plugins": rows, "clashes": clashes, **({"hooks": called} if hooks else {})})
        return
    if hooks:
        cells = [
            (
                name,
                ", ".join(f"{one['plugin']}{one['how'] and ' (' + one['how'] + ')'}" for one in those) or "-",
            )
            for name, those in called.items()
        ]
        print(show.table(cells, ("hook", "called, in this order")))
        return
    rows_shown = [
        (r["name"], f"{r['package']} {r['version']}", r["state"], r["error"] or _provided(r["provides"]))
        for r in rows
    ]
    print(show.table(rows_shown, ("plugin", "package", "state", "provides")))
    show.lines(_clash_line(clash) for clash in clashes)


def describe(loaded: Plugins) -> list[dict[str, Any]]:
    """One row a plugin, as --json prints it."""
    from lcx import recipe
    from lcx.plugins import KINDS

    owners: dict[str, list[str]] = {}
    for name, places in recipe.recipe_files(loaded).items():
        for _, owner in places:
            owners.setdefault(owner, []).append(name)
    rows = []
    for entry in loaded.entries:
        mine = entry.name if entry.state == "loaded" else ""  # another one may have a failed one's name
        provides = {kind: getattr(loaded, kind).owned_by(mine) for kind in KINDS if kind != "recipes"}
        provides["recipes"] = owners.get(mine, [])
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
    """Names that two plugins claim; one of lcx's own stays with whoever stands first."""
    from lcx import recipe
    from lcx.cli.app import COMMANDS
    from lcx.plugins import CORE, KINDS

    found = [
        {"kind": getattr(loaded, kind).kind, "name": name, "owners": owners}
        for kind in KINDS
        if kind != "recipes"
        for name, owners in getattr(loaded, kind).clashes().items()
    ]
    for name, places in recipe.recipe_files(loaded).items():
        if len(places) > 1:
            found.append({"kind": "recipe", "name": name, "owners": [owner for _, owner in places]})
    for name in loaded.commands.names():
        if name in COMMANDS:
            found.append({"kind": "command", "name": name, "owners": [CORE, loaded.commands.owner(name)]})
    return found


def who_is_called(loaded: Plugins) -> dict[str, list[dict[str, str]]]:
    """By hook, the plugins that have it, in the order in which they are called, and how."""
    from lcx import hookspecs
    from lcx.plugins import CORE

    found: dict[str, list[dict[str, str]]] = {}
    core = set(dir(loaded.manager.get_plugin(CORE)))
    for hook in (name for name in vars(hookspecs) if name.startswith("lcx_")):
        if hook.startswith("lcx_register_"):
            those = [CORE] if hook in core else []
            those += [one.name for one in loaded.entries if one.state == "loaded" and hook in one.hooks]
            found[hook] = [{"plugin": name, "how": ""} for name in those]
            continue
        found[hook] = [
            {
                "plugin": one.plugin_name,
                "how": next(
                    (how for how in ("wrapper", "hookwrapper", "tryfirst", "trylast") if getattr(one, how)),
                    "",
                ),
            }
            for one in reversed(getattr(loaded.manager.hook, hook).get_hookimpls())
        ]
    return found


def _provided(provides: dict[str, list[str]]) -> str:
    return "; ".join(f"{kind} {' '.join(names)}" for kind, names in provides.items())


def _clash_line(clash: dict[str, Any]) -> str:
    return f"clash: the {clash['kind']} '{clash['name']}' is claimed by {' and '.join(clash['owners'])}"


# ---- check


@app.command(
    name="check",
    epilog=opt.examples("lcx plugins check", "lcx plugins check in2", "lcx plugins check --json"),
)
def check_plugins(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PLUGIN", help="Only these plugins (default: all; those of lcx less closely)."
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Import all that plugins register, check it and their recipes; exit code 3 if anything is wrong.

    Each problem says its file, the hook and what mends it. What comes with lcx is looked into where it is named.
    """
    from lcx import plugins
    from lcx.cli import show
    from lcx.errors import UsageError, suggestion
    from lcx.formatting import several

    loaded = plugins.loaded()
    rows, clashes = describe(loaded), find_clashes(loaded)
    known = [row["name"] for row in rows]
    for name in names or ():
        if name not in known:
            raise UsageError(
                f"no plugin '{name}'. {suggestion(name, known)}".rstrip(),
                why=f"installed: {', '.join(known) or 'none'}",
            )
    checked = []
    for row, entry in zip(rows, loaded.entries, strict=True):
        if names and entry.name not in names:
            continue
        deep = not entry.bundled or bool(names)
        problems = list(entry.problems) + (examine(entry, loaded) if deep and entry.state == "loaded" else [])
        problems += list(_clash_problems(entry, clashes, loaded))
        checked.append({**row, "problems": [asdict(one) for one in problems]})
    if names:
        clashes = [clash for clash in clashes if set(names) & set(clash["owners"])]
    bad = bool(clashes) or any(not one["warning"] for row in checked for one in row["problems"])
    if json:
        show.emit_json({"plugins": checked, "clashes": clashes, "unknown": loaded.unknown, "ok": not bad})
    else:
        for row in checked:
            said = several(len(row["problems"]), "problem") if row["problems"] else "nothing wrong"
            state = row["state"] if row["state"] == "off" else f"{row['state']}, {said}"
            print(f"{row['name']} ({row['package']} {row['version']}, {row['value']}): {state}")
            if row["hooks"]:
                print(f"  hooks  {' '.join(row['hooks'])}")
            show.lines(line for one in row["problems"] for line in _problem_lines(one))
            if row["trace"]:
                show.lines(f"  {line}" for line in row["trace"].rstrip().split("\n"))
        show.lines(_clash_line(clash) for clash in clashes)
        if not checked:
            print("no plugins are installed")
    if bad:
        raise typer.Exit(3)


def _problem_lines(problem: dict[str, Any]) -> list[str]:
    where = ", ".join(part for part in (problem["file"], problem["hook"]) if part)
    return [
        f"  {'warning' if problem['warning'] else 'PROBLEM'}  {problem['kind']}: {problem['what']}",
        *([f"           at {where}"] if where else []),
        f"           -> {problem['mend']}",
    ]


def _clash_problems(entry: Entry, clashes: Sequence[dict[str, Any]], loaded: Plugins) -> Iterator[Problem]:
    """What a plugin that is not lcx's own claims and another one has."""
    from lcx.plugins import Problem

    if entry.bundled or entry.state != "loaded":
        return
    for clash in clashes:
        if entry.name not in clash["owners"]:
            continue
        others = [owner for owner in clash["owners"] if owner != entry.name] or [entry.name]
        stays = loaded.bundled(clash["owners"][0])
        also = " and ".join(f"'{one}'" for one in others)
        what = f"the {clash['kind']} '{clash['name']}' is claimed by {also} too"
        what += ": lcx's own is used, not this one" if stays else ": nobody can use it"
        mend = f"give it a name of its own, such as '{entry.name}-{clash['name']}'"
        hook = next(
            (
                f"lcx_register_{kind}"
                for kind in (
                    "methods",
                    "recipes",
                    "llms",
                    "retrievers",
                    "losses",
                    "probes",
                    "metrics",
                    "commands",
                )
                if clash["kind"] == ("recipe" if kind == "recipes" else getattr(loaded, kind).kind)
            ),
            "",
        )
        yield Problem("clash", what, mend, _hook_place(entry, hook, loaded), hook)


def _hook_place(entry: Entry, hook: str, loaded: Plugins) -> str:
    """`FILE:LINE` of a plugin's hook."""
    import sys

    from lcx.plugins import place_of_function

    module, _, attribute = entry.value.partition(":")
    plugin = sys.modules.get(module.strip())
    plugin = getattr(plugin, attribute, None) if attribute else plugin
    return place_of_function(getattr(plugin, hook, None)) or loaded.places.get(entry.name, ("", False))[0]


def examine(entry: Entry, loaded: Plugins) -> list[Problem]:
    """What is wrong with what a loaded plugin registered: each target is imported, its recipes are resolved."""
    import contextlib
    import sys

    found: list[Problem] = []
    with contextlib.redirect_stdout(sys.stderr):  # a stranger's module may print
        for name in loaded.methods.owned_by(entry.name):
            found += _method_problems(loaded.methods.value_of(name, entry.name), entry, loaded)
        for kind in ("llms", "retrievers", "losses", "probes", "metrics", "commands"):
            registry = getattr(loaded, kind)
            for name in registry.owned_by(entry.name):
                value = registry.value_of(name, entry.name)
                found += _value_problems(kind, name, value, entry, loaded)
    found += _recipe_problems(entry, loaded)
    return found


def _method_problems(method: Method, entry: Entry, loaded: Plugins) -> Iterator[Problem]:
    from lcx.plugins import Problem

    hook = "lcx_register_methods"
    here = _hook_place(entry, hook, loaded)
    for name in method.stages:
        stage, what = method.stage(name), f"the stage '{name}' of the method '{method.name}'"
        for target in (stage.run, stage.forecast):
            if target:
                yield from _target_problems(target, what, ("work",), hook, here)
        if not stage.run and f"lcx_{name}" not in entry.hooks:
            mend = f'Stage({stage.settings.__name__}, "module:function"), or a hook lcx_{name} that runs it'
            yield Problem(
                "target", f"{what} names no function, and the plugin has no hook lcx_{name}", mend, here, hook
            )
        for field, about in stage.settings.model_fields.items():
            if about.is_required():
                mend = f"{field}: ... = setting(DEFAULT, description=...)"
                place = f"{inspect.getsourcefile(stage.settings) or here}"
                yield Problem("settings", f"{what}: its setting '{field}' has no default", mend, place, hook)


def _value_problems(kind: str, name: str, value: Any, entry: Entry, loaded: Plugins) -> Iterator[Problem]:
    from lcx.plugins import Command, Problem

    hook = f"lcx_register_{kind}"
    here = _hook_place(entry, hook, loaded)
    what = f"the {getattr(loaded, kind).kind} '{name}'"
    target = value.target if isinstance(value, Command) else value
    if kind in ARGUMENTS:
        yield from _target_problems(target, what, ARGUMENTS[kind], hook, here)
        return
    made, problem = _resolved(target, what, hook, here) if isinstance(target, str) else (target, None)
    if problem is not None:
        yield problem
    elif kind == "commands":
        if isinstance(value, Command) and not value.help:
            mend = f'register("{name}", "{target}", help="One line.")'
            yield Problem("command", f"{what} has no line for `lcx --help`", mend, here, hook, warning=True)
        if not (isinstance(made, typer.Typer) or inspect.isfunction(made)):
            mend = "name a function whose arguments are annotated, or a typer.Typer"
            yield Problem("target", f"{what}: {target} is a {type(made).__name__}", mend, here, hook)
    elif kind == "losses":
        yield from _loss_problems(made, what, hook, here)
    else:
        yield from _task_problems(made, name, what, hook, here, loaded)


def _loss_problems(loss: Any, what: str, hook: str, here: str) -> Iterator[Problem]:
    from lcx.plugins import Problem, place_of_function
    from lcx.training.losses import Loss

    if not isinstance(loss, Loss):
        mend = 'LOSS = Loss("name", function, defaults={...}) of lcx.training.losses'
        yield Problem("target", f"{what} is a {type(loss).__name__}, not a Loss", mend, here, hook)
    elif not _takes(loss.compute, ("answers",), tuple(loss.defaults)):
        mend = f"def {getattr(loss.compute, '__name__', 'loss')}(answers, *, {', '.join(loss.defaults)}):"
        said = f"{what} takes {inspect.signature(loss.compute)}; it is called with (answers) and its defaults"
        yield Problem("signature", said, mend, place_of_function(loss.compute) or here, hook)


def _task_problems(
    task: Any, name: str, what: str, hook: str, here: str, loaded: Plugins
) -> Iterator[Problem]:
    from lcx.errors import suggestion
    from lcx.evaluation.task import Task
    from lcx.plugins import Problem, place_of_function

    if not isinstance(task, Task):
        mend = 'TASK = Task("family:name", summary, samples, score) of lcx.evaluation.task'
        yield Problem("target", f"{what} is a {type(task).__name__}, not a Task", mend, here, hook)
        return
    if task.name != name:
        mend = f'register("{task.name}", ...), or Task("{name}", ...)'
        yield Problem("task", f"{what} calls itself '{task.name}'", mend, here, hook)
    if isinstance(task.score, str) and task.score not in loaded.metrics:
        near = suggestion(task.score, loaded.metrics.names())
        mend = near or "register it with lcx_register_metrics"
        yield Problem(
            "task", f"{what} is scored by '{task.score}', and there is no such metric", mend, here, hook
        )
    for part, function, asked in (
        ("samples", task.samples, ("source", "options")),
        ("score", task.score, ("row",)),
    ):
        if callable(function) and not _takes(function, asked):
            said = f"{what}: its {part} takes {inspect.signature(function)}; it is called with ({', '.join(asked)})"
            mend = f"def {getattr(function, '__name__', part)}({', '.join(asked)}):"
            yield Problem("signature", said, mend, place_of_function(function) or here, hook)


def _target_problems(
    target: Any, what: str, arguments: tuple[str, ...], hook: str, here: str
) -> Iterator[Problem]:
    """What is wrong with a function that is called with these arguments, or with the text that names it."""
    from lcx.plugins import Problem, place_of_function

    function, problem = _resolved(target, what, hook, here) if isinstance(target, str) else (target, None)
    asked = ", ".join(arguments)
    if problem is not None:
        yield problem
    elif not callable(function):
        said = f"{what}: {target} is a {type(function).__name__}, which cannot be called"
        yield Problem("target", said, f"name a function of ({asked})", here, hook)
    elif not _takes(function, arguments):
        called = getattr(function, "__name__", "function")
        said = f"{what}: {called} takes {inspect.signature(function)}; it is called with ({asked})"
        place = (
            place_of_function(vars(function).get("__init__") if isinstance(function, type) else function)
            or here
        )
        shown = f"def __init__(self, {asked}):" if isinstance(function, type) else f"def {called}({asked}):"
        yield Problem("signature", said, shown, place, hook)


def _takes(function: Callable[..., Any], arguments: tuple[str, ...], named: tuple[str, ...] = ()) -> bool:
    """Whether a function can be called with so many arguments, and these by name."""
    try:
        inspect.signature(function).bind(*arguments, **dict.fromkeys(named))
    except TypeError:
        return False
    except ValueError:  # of a builtin, which says nothing of itself
        return True
    return True


def _resolved(target: str, what: str, hook: str, here: str) -> tuple[Any, Problem | None]:
    """What a "module:attribute" names, or the problem."""
    import importlib.util

    from lcx.errors import suggestion
    from lcx.plugins import Problem, last_place

    module, colon, attribute = target.partition(":")
    if not (colon and module and attribute):
        return None, Problem(
            "target", f"{what}: '{target}' is not module:attribute", 'write "module:attribute"', here, hook
        )
    try:
        return_value = importlib.import_module(module)
    except (Exception, SystemExit) as bad:  # a stranger's module may raise anything
        said = f"{what}: importing {module} raises {type(bad).__name__}: {bad}"
        place = last_place(bad) or here
        missing = bad.name if isinstance(bad, ModuleNotFoundError) and bad.name else ""
        if missing and (module == missing or module.startswith(missing + ".")):
            return None, Problem(
                "target", f"{what}: there is no module '{missing}'", _nearest(missing), here, hook
            )
        mend = f"pip install {missing.partition('.')[0]}" if missing else f"mend {place}"
        return None, Problem("import", said, mend, place, hook)
    if not hasattr(return_value, attribute):
        near = suggestion(attribute, [name for name in vars(return_value) if not name.startswith("__")])
        file = getattr(return_value, "__file__", None) or here
        mend = near or f"define {attribute} in {file}, or name what is there"
        return None, Problem("target", f"{what}: {module} has no '{attribute}'", mend, here, hook)
    return getattr(return_value, attribute), None


def _nearest(module: str) -> str:
    """Which module of the same package may be meant by one that there is not."""
    import importlib.util
    import pkgutil

    from lcx.errors import suggestion

    package, _, last = module.rpartition(".")
    try:
        found = importlib.util.find_spec(package) if package else None
    except (ImportError, ValueError):
        found = None
    places = list(found.submodule_search_locations or ()) if found else []
    names = [one.name for one in pkgutil.iter_modules(places)]
    return (
        suggestion(last, names)
        or f"name a module that is installed; packages in pyproject.toml take {package or last} along"
    )


def _recipe_problems(entry: Entry, loaded: Plugins) -> Iterator[Problem]:
    from lcx.cli.recipes import checked
    from lcx.plugins import Problem
    from lcx.recipe import load

    hook = "lcx_register_recipes"
    here = _hook_place(entry, hook, loaded)
    for folder in loaded.recipes.owned_by(entry.name):
        place = Path(folder)
        if not place.is_dir():
            mend = 'register(Path(__file__).parent / "recipes"); package-data in pyproject.toml takes *.yaml along'
            yield Problem("recipes", f"there is no folder {folder}", mend, here, hook)
            continue
        files = sorted(place.rglob("*.yaml"))
        if not files:
            mend = "package-data in pyproject.toml takes *.yaml along; or register the folder that has them"
            yield Problem("recipes", f"no recipe (*.yaml) is in {folder}", mend, here, hook, warning=True)
        for file in files:
            row = checked(str(file), loaded)
            if not row["ok"]:
                what = row["error"] + (f" ({row['why']})" if row["why"] else "")
                yield Problem("recipe", what, row["hint"] or f"lcx recipes validate {file}", str(file), hook)
            elif (called := load(str(file), loaded).name) != file.stem:
                what = f"{file.name} is found as '{file.stem}' and calls itself '{called}', as its runs are called"
                mend = f"name: {file.stem}; or call the file {called}.yaml"
                yield Problem("recipe", what, mend, str(file), hook)


# ---- new


@app.command(
    epilog=opt.examples(
        "lcx plugins new mine",
        "lcx plugins new mine --with method,task,metric,loss",
        "lcx plugins new mine --with all --to ~/code/lcx-mine",
    )
)
def new(
    name: Annotated[
        str, typer.Argument(metavar="NEW_NAME", help="The plugin's name: small letters, digits and '-'.")
    ],
    parts: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="PART,...",
            help="method, task, metric, loss, llm, retriever, command; all or none (default: method,task,metric).",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="The package's folder (default: ./lcx-NAME).")
    ] = None,
) -> None:
    """Write a whole package to begin with: entry point, recipe, hook, registrations, tests, README and CI."""
    from lcx import recipe
    from lcx.cli import scaffold
    from lcx.cli.app import COMMANDS
    from lcx.plugins import CORE, loaded

    known = loaded()
    taken = {CORE, *(one.name for one in known.entries), *known.methods.names(), *recipe.recipe_files(known)}
    for registry in (known.llms, known.retrievers, known.losses, known.commands):
        taken |= set(registry.names())
    scaffold.checked_plugin_name(name, taken)
    wanted = scaffold.wanted_parts(parts)
    files = scaffold.package(name, wanted, commands=COMMANDS)
    folder = Path(to).expanduser() if to else Path(f"lcx-{name}")
    scaffold.write_package(folder, files)
    print(f"wrote {folder} ({', '.join(['recipe', 'hook', *wanted])})")
    for file in files:
        print(f"  {file}")
    place = str(folder) if "/" in str(folder) else f"./{folder}"
    print(f"next: lcx plugins install -e {shlex.quote(place)}")


# ---- pip


@app.command(
    epilog=opt.examples(
        "lcx plugins install lcx-cloze",
        "lcx plugins install -e ./lcx-mine",
        "lcx plugins install -U lcx-cloze",
    )
)
def install(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC", help="Packages as pip takes them: names, folders, URLs.")
    ],
    editable: Annotated[
        bool, typer.Option("--editable", "-e", help="Folders stay where they are, to be changed.")
    ] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", "-U", help="Take the newest version.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show the command; install nothing.")
    ] = False,
) -> None:
    """Install plugins where lcx itself is, by pip, uv or pipx, and check what has come."""
    import subprocess
    import sys

    from lcx.plugins import installed

    _refuse_options(specs)
    words = [word for spec in specs for word in (*(["-e"] if editable else []), spec)]
    before = {(one.name, one.package, one.version) for one in installed()}
    _run_installer("install", [*(["--upgrade"] if upgrade else []), *words], dry_run)
    if dry_run:
        return
    fresh = [one for one in _installed_now() if (one.name, one.package, one.version) not in before]
    if not fresh:
        print(
            f"no plugin of lcx has come with {' '.join(specs)}, or it was there; `lcx plugins list` shows all"
        )
        return
    for one in fresh:
        print(f"installed {one.name} ({one.package} {one.version})", flush=True)
    check = [sys.executable, "-P", "-m", "lcx", "plugins", "check", *(one.name for one in fresh)]
    done = subprocess.run(check, check=False, stdout=1)
    if done.returncode:
        print(f"take it away with: lcx plugins uninstall {' '.join(one.name for one in fresh)}")
        raise typer.Exit(done.returncode)


@app.command(epilog=opt.examples("lcx plugins uninstall cloze", "lcx plugins uninstall lcx-cloze"))
def uninstall(
    names: Annotated[
        list[str], typer.Argument(metavar="PLUGIN", help="Plugins, or the packages that bring them.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show the command; uninstall nothing.")
    ] = False,
) -> None:
    """Take plugins away by pip, uv or pipx. They are not loaded, so a broken one goes like any other."""
    from lcx.errors import UsageError, suggestion
    from lcx.plugins import installed

    entries, packages = installed(), []
    for name in names:
        found = [one for one in entries if name == one.name] or [
            one for one in entries if name == one.package
        ]
        strangers = [one.package for one in found if not one.bundled]
        if found and not strangers:
            raise UsageError(
                f"'{name}' comes with lcx itself",
                hint=f"LCX_PLUGINS=-{found[0].name} before a command leaves it out.",
            )
        if not found:
            known = [word for one in entries if not one.bundled for word in (one.name, one.package)]
            raise UsageError(
                f"no plugin '{name}' is installed. {suggestion(name, known)}".rstrip(),
                why=f"installed: {', '.join(sorted({one.name for one in entries if not one.bundled})) or 'none'}",
            )
        if "?" in strangers:
            raise UsageError(
                f"the package of '{name}' has lost its METADATA, so that pip cannot take it away",
                hint=f"Install it again and then uninstall it; until then: LCX_PLUGINS=-{found[0].name}",
            )
        packages += strangers
    _run_installer("uninstall", list(dict.fromkeys(packages)), dry_run)
    if not dry_run:
        left = {one.package for one in _installed_now()}
        for package in dict.fromkeys(packages):
            print(f"{package} is {'still there' if package in left else 'gone'}")
        if left & set(packages):
            raise typer.Exit(1)


def _installed_now() -> list[Entry]:
    """What is installed after pip has run."""
    import importlib

    from lcx.plugins import installed

    importlib.invalidate_caches()
    return installed()


def _refuse_options(specs: Sequence[str]) -> None:
    from lcx.errors import UsageError

    for spec in specs:
        if spec.startswith("-"):
            raise UsageError(
                f"{spec!r} is an option, not a package",
                hint="Options of pip's own are set by its variables, such as PIP_INDEX_URL=URL.",
            )


def installer(action: str) -> list[str]:
    """The command that installs into (or takes away from) the environment that lcx runs in, without the packages."""
    import importlib.util
    import shutil
    import sys

    from lcx.errors import MissingError

    place = Path(sys.prefix)
    if (place / "pipx_metadata.json").is_file() and shutil.which("pipx"):
        return ["pipx", "inject" if action == "install" else "uninject", place.name]
    if importlib.util.find_spec("pip") and not (place / "uv-receipt.toml").is_file():
        pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", action]
        return [*pip, "--yes"] if action == "uninstall" else pip
    if shutil.which("uv"):
        return ["uv", "pip", action, "--python", sys.executable]
    raise MissingError(
        f"neither pip nor uv is there to {action} packages in {sys.prefix}",
        hint=f"{sys.executable} -m ensurepip, then the same command; or install uv",
    )


def _run_installer(action: str, words: list[str], dry_run: bool) -> None:
    """Run pip, uv or pipx, its output on stderr. Raises LcxError where it fails."""
    import os
    import subprocess
    import sys

    from lcx.errors import LcxError

    line = [*installer(action), *words]
    if line[0] == "pipx" and action == "install":  # pipx has no such options of its own
        line = [word for word in line if word != "--upgrade"] + (["--force"] if "--upgrade" in words else [])
    print(shlex.join(line), flush=True)
    if dry_run:
        return
    # builds of packages may need the folder that they run in on their path
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=environment) as running:
        assert running.stdout is not None
        for said in running.stdout:  # pip says of all that lcx itself needs that it is there
            if not said.startswith((b"Requirement already satisfied", b"Looking in ")):
                sys.stderr.write(said.decode(errors="replace"))
                sys.stderr.flush()
    if running.returncode:
        raise LcxError(
            f"{Path(line[0]).name} ended with exit code {running.returncode}",
            why="its own words stand above",
            hint="Where the environment is managed from outside, make one of your own: python -m venv .venv",
        )
