"""What may come from a stranger, and what it cannot do: each test bears the number of the line of SECURITY.md it holds.

Every case runs in a folder of its own, `box`, beside a folder `victim`; afterwards the tree around it has the digest
that it had before, and nothing was connected to but this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lcx import recipe
from lcx.context import Context, StepResult, stderr_console
from lcx.errors import LcxError, MissingError, UsageError
from lcx.plugins import Plugins
from lcx.recipe import Step
from lcx.run import Run
from lcx.settings import wrong_key_source

SYNTH = "method: in2\nsteps:\n  - stage: synth\n    corpus: stdlib:records:2\n    tokenizer: words\n"


def tree(folder: Path) -> str:
    """A digest of names, kinds, links and contents below a folder."""
    found = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(root, name)
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            found.update(repr((str(path), what)).encode())
    return found.hexdigest()


class Sandbox:
    """A working folder `box` beside a folder of somebody's files."""

    def __init__(self, around: Path) -> None:
        self.around, self.box, self.victim = around, around / "box", around / "victim"
        self.box.mkdir()
        self.victim.mkdir()
        (self.victim / "thesis.txt").write_text("ten years of work")
        (self.victim / "link").symlink_to("thesis.txt")

    def outside(self) -> str:
        """The digest of everything but what lies in `box`."""
        return tree(self.victim) + str(sorted(path.name for path in self.around.iterdir()))

    def recipe(self, text: str | bytes, name: str = "r.yaml") -> str:
        file = self.box / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return f"./{name}"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    (tmp_path / "around").mkdir()
    made = Sandbox(tmp_path / "around")
    before = made.outside()
    monkeypatch.chdir(made.box)
    connected: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    WATCHED.clear()
    yield made
    assert made.outside() == before, "something outside the folder changed"
    strange = [one for one in connected if isinstance(one, tuple) and one[0] not in HERE]
    assert not strange
    assert not [one for one in WATCHED if one not in HERE], "a name was looked up, or another machine called"


HERE = ("127.0.0.1", "::1", "localhost", None, "")
WATCHED: list[Any] = []
"""Hosts that anything in this process called or looked up, whichever library did."""


