"""What tests share: a cache and runs of their own, tiny models trained once, the command line in and out of this
process, and a toy method.
"""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: there are as many workers as cores. Before numpy or torch reads it; the user's choice holds.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lcx import plugins
from lcx.plugins import Plugins
from tests.tiny_store import TinyStore
from tests.toy import TOY_RECIPE, Toy

TEST_CACHE = os.environ.get("LCX_TEST_CACHE", "")
"""Where trained tiny models are kept between sessions; pytest's own cache folder unless the user names another."""
TRUTH = "LCX_TRUTH"
"""The one variable of the caller's that tests read: see tests/truth.py."""


LONGEST = (
    "slow/test_two_processes",
    "slow/test_logo_tiny",
    "slow/test_longreward_tiny",
    "slow/test_demo",
    "training/test_forecast_memory",
    "docs/test_docs",
    "slow/test_wheel",
    "training/test_preference.",
    "training/test_launch.",
    "training/test_curriculum",
    "training/test_sft",
)
"""The files of tests that take longest, first: one that began last would keep one worker busy and the other idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""

    def place(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(LONGEST) if f"tests/{name}" in item.nodeid), len(LONGEST))

    items.sort(key=place)


_modules = 0


def pytest_runtest_setup() -> None:
    """Leave what was imported out of later collections: transformers' trainer makes one at the end of each training,
    which takes 0.4 s with the libraries' objects in it.
    """
    global _modules
    if len(sys.modules) > _modules + 100:
        _modules = len(sys.modules)
        gc.freeze()


Fault = Callable[[str, int, int], None]
"""Type of the fixture `fault`."""
TABLES = {
    "tried": ("inputs tried", "refused", "set aside"),
    "faults": ("kills, cuts and faults tried", "lost or changed"),
}
"""Tables at the end of a session: the property that makes a row, title and columns; rows of one name are added."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was tried and what was lost, from whichever worker ran it."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, ())]
    for kind, (title, *columns) in TABLES.items():
        rows: dict[str, list[int]] = {}
        for name, *counts in (value for one in reports for key, value in one.user_properties if key == kind):
            for row in (name, "all"):
                rows[row] = [a + b for a, b in zip(rows.get(row, [0] * len(counts)), counts, strict=True)]
        if rows:
            terminalreporter.section(title)
            rows["all"] = rows.pop("all")  # last
            for name, numbers in {"": ["tried", *columns], **rows}.items():
                shown = (one if isinstance(one, str) else f"{one:,}" for one in numbers)
                terminalreporter.write_line(f"{name:48}" + "".join(f"{one:>16}" for one in shown))


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Fault:
    """`fault(name, tried, lost)` counts faults for the table, and fails where anything was lost or changed unsaid."""

    def count(name: str, tried: int, lost: int) -> None:
        record_property("faults", (name, tried, lost))
        assert not lost

    return count


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's cache, asks the network, or depends on the caller's LCX_ variables."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("LCX_", "_LCX_")) and name != TRUTH]:
        patch.delenv(name)
    patch.setenv("LCX_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_model(pytestconfig: pytest.Config, _environment: None) -> Callable[..., Path]:
    """`tiny_model(name="tiny", seed=0)` puts a trained tiny model into this session's cache, so that `--model tiny`
    finds it there, and returns its folder. It is trained once for all sessions and workers of these sources.
    """
    store = TinyStore(Path(TEST_CACHE or pytestconfig.rootpath / ".pytest_cache"))

    def ensure(name: str = "tiny", seed: int = 0) -> Path:
        return store.ensure(name, seed, Path(os.environ["LCX_CACHE"]))

    return ensure


@pytest.fixture(scope="session")
def smollm2(pytestconfig: pytest.Config, _environment: None) -> Path:
    """The folder of SmolLM2-135M-Instruct in this session's cache, so that `--model smollm2` finds it there."""
    from tests.real_model import put_into

    store = Path(TEST_CACHE or pytestconfig.rootpath / ".pytest_cache") / "lcx-smollm2"
    return put_into(Path(os.environ["LCX_CACHE"]), store)


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        import json

        return json.loads(self.out)


@pytest.fixture(scope="session")
def lcx_program() -> str:
    """The console script of this interpreter's environment."""
    program = Path(sys.executable).with_name("lcx")
    if not program.exists():
        pytest.skip(f"no console script {program}: pip install -e .")
    return str(program)


@pytest.fixture
def shell_lcx(lcx_program: str) -> Callable[..., Ran]:
    """Run the console script in a process of its own."""

    def run(*argv: str, cwd: Path | None = None, **environment: str) -> Ran:
        done = subprocess.run(
            [lcx_program, *argv],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **environment},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server, one for all tests that want it."""
    from tests.llm.serving import serving

    with serving(tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


@pytest.fixture(autouse=True)
def _sketches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels are filled, but painting them (a second a picture) is left to the tests marked `pictures`."""
    figure = sys.modules.get("matplotlib.figure")  # the first picture of a process is painted
    if figure is None or request.node.get_closest_marker("pictures"):
        return

    def saved(self: Any, fname: Any, *, format: str, **options: Any) -> None:
        Path(fname).write_bytes(b"\x89PNG\r\n\x1a\n" if format == "png" else b"<svg/>")

    monkeypatch.setattr(figure.Figure, "savefig", saved)
    monkeypatch.setattr(figure.Figure, "tight_layout", lambda self, **options: None)


@pytest.fixture
def toy() -> Toy:
    """The toy method's plugin object."""
    return Toy()


@pytest.fixture
def toy_plugins(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """Only the core and the toy method, for this process's command line too."""
    monkeypatch.setenv("LCX_PLUGINS", "")
    found = plugins.load(extra={"toy": toy})
    monkeypatch.setattr(plugins, "loaded", lambda: found)
    return found


@pytest.fixture
def toy_recipe(tmp_path: Path) -> Path:
    """A recipe file of the toy method."""
    path = tmp_path / "toy.yaml"
    path.write_text(TOY_RECIPE)
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process."""
    from lcx.cli.boundary import run

    def call(*argv: str) -> Ran:
        capfd.readouterr()
        code = run(argv)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call
