"""Writes are whole or absent, also on a full disk and in a folder that refuses them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcx import storage as files
from lcx.errors import LcxError
from lcx.storage import Journal, write_lines
from tests.conftest import Fault


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = files.write_text(tmp_path / "a.txt", "old")

    def breaks_off() -> None:
        with files.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks_off()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_writers_make_folders_and_keep_bytes(tmp_path: Path) -> None:
    assert files.write_bytes(tmp_path / "x/y/z.bin", b"\0\r\n").read_bytes() == b"\0\r\n"
    assert files.write_text(tmp_path / "t", "é\r\n").read_bytes() == "é\r\n".encode()
    assert files.read_json(files.write_json(tmp_path / "j", {"b": ["漢", 1]})) == {"b": ["漢", 1]}
    files.write_text(tmp_path / "bad.json", "{")
    with pytest.raises(LcxError, match="not valid JSON"):
        files.read_json(tmp_path / "bad.json")


def test_lone_surrogates_survive_a_json_line(tmp_path: Path) -> None:
    path = files.write_lines(tmp_path / "a.jsonl", [{"t": "\ud83d x"}, {"t": "é"}])
    import json

    assert [json.loads(line)["t"] for line in path.read_bytes().splitlines()] == ["\ud83d x", "é"]
    assert "é".encode() in path.read_bytes()


def test_no_json_file_holds_what_is_no_number(tmp_path: Path) -> None:
    value = {"loss": float("nan"), "by": [1.5, (float("inf"), {"x": -float("inf")})], "text": "NaN \ud800"}
    right = {"loss": None, "by": [1.5, [None, {"x": None}]], "text": "NaN \ud800"}
    write_lines(tmp_path / "rows.jsonl", [value])
    assert list(files.read_jsonl(tmp_path / "rows.jsonl")) == [right]
    files.write_json(tmp_path / "one.json", value)
    assert files.read_json(tmp_path / "one.json") == right


def test_a_killed_writer_leaves_only_what_is_swept_up(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from lcx.storage import atomic_path
        with atomic_path({str(tmp_path / "a.txt")!r}) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "a.txt").exists()
    assert files.remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def test_digests() -> None:
    assert files.sha256_json({"a": 1, "b": [2]}) == files.sha256_json({"b": [2], "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": "1"})
    assert files.sha256_text("abc").startswith("ba7816bf")


def test_digest_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert files.sha256_file(path) == files.sha256_text("abc")


def test_errors_of_other_files_are_not_called_write_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a"):
        Path("/nonexistent/other").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_error_with_a_way_out(small_disk: Path) -> None:
    files.write_text(small_disk / "kept", "kept")
    with pytest.raises(LcxError, match="no space left") as caught:
        files.write_bytes(small_disk / "big", b"x" * 200_000)
    assert "resumes" in caught.value.hint
    with pytest.raises(LcxError, match="no space left"):
        write_lines(small_disk / "rows.jsonl", ({"x": "y" * 100} for _ in range(5000)))
    assert os.listdir(small_disk) == ["kept"]


def test_a_full_disk_stops_a_parquet_shard(small_disk: Path) -> None:
    import pyarrow as pa

    from lcx.storage import write_parquet

    rows = ({"x": os.urandom(64).hex()} for _ in range(20_000))
    with pytest.raises(LcxError, match="no space left"):
        write_parquet(small_disk, "rows", rows, pa.schema([("x", pa.string())]))
    assert os.listdir(small_disk) == []


def test_a_journal_on_a_full_disk_keeps_whole_batches(small_disk: Path, fault: Fault) -> None:
    path = small_disk / "journal.jsonl"
    kept: list[int] = []

    def fill(journal: Journal) -> None:
        for number in range(1000):
            journal.append({"unit": f"{number}", "x": "y" * 900})
            kept.append(number)

    with Journal(path) as journal, pytest.raises(LcxError, match="no space left"):
        fill(journal)
    again = Journal(path)
    fault("full disks under a journal: entries", 1, len({str(number) for number in kept} ^ again.done))
    assert again.torn == 0
    again.close()


def test_a_read_only_folder_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """As root nothing is read-only, so a child that gave up root tries it."""
    folder = tmp_path / "locked"
    folder.mkdir()
    code = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import lcx.storage as files
        from lcx.errors import LcxError
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        for target in ({str(folder / "a")!r}, {str(folder / "sub/a")!r}):
            try:
                files.write_text(target, "x")
            except LcxError as bad:
                print(bad.what, "|", bad.hint)
    """
    for parent in (*folder.parents,):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    folder.chmod(0o755)
    assert done.stdout.count("cannot write") == 2, done.stderr
    assert done.stdout.count("Choose a folder") == 2
    assert os.listdir(folder) == []