def _watch(event: str, given: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto") and isinstance(given[-1], tuple):
        WATCHED.append(given[-1][0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = given[0]
        WATCHED.append(host.decode() if isinstance(host, bytes) else host)


sys.addaudithook(_watch)


LAUGHS = "".join(
    f"      k{n}: &b{n} [{','.join(['*b' + str(n - 1)] * 9) if n else 'lol'}]\n" for n in range(9)
)
BAD_NAMES = [
    "../victim", "..", ".", "/tmp/x", "a/b", "x\ny", "a\0b", "a" * 300, "-rf", ".lock", "\x1b[31mred", "\u200b", " ",
    "manifest.json", "Report.html", "caf\u00e9", "a\\b", "", "~", "a b", "x" * 65, "\u202eabc",
]  # fmt: skip
BAD_YAML = {
    "a key given twice": (SYNTH + "    corpus: other\n", "line 6: 'corpus' is given again"),
    "steps given twice": (SYNTH + "steps:\n  - stage: train\n", "line 6: 'steps' is given again"),
    "aliases that multiply": (SYNTH + "    llm_options:\n" + LAUGHS, "more than 20,000 values"),
    "an alias of itself": (SYNTH + "    llm_options: &s\n      me: *s\n", "*s holds itself"),
    "a number of 5,000 digits": (SYNTH + f"    seed: {'9' * 5000}\n", "a number of 5,000 digits"),
    "a number of 5,000 digits as a text": (SYNTH + f"    seed: '{'9' * 5000}'\n", "'seed'"),
    "a number of 100 digits as a text": (SYNTH + f"    seed: '{'9' * 100}'\n", "more than 64 bits"),
    "deep lists": (SYNTH + f"    llm_options: {'[' * 2000}{']' * 2000}\n", "nested deeper than 40"),
    "deep lists without an end": (SYNTH + "    llm_options: " + "[" * 100_000, "nested deeper than 40"),
    "depth by aliases": (
        SYNTH + "    llm_options:\n      a: &a " + "[" * 30 + "]" * 30 + "\n      b: " + "[" * 30 + "*a" + "]" * 30,
        "nested deeper than 40",
    ),
    "30,000 steps": ("method: in2\nsteps:\n" + "  - stage: synth\n" * 30_000, "more than 20,000 values"),
    "101 steps": ("method: in2\nsteps:\n" + "".join(map("  - {{stage: synth, id: s{}}}\n".format, range(101))), "101"),
    "2 MiB": ("#" * (2 << 20), "larger than 1 MiB"),
    "an infinity": (SYNTH + "    temperature: .inf\n", ".inf is no number"),
    "no number": (SYNTH + "    llm_options: {x: -.NaN, y: .NaN}\n", ".NaN is no number"),
    "a number past all floats": (SYNTH + "    temperature: 1e999\n", "1e999 is no number"),
    "an infinity in words": (SYNTH + "    temperature: inf\n", "finite number"),
    "UTF-16": (SYNTH.encode("utf-16"), "not valid YAML"),
    "NUL": (SYNTH + "    llm: 'a\0b'\n", "not valid YAML"),
    "NUL, escaped": (SYNTH + '    llm: "a\\0b"\n', "NUL"),
    "half a surrogate pair": (SYNTH + '    llm: "\\ud800"\n', "line 6"),
    "code": (SYNTH + "    llm: !!python/object/apply:os.system ['touch ../victim/x']\n", "the tag !!python/object"),
    "a function": (SYNTH + "    llm: !function os.system\n", "the tag !function"),
    "bytes": (SYNTH + "    llm: !!binary aGVsbG8=\n", "the tag !!binary"),
    "two documents": (SYNTH + "---\n" + SYNTH, "a second document"),
    "a key that is a list": (SYNTH + "    ? [a]\n    : 1\n", "a key is one word"),
    "a name that is a list": ("name: [a]\n" + SYNTH, "'name' is a text"),
    "clock": (SYNTH + "    concurrency: 1:30\n", "not '1:30'"),
    "ids that differ in capitals": (
        "method: in2\nsteps:\n  - {id: a, stage: synth}\n  - {id: A, stage: train}\n", "'a' and 'A'"
    ),
}  # fmt: skip


def commands(file: str) -> list[list[str]]:
    return [["recipes", "validate", file], ["recipes", "show", file], ["run", "--recipe", file, "--dry-run"]]


def test_1_names_that_lead_elsewhere_are_refused(sandbox: Sandbox, cli: Callable) -> None:
    names = []
    for number, name in enumerate(BAD_NAMES):
        escaped = "".join(f"\\U{ord(sign):08x}" for sign in name)
        texts = [SYNTH + f'    id: "{escaped}"\n', f'name: "{escaped}"\n' + SYNTH]
        for text in texts[: 2 if name else 1]:  # an empty name is none: the file's own is taken
            names.append(sandbox.recipe(text, f"r{number}-{len(names)}.yaml"))
    before = tree(sandbox.box)
    ran = cli("recipes", "validate", ".", "--json")
    assert ran.code == 2
    assert {one["recipe"] for one in ran.json["recipes"] if not one["ok"]} == set(names)
    assert "bug" not in ran.out
    for file in names[:2]:
        assert [cli(*words).code for words in commands(file)] == [2, 2, 2]
    assert tree(sandbox.box) == before


def test_1_no_setting_of_a_file_names_a_file_that_is_written(sandbox: Sandbox, cli: Callable) -> None:
    line = "retriever: 'openai:m'\n    retriever_options: {cache: ../victim/x.sqlite}\n"
    text = f"method: longreward\nsteps:\n  - stage: score\n    input: rows\n    {line}"
    ran = cli("recipes", "validate", sandbox.recipe(text))
    assert ran.code == 2
    assert "'retriever_options.cache' counts only from the command line" in ran.out


@pytest.mark.parametrize("kind", BAD_YAML)
def test_2_a_file_of_settings_holds_plain_values_only(kind: str, sandbox: Sandbox, cli: Callable) -> None:
    text, message = BAD_YAML[kind]
    file = sandbox.recipe(text)
    before = tree(sandbox.box)
    ran = cli(*commands(file)[list(BAD_YAML).index(kind) % 3])
    assert ran.code == 2, ran
    assert message in ran.out + ran.err
    assert len(ran.out + ran.err) < 1500
    assert tree(sandbox.box) == before


@pytest.mark.parametrize(
    "line",
    [f"seed = {'9' * 5000}", f"seed = {'9' * 30}", "temperature = inf", "llm_options = {x = nan}", 'llm = "a\\u0000b"',
     f"llm_options = {{x = {'[' * 5000}{']' * 5000}}}", f"llm_options = {{x = {'[' * 90}{']' * 90}}}",
     "seed = 1\nseed = 2"],
    ids=lambda line: line[:20],
)  # fmt: skip
def test_2_so_does_a_project_file(line: str, sandbox: Sandbox, cli: Callable) -> None:
    (sandbox.box / "lcx.toml").write_text(f"[steps.synth]\n{line}\n")
    ran = cli("recipes", "show", sandbox.recipe(SYNTH))
    assert ran.code == 2, ran
    assert "bug" not in ran.err
    assert len(ran.err) < 1500


def test_2_values_are_what_they_look_like(sandbox: Sandbox, cli: Callable) -> None:
    text = (
        "name: no\nmethod: in2\nsteps:\n  - stage: synth\n    id: yes\n    corpus: 2001-01-01\n    seed: 010\n"
        "    examples: 1_000\n    tokenizer: on\n    temperature: 1e-1\n"
        "    llm_options: {a: &a {n: 1.50, b: 0x1f}, c: {<<: *a, n: no}}\n  - {stage: train, id: 1e5, model: 0.10}\n"
    )
    ran = cli("recipes", "show", sandbox.recipe(text), "--json")
    assert ran.code == 0, ran.err
    step, train = ran.json["steps"]
    found = step["settings"]
    assert (train["id"], train["settings"]["model"]) == ("1e5", "0.10")
    assert (ran.json["name"], step["id"]) == ("no", "yes")
    names = ("corpus", "seed", "examples", "tokenizer", "temperature")
    assert [found[name] for name in names] == ["2001-01-01", 10, 1000, "on", 0.1]
    assert found["llm_options"] == {"a": {"n": 1.5, "b": "0x1f"}, "c": {"n": "no", "b": "0x1f"}}


# -- keys

KEY = "s3cr3t-of-mine"
EVIL = "http://127.0.0.1:9/v1"
OWN = "http://localhost:8000/v1"


def asked(text: str, *words: str, project: dict[str, Any] | None = None) -> tuple[str, str]:
    """The key that the writer's server would get and the server, by a recipe's text and --set words."""
    from lcx import plugins
    from lcx.llm.client import Service
    from lcx.llm.openai import find_endpoint
    from lcx.llm.settings import Calling

    Path("r.yaml").write_text(text)
    loaded = plugins.load()
    found = recipe.load("./r.yaml", loaded)
    sets = [recipe.parse_set(word, ["synth"], "synth") for word in words]
    [step] = recipe.resolve(found, loaded, sets=sets, project=project or {})
    assert isinstance(step.settings, Calling)
    service = Service(Path("service"), step.settings, Context())
    options = service._options("openai:m", step.settings.llm_options)  # type: ignore[attr-defined]
    service.close()
    place = find_endpoint(options)
    return place.key, place.url


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Path:
    for name in ("OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (sandbox.box / "key.txt").write_text(KEY)
    return sandbox.box / "key.txt"


ASKS = SYNTH + "    llm: openai:m\n"
STRANGE = {
    "a server": f"    base_url: {EVIL}\n",
    "a server and a variable": f"    base_url: {EVIL}\n    api_key_env: HF_TOKEN\n",
    "a server and a file": f"    base_url: {EVIL}\n    api_key_file: key.txt\n",
    "a server in options": f"    llm_options: {{base_url: '{EVIL}'}}\n",
    "all in options": f"    llm_options: {{base_url: '{EVIL}', api_key_env: HF_TOKEN, api_key_file: key.txt}}\n",
    "a key in options": f"    base_url: {EVIL}\n    llm_options: {{api_key_file: key.txt}}\n",
    "the default's name": f"    base_url: {EVIL}\n    api_key_env: OPENAI_API_KEY\n",
    "an empty name": f"    base_url: {EVIL}\n    llm_options: {{api_key_env: ''}}\n",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_3_no_key_goes_to_a_server_that_a_file_names(kind: str, secrets: Path) -> None:

    import yaml

    assert asked(ASKS + STRANGE[kind])[0] == "none"
    toml = yaml.safe_load("x:\n" + STRANGE[kind])["x"]
    assert asked(ASKS, project={"synth": toml}) == ("none", EVIL)
    assert asked(ASKS + STRANGE[kind], "llm_options.extra={}")[0] == "none"
    with pytest.raises(UsageError, match="gets no key of yours"):
        asked(ASKS + STRANGE[kind], "llm_options.api_key_env=HF_TOKEN")


def test_a_key_longer_than_any_file_name_is_told_from_a_file() -> None:
    assert "the key itself" in wrong_key_source("api_key_file", "a" * 300)


@pytest.mark.parametrize("line", ["api_key_env: HF_TOKEN", "api_key_file: key.txt"])
def test_3_a_file_names_no_key_for_ones_own_server_either(line: str, secrets: Path) -> None:
    assert asked(ASKS + f"    {line}\n", f"base_url={OWN}") == ("none", OWN)
    with pytest.raises(MissingError) as bad:  # the hosted service wants one
        asked(ASKS + f"    {line}\n")
    assert "--set" in bad.value.hint


def test_3_the_user_names_server_and_key(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(ASKS)[0] == KEY
    assert asked(ASKS, f"base_url={OWN}") == (KEY, OWN)
    monkeypatch.setenv("MINE", "another")
    strange = ASKS + f"    base_url: {EVIL}\n    api_key_env: HF_TOKEN\n"
    assert asked(strange, f"base_url={EVIL}", "api_key_env=MINE") == ("another", EVIL)
    assert asked(strange, f"base_url={EVIL}", f"api_key_file={secrets}")[0] == KEY
    inner = f"llm_options.base_url={OWN}"
    assert asked(ASKS + f"    base_url: {EVIL}\n", inner) == (KEY, OWN)
    monkeypatch.setenv("OPENAI_BASE_URL", EVIL + "/")
    assert asked(ASKS + f"    base_url: {EVIL}\n")[0] == KEY
    assert asked(ASKS)[0] == KEY


@pytest.mark.slow
def test_3_a_run_says_what_was_withheld_and_how_to_name_it(
    secrets: Path, cli: Callable, sandbox: Sandbox
) -> None:
    """A server that takes down what it is sent, and sends calls on to another place."""
    import http.server
    import threading

    heard: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(
                f"{self.path} {self.headers} {self.rfile.read(int(self.headers['content-length']))!r}"
            )
            self.send_response(307 if "v1" in self.path else 200)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    text = (
        ASKS
        + f"    base_url: {url}\n    api_key_env: HF_TOKEN\n    segment_by: lines\n    segment_tokens: 4\n"
    )
    text += "    examples: 8\n    mix: {fine: 1.0}\n    context_tokens: [60, 100]\n    tries: 1\n"
    try:
        ran = cli("synth", "--recipe", sandbox.recipe(text))
    finally:
        server.shutdown()
    assert ran.code == 2, ran.err
    assert heard
    assert all(KEY not in one and one.startswith("/v1/") for one in heard)
    assert f"--base-url {url}" in ran.err
    assert "--set synth.api_key_env=HF_TOKEN" in ran.err
    kept = "".join(path.read_text(errors="ignore") for path in sandbox.box.rglob("*") if path.is_file())
    assert kept.count(KEY) == 1  # in the user's own key.txt


FALSE_NAMES = [
    "sk-abcdefghijklmnop", "hf_AbCdEfGhIjKlMnOp", "gsk_0123456789abcdef", "AIzaSyA1234567890abcdefghijk",
    "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6", "Bearer abc", "sk-proj-AAAA_BBBB", "0123456789abcdef",
]  # fmt: skip


def test_4_a_key_in_place_of_its_name_is_neither_kept_nor_shown(sandbox: Sandbox, cli: Callable) -> None:
    for key in FALSE_NAMES:
        lines = [f"    api_key_env: '{key}'\n", f"    llm_options: {{api_key_env: '{key}'}}\n"]
        if key[0] in "shg":
            lines.append(f"    api_key_file: '{key}'\n")
        for line in lines:
            ran = cli("run", "--recipe", sandbox.recipe(ASKS + line), "--dry-run")
            assert ran.code == 2, (key, ran)
            assert key not in ran.out + ran.err
        ran = cli("synth", "--recipe", sandbox.recipe(ASKS), "--set", f"api_key_env={key}")
        assert ran.code == 2
        assert key not in ran.out + ran.err
    assert not (sandbox.box / "runs").exists()


# -- code

EVAL = "method: in2\nsteps:\n  - stage: eval\n    model: tiny\n    tasks: ['lm-eval:x']\n"


def test_5_a_file_names_no_folder_of_tasks_for_lm_eval(sandbox: Sandbox, cli: Callable) -> None:
    for line in ("    data: {lm-eval: tasks}\n", "    lm_eval_code: true\n"):
        for words in commands(sandbox.recipe(EVAL + line)):
            ran = cli(*words)
            assert ran.code == 2, ran
            assert "counts only from the command line" in ran.out + ran.err
    (sandbox.box / "lcx.toml").write_text("[steps.eval.data]\nlm-eval = 'tasks'\n")
    ran = cli("eval", "--model", "tiny", "--task", "needle", "--dry-run")
    assert ran.code == 2
    assert "--set eval.data.lm-eval=tasks" in ran.err


TASK = "task: x\ndataset_path: json\noutput_type: generate_until\ntest_split: test\ndoc_to_target: y\n"
CODE = {
    "a function": "doc_to_text: !function utils.run\n",
    "its tag spelt out": "doc_to_text: !%66unction utils.run\n",
    "a class": "class: utils.Task\n",
    "a metric from the hub": "metric_list:\n  - metric: somebody/metric\n",
    "a metric in a file": "metric_list:\n  - metric: ./metric.py\n    hf_evaluate: true\n",
    "code beside data": "dataset_kwargs: {trust_remote_code: true}\n",
    "a file elsewhere": "include: ../../victim/thesis.txt\n",
    "a file of another kind": "include: more.txt\n",
}


@pytest.mark.parametrize("kind", CODE)
def test_6_task_files_of_lm_eval_run_no_code_unasked(kind: str, sandbox: Sandbox) -> None:
    pytest.importorskip("lm_eval")
    from lcx.evaluation.bridge import _refuse_code

    folder = sandbox.box / "tasks"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "more.txt").write_text("doc_to_text: !function utils.run\n")
    file = folder / "deep" / "x.yaml"
    file.write_text(TASK)
    _refuse_code(folder)
    file.write_text(TASK + CODE[kind])
    with pytest.raises(UsageError, match="may run code"):
        _refuse_code(folder)


def test_6_templates_of_task_files_reach_no_code() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    from jinja2.exceptions import SecurityError

    from lcx.evaluation.bridge import _sandbox_templates

    _sandbox_templates()
    assert utils.apply_template("{{a}}-{{b|regex_replace('x', 'y')}}", {"a": 1, "b": "x"}) == "1-y"
    with pytest.raises(SecurityError):
        utils.apply_template("{{ ''.__class__.__mro__[1].__subclasses__() }}", {})


# -- a run folder


@pytest.fixture
def toy_steps(toy_plugins: Plugins, toy_recipe: Path) -> list[Step]:
    return recipe.resolve(recipe.load(str(toy_recipe), toy_plugins), toy_plugins, project={})


LINKS = {
    "the lock": (".lock", "thesis.txt", "is a link to"),
    "a step": ("synth", ".", "leads out of the run"),
    "a step, by a link that is absolute": ("synth", "/", "leads out of the run"),
    "what a step made": ("synth/data", ".", "leads out of the run"),
    "a journal": ("synth/journal.jsonl", "thesis.txt", "leads out of the run"),
    "paid calls": ("synth/calls.sqlite", "thesis.txt", "leads out of the run"),
    "a folder inside": ("synth/data/deep/er", ".", "leads out of the run"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_7_links_in_a_run_folder_reach_nothing_outside(
    kind: str, sandbox: Sandbox, toy_steps: list[Step]
) -> None:
    name, target, said = LINKS[kind]
    run, step, prints = Run(sandbox.box / "run", "toy"), toy_steps[0], {"stage": "synth"}
    run.begin(step, prints)
    (run.folder(step) / "work").write_text("half")
    link = run.path / name
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target if target == "/" else sandbox.victim / target)
    for force in (False, True):
        found = Run(run.path, "toy")
        with contextlib.suppress(LcxError), found.lock():
            found.begin(step, prints, force=force)
            assert force, "begun among links"
            assert not link.is_symlink()  # it is gone, not what it led to
        if not force:
            with pytest.raises(UsageError, match=said), found.lock():
                found.begin(step, prints)


def test_7_a_journal_that_is_a_link_is_not_opened(sandbox: Sandbox) -> None:
    from lcx.storage import Journal

    (sandbox.box / "journal.jsonl").symlink_to(sandbox.victim / "thesis.txt")
    with pytest.raises(LcxError):
        Journal(sandbox.box / "journal.jsonl")
    (sandbox.box / "new.jsonl").symlink_to(sandbox.victim / "new.jsonl")
    with pytest.raises(UsageError, match="is a link to"):
        Journal(sandbox.box / "new.jsonl")


def test_7_ones_own_links_stay(sandbox: Sandbox, toy_steps: list[Step]) -> None:
    (sandbox.box / "disk").mkdir()
    (sandbox.box / "run").symlink_to("disk")
    run = Run(sandbox.box / "run", "toy")
    with run.lock():
        run.begin(toy_steps[1], {})
        (sandbox.box / "weights").mkdir()
        (run.folder("train") / "model").symlink_to(sandbox.box / "weights")
        run.finish(toy_steps[1], StepResult(files={"model": "model"}))
    assert run.resolve("step:train", "model").is_dir()
    assert Run(run.path, "toy").begin(toy_steps[1], {}) == "done"


def test_8_a_manifest_names_no_folder_outside(sandbox: Sandbox, toy_steps: list[Step]) -> None:
    run = Run(sandbox.box / "run", "toy")
    run.begin(toy_steps[0], {})
    for key in ("../../victim", str(sandbox.victim), "..", "."):
        run.manifest["steps"][key] = {"state": "done", "fingerprint": {}, "files": {"x": "thesis.txt"}}
        run._save()
        for force in (False, True):
            with pytest.raises(UsageError, match="leads out of the run"):
                Run(run.path, "toy").begin(toy_steps[0], {"new": 1}, force=force)
        del run.manifest["steps"][key]


@pytest.mark.parametrize("name", ["../../../victim/thesis.txt", "/victim/thesis.txt", "out/thesis.txt"])
def test_8_nor_does_a_record_name_files_outside_that_are_put_by(
    name: str, sandbox: Sandbox, toy_steps: list[Step]
) -> None:
    run, step = Run(sandbox.box / "run", "toy"), toy_steps[0]
    run.begin(step, {})
    (run.folder(step) / "out").symlink_to(sandbox.victim)
    name = name.replace("/victim", str(sandbox.victim)) if name.startswith("/") else name
    run.finish(step, StepResult(files={"rows": name.replace(".txt", ".json")}))
    (sandbox.victim / "thesis.json").write_text("{")
    before = {path: path.read_bytes() for path in sandbox.victim.rglob("*") if path.is_file()}
    run.manifest["steps"]["synth"]["outputs"] = {name: [1, 1, "other"]}
    run._save()
    Run(run.path, "toy").put_by("synth")
    assert before == {path: path.read_bytes() for path in sandbox.victim.rglob("*") if path.is_file()}
    (sandbox.victim / "thesis.json").unlink()


# -- what is shown

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202egnp\x9b31m\r[bold]x[/bold]"


def test_9_escapes_are_shown_not_sent(
    sandbox: Sandbox, cli: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    escaped = "".join(f"\\U{ord(sign):08x}" for sign in ESCAPE)
    file = sandbox.recipe(f'summary: "{escaped}"\n' + SYNTH + f'    llm: "{escaped}"\n')
    hostile = sandbox.recipe(SYNTH + f'    "{escaped}": 1\n', "hostile.yaml")
    named = sandbox.box / f"{ESCAPE.replace('/', '')}.yaml"
    named.write_text("method: in2")
    lines = [
        *commands(file), *commands(hostile), ["recipes", "validate", "."], ["recipes", "show", str(named)],
        ["synth", "--recipe", file, "--set", f"seed={ESCAPE}"], ["synth", "--recipe", ESCAPE],
        ["synth", "--recipe", file, f"--{ESCAPE}"], [ESCAPE], ["recipes", "copy", file, f"{ESCAPE}.yaml"],
    ]  # fmt: skip
    for words in lines:
        ran = cli(*words)
        assert not set(ran.out + ran.err) & set("\x1b\x07\x9b\r\u202e"), words
    ran = cli("recipes", "show", file, "--json")
    assert ran.json["summary"] == ESCAPE
    assert "\\u001b" in ran.out
    Context(console=stderr_console()).log(ESCAPE)
    said = capfd.readouterr().err
    assert "\\u001b]0;owned" in said
    assert "[bold]" in said
    assert "\x1b" not in said


def test_9_completion_leaves_such_names_out(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    from lcx.cli.answer import answer

    (sandbox.box / f"{ESCAPE.replace('/', '')}.yaml").write_text("method: in2")
    (sandbox.box / "mine.yaml").write_text("method: in2")
    answer({"_LCX_COMPLETE": "fish", "_LCX_WORDS": "lcx\nrecipes\nshow", "_LCX_WORD": "./"})
    out = capsys.readouterr().out
    assert "mine.yaml" in out
    assert "\x1b" not in out


def test_10_a_page_runs_no_script_and_sends_nothing() -> None:
    from importlib.resources import files

    page = (files("lcx.evaluation.show") / "page.html").read_text(encoding="utf-8")
    for rule in (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "script-src '{{ script_hash }}'",
    ):
        assert rule in page


# -- the working folder


def test_11_no_module_is_taken_from_the_working_folder(sandbox: Sandbox) -> None:
    trap = f"open({str(sandbox.victim / 'ran')!r}, 'w'); raise SystemExit('trapped')"
    for name in ("yaml", "typer", "rich", "json", "pydantic", "torch", "accelerate", "sitecustomize"):
        (sandbox.box / f"{name}.py").write_text(trap)
    ran = subprocess.run(
        [sys.executable, "-m", "lcx", "recipes", "list"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    from lcx.training.plan import LaunchPlan

    empty = {**os.environ, "PYTHONPATH": os.pathsep}  # an empty part is the working folder
    (sandbox.box / "sitecustomize.py").unlink()  # Python's own, before anything of lcx
    program = Path(sys.executable).with_name("lcx")
    ran = subprocess.run([program, "recipes", "list"], capture_output=True, text=True, check=False, env=empty)
    assert ran.returncode == 0, ran.stderr
    plan = LaunchPlan(config={}, strategy="ddp", local=2, processes=2, rank=0, cpu=True)
    assert plan.argv(Path("x"))[1] == "-P"
    assert plan.environment()["PYTHONSAFEPATH"] == "1"
    words = [plan.argv(Path("x"))[0], "-c", "import yaml"]
    subprocess.run(words, env={**os.environ, **plan.environment()}, check=True)


def test_11_every_python_that_lcx_starts_leaves_the_working_folder_out() -> None:
    root = Path(__file__).resolve().parents[2]
    for file in (*root.glob("lcx/**/*.py"), *root.glob("plugins/**/*.py")):
        text = file.read_text(encoding="utf-8")
        for found in re.finditer(r'sys\.executable,\s*"(-[A-Za-z])"', text):
            assert found[1] == "-P", file


# -- data


def test_14_odd_files_of_a_corpus_and_a_run_hang_nothing(sandbox: Sandbox) -> None:
    from lcx.data.documents import read_corpus
    from lcx.data.files import Rejects
    from lcx.evaluation.scores import find_results
    from lcx.storage import Journal

    corpus, rejects = sandbox.box / "corpus", Rejects()
    corpus.mkdir()
    (corpus / "good.txt").write_text("One two three.")
    os.mkfifo(corpus / "pipe.txt")
    (corpus / "zero.jsonl").symlink_to("/dev/zero")
    (corpus / "cut.jsonl").write_bytes(b'{"text": "\\ud800", "id": 1}\n{"text": ')
    found = list(read_corpus(str(corpus), rejects=rejects, questions=False, notes=[]))
    assert "One two three." in [document.text for document in found]
    assert len(rejects) >= 3
    for kind in ("pipe", "zero"):
        folder = sandbox.box / kind / "eval" / "m"
        folder.mkdir(parents=True)
        for name in ("scores.json", "settings.yaml", ".record.json", "journal.jsonl"):
            os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to("/dev/zero")
        with pytest.raises(LcxError, match="no regular file"):
            find_results(sandbox.box / kind)
        with pytest.raises(LcxError):
            Journal(folder / "journal.jsonl", read_only=True)
        with pytest.raises(UsageError):
            Run(sandbox.box / kind, "toy")


# -- servers and models


@pytest.mark.slow
def test_12_a_server_is_not_followed_to_another(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chat endpoint's case is `test_3_a_run_says_what_was_withheld_and_how_to_name_it`; this is embeddings'."""
    pytest.importorskip("openai")
    from lcx.retrieval import Endpoint

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Endpoint("m", {"base_url": OWN})
    assert server._client._client.follow_redirects is False
    server.close()


def test_13_a_model_folder_runs_no_code(sandbox: Sandbox) -> None:
    from lcx.hub import pretrained

    class Kind:
        @staticmethod
        def from_pretrained(spec: str, **options: Any) -> Any:
            return options["trust_remote_code"]

    (sandbox.box / "config.json").write_text('{"auto_map": {"AutoModel": "code.Model"}}')
    assert pretrained(Kind, str(sandbox.box)) is False
    assert pretrained(Kind, str(sandbox.box), trust_remote_code=True) is False
    from lcx.retrieval import _refuse_modules

    modules = [{"type": "sentence_transformers.models.Pooling"}, {"type": "code.Model"}]
    (sandbox.box / "modules.json").write_text(json.dumps(modules[:1]))
    _refuse_modules(str(sandbox.box))
    (sandbox.box / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UsageError, match="its own code"):
        _refuse_modules(str(sandbox.box))


def test_every_line_of_the_security_document_has_its_test() -> None:
    text = (Path(__file__).resolve().parents[2] / "SECURITY.md").read_text(encoding="utf-8")
    lines = {int(number) for number in re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE)}
    tests = {int(found[1]) for name in globals() if (found := re.match(r"test_(\d+)_", name))}
    assert lines == tests
