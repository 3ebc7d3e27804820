"""The site of the guides: built strictly, whole, and true about exit codes and variables."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lcx import errors
from lcx.cli import scaffold
from tests.docs.test_docs import blocks

ROOT = Path(__file__).resolve().parents[2]
TROUBLE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
INNER = {
    "LCX_BREAKS",
    "LCX_COMPLETE",
    "LCX_LINE",
    "LCX_WORD",
    "LCX_WORDS",
    "LCX_LAUNCH_FOLDER",
    "LCX_LAUNCH_PARENT",
}
"""Names by which lcx, its processes and the scripts of its completion talk to each other."""


def test_every_guide_has_its_place_in_the_site() -> None:
    def pages(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part
        return [page for one in parts for page in pages(one)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages(site["nav"])) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_exit_codes_and_variables_are_told() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", TROUBLE, re.M)}
    kinds = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.LcxError)
    ]
    assert codes == {0, 130, *(kind.exit_code for kind in kinds)}
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "lcx").rglob("*.py"))
    read = set(re.findall(r"\bLCX_[A-Z_]+\b", code))
    assert read - INNER == set(re.findall(r"`(LCX_[A-Z_]+)`", TROUBLE))


def test_the_interface_has_all_that_guides_and_new_plugins_import() -> None:
    """What a plugin is told to import is described, name by name, and is there."""
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    told = re.findall(r"^::: (\S+)(?:\n +options: \{members: \[(.*)\]\})?$", page, re.M)
    described = {module: set(names.split(", ")) if names else None for module, names in told}
    for module, names in described.items():
        assert {name for name in names or () if not hasattr(importlib.import_module(module), name)} == set()
    files = scaffold.package("mine", scaffold.PARTS)
    code = [text for file, text in files.items() if file.startswith("lcx_") and file.endswith(".py")]
    for guide in ("plugins", "tutorial", "probes"):
        code += blocks(ROOT / f"docs/{guide}.md", "python")
    imported = {
        (node.module, alias.name)
        for text in code
        if "def test_" not in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lcx.")
        for alias in node.names
    }
    assert len(imported) > 30
    also = {("lcx.plugins", "Method"), ("lcx.plugins", "Stage")}  # what lcx.steps hands on
    imported = {("lcx.plugins", n) if ("lcx.plugins", n) in also else (m, n) for m, n in imported}
    imported -= {("lcx.settings", "setting")}  # pydantic's Field
    lacking = {
        (module, name)
        for module, name in imported
        if module not in described or name not in (described[module] or {name})
    }
    assert lacking == set(), "docs/api.md"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "StepWork" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
