"""`lcx doctor`: what this machine has for lcx, what it lacks, and the line that mends each lack."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lcx.cli import options as opt
from lcx.cli.options import APP

app = typer.Typer(**APP)

MARKS = {"good": "ok", "note": "note", "lack": "lacks", "broken": "BROKEN"}


@app.command(
    name="doctor",
    epilog=opt.examples(
        "lcx doctor",
        "lcx doctor --model PATH_OR_HUB_ID --base-url localhost:8000",
        "lcx doctor --issue >> report.md",
    ),
)
def doctor(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Say how this model can be trained and asked."),
    ] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option("--base-url", metavar="URL", help="Ask this server for its models, without a key."),
    ] = None,
    device: opt.Device = "auto",
    issue: Annotated[
        bool, typer.Option("--issue", help="Print Markdown to paste into an issue, without your folders.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Look at Python, libraries, GPUs, disks, keys and plugins, and compute a small check; exit code 4 if anything is
    broken.
    """
    from lcx import plugins
    from lcx.cli import show
    from lcx.doctor import examine, healthy, issue_text
    from lcx.formatting import shown

    findings, group = [], ""
    for one in examine(plugins.loaded(), model=model, device=device, urls=base_url or ()):
        findings.append(one)
        if json or issue:
            continue
        if one.group != group:
            group = one.group
            print(group)
        print(f"  {MARKS[one.state]:6}  {shown(f'{one.name}: {one.found}')}", flush=True)
        if one.mend:
            print(f"          -> {one.mend}")
    sound = healthy(findings)
    if json:
        show.emit_json({"ok": sound, "findings": [asdict(one) for one in findings]})
    elif issue:
        print(issue_text(findings))
    elif sound:
        print("\nnothing is broken; next: lcx demo")
    if not sound:
        raise typer.Exit(4)
