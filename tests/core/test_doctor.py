"""`lcx doctor`: each lack is a finding with its remedy, whatever libraries do; keys and home folders stay unsaid."""

from __future__ import annotations

import http.server
import importlib.metadata
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcx import doctor, plugins
from lcx.doctor import BROKEN, GOOD, LACK, Finding
from tests.conftest import Ran


def named(findings: Any, name: str) -> Finding:
    return next(one for one in findings if one.name == name)


def test_a_library_of_another_version_is_named_with_the_line_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "trl" else plain(name))
    found = named(doctor._libraries(), "trl")
    assert (found.state, found.found) == (BROKEN, "0.1 is installed, and lcx wants <2,>=1.10")
    assert found.mend == "pip install 'trl<2,>=1.10'"


def test_keys_are_told_of_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    [found] = doctor._keys()
    assert "OPENAI_API_KEY is set, HF_TOKEN is not set" in found.found
    assert "secret" not in repr(found)


def test_folders_say_what_is_free_and_who_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCX_CACHE", str(tmp_path / "not/yet/there"))
    assert named(doctor._folders(), "cache").state in (GOOD, LACK)
    monkeypatch.setattr("os.access", lambda *_: False)
    found = named(doctor._folders(), "cache")
    assert (found.state, found.mend) == (BROKEN, "export LCX_CACHE=FOLDER")
    assert not (tmp_path / "not").exists()


def test_a_broken_plugin_is_a_finding() -> None:
    entry = plugins.Entry("bad", "bad_module", "lcx-bad", "1.0", "failed", "No module named 'nowhere'")
    loaded = plugins.Plugins(plugins.loaded().manager, [entry])
    found = named(doctor._plugins(loaded), "bad")
    assert found.state == BROKEN
    assert "lcx plugins uninstall" in found.mend


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [(200, GOOD, "1 model: m"), (401, GOOD, "wants a key"), (404, BROKEN, "HTTP 404")],
)
def test_servers_are_asked_without_a_key(status: int, state: str, said: str) -> None:
    heard = []

    class Listed(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m"}]}')

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listed) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = doctor._server(f"127.0.0.1:{server.server_port}")
    assert found.state == state
    assert said in found.found
    assert heard == [("/v1/models", None)]
    gone = doctor._server(f"127.0.0.1:{server.server_port}")
    assert gone.state == BROKEN
    assert "no answer" in gone.found


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code -11"),
        ("import select; select.select([], [], [])", "no end after"),
    ],
)
def test_a_process_that_ends_is_a_finding(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found before it ended stays."""
    line = '{"group": "PyTorch", "name": "GPU", "state": "good", "found": "x", "mend": ""}'
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nprint('noise')\nprint({line!r}, flush=True)\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(doctor, "SECONDS", 0.5 if "select" in code else 60)
    first, last = doctor._torch(None, "auto")
    assert first.name == "GPU"
    assert last.state == BROKEN
    assert said in last.found
    assert "after 'GPU'" in last.found


def test_packed_rows_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from lcx.modeling import shared_prefix

    [found] = doctor._agreement("cpu")
    assert found.state == GOOD
    plain = shared_prefix.pack

    def off_by_one(bundles: Any) -> Any:
        row = plain(bundles)
        return replace(row, position_ids=row.position_ids + (row.position_ids > 400))

    monkeypatch.setattr(shared_prefix, "pack", off_by_one)
    [found] = doctor._agreement("cpu")
    assert found.state == BROKEN
    assert "--set train.engine=trl" in found.mend


def test_what_goes_into_an_issue_names_no_home() -> None:
    text = doctor.issue_text([Finding("disk", "cache", GOOD, f"{Path.home()}/.cache/lcx, 70 GB free")])
    assert "~/.cache/lcx" in text
    assert str(Path.home()) not in text


def test_the_command_says_what_is_broken_and_ends_so(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "_torch", lambda *_: iter([Finding("PyTorch", "GPU", BROKEN, "gone", "mend it")])
    )
    ran = cli("doctor")
    assert ran.code == 4
    assert "BROKEN  GPU: gone\n          -> mend it" in ran.out
    assert cli("doctor", "--json").json["ok"] is False
    monkeypatch.setattr(doctor, "_torch", lambda *_: iter([]))
    assert cli("doctor").out.endswith("next: lcx demo\n")


@pytest.mark.slow
def test_this_machine(cli: Callable[..., Ran]) -> None:
    ran = cli("doctor", "--model", "tiny", "--json")
    found = {one["name"]: one for one in ran.json["findings"]}
    assert ran.code == 0, ran.out
    assert found["agreement"]["state"] == found["4-bit"]["state"] == "good"
    assert found["training"]["found"] == "one context for all of its branches"
