"""Options of tasks and files of sized probes: what may be said, what is refused, what a sized probe is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from lcx.data.templates import load_template
from lcx.errors import UsageError
from lcx.evaluation.planning import SETTINGS, PlannedTask, plan_tasks, read_sized
from lcx.evaluation.samples import TokenCounter, make_samples
from lcx.evaluation.settings import SHARED, EvalSettings
from lcx.evaluation.task import ProbeOptions, Task, options_of
from lcx.plugins import loaded
from lcx.settings import setting
from tests.evaluation.probing.toolbox import count_tokens, documents, encode
from tests.evaluation.tasks import probes


class Some(ProbeOptions):
    keys: int = setting(4, ge=2, le=9, description="keys of a context")
    fill: bool = setting(False, description="fill it")
    alpha: float = setting(2.0, description="exponent")
    stamp: Literal["date", "revision"] = setting("date", description="what tells them apart")


TASK = Task("p", "a probe", lambda source, options: [], options=Some)
OWN = ("keys", "fill", "alpha", "stamp")


def own(given: dict[str, Any]) -> dict[str, Any]:
    found = options_of(TASK, given)
    return {name: getattr(found, name) for name in OWN}


def test_options_have_defaults_and_take_what_a_command_line_gives() -> None:
    assert own({}) == {"keys": 4, "fill": False, "alpha": 2.0, "stamp": "date"}
    given = own({"keys": "9", "fill": "true", "alpha": 3, "stamp": "revision"})
    assert given == {"keys": 9, "fill": True, "alpha": 3.0, "stamp": "revision"}
    assert isinstance(given["alpha"], float)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kyes": 3}, r"options of p: unknown key 'kyes'\. Did you mean 'keys'\?"),
        ({"keys": 1}, r"'keys': input should be greater than or equal to 2, not 1"),
        ({"keys": 10}, r"'keys': input should be less than or equal to 9, not 10"),
        ({"keys": 2.5}, r"'keys': .*whole|'keys': .*integer.*2.5"),
        ({"keys": "many"}, r"'keys': .*integer.*'many'"),
        ({"keys": None}, r"'keys': .*None"),
        ({"keys": float("nan")}, r"'keys'"),
        ({"fill": "maybe"}, r"'fill': .*boolean.*'maybe'"),
        ({"alpha": "x"}, r"'alpha': .*number.*'x'"),
        ({"stamp": "revison"}, r"'stamp': .*'date' or 'revision', not 'revison'"),
        ({"sets": 0}, r"'sets'"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options_of(TASK, given)


def test_what_is_set_for_all_tasks_holds_where_a_task_has_it_and_does_not_say_otherwise() -> None:
    settings = EvalSettings.model_validate(
        {
            "tasks": ["needle", "val:code", "perplexity"],
            "sets": 2,
            "lengths": "512",
            "needle_contexts": "single",
            "buckets": 8,
            "options": {"val:code": {"sets": 3}, "perplexity": {"lengths": [64]}},
        }
    )
    needle, code, read = (one.options for one in plan_tasks(settings, loaded()))
    assert needle.model_dump() == {
        **{"sets": 2, "style": "natural", "lengths": (512,), "depths": 10, "records": (16, 32, 64)},
        "contexts": "single",
    }
    assert code.model_dump() == {"sets": 3, "style": "natural", "size": 800, "context_tokens": None}
    assert read.model_dump() == {"sets": 2, "style": "natural", "lengths": (64,), "buckets": 8}
    assert set(SHARED) <= set(EvalSettings.model_fields)


@pytest.mark.parametrize("name", list(probes()))
def test_every_probe_says_what_its_options_are_and_refuses_others(name: str) -> None:
    task = probes()[name]
    for option in task.options.model_fields.values():
        assert option.description
        assert not option.description.endswith(".")
    settings = EvalSettings.model_validate({"tasks": [name], "options": {name: {"colour": 1}}})
    with pytest.raises(UsageError, match=f"options of {name}: unknown key 'colour'"):
        plan_tasks(settings, loaded())


def test_options_of_no_task_are_refused_and_those_of_a_task_not_run_now_are_not() -> None:
    with pytest.raises(UsageError, match=r"no task here is named 'neddle'\. Did you mean 'needle'\?"):
        plan_tasks(EvalSettings(tasks=("needle",), options={"neddle": {"depths": 3}}), loaded())
    [one] = plan_tasks(EvalSettings(tasks=("needle",), options={"val:code": {"size": 3}}), loaded())
    assert one.name == "needle"


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def planned(path: Path, **more: Any) -> PlannedTask:
    [one] = plan_tasks(EvalSettings(tasks=(str(path),), **more), loaded())
    return one


def test_a_sized_probe(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# long needles\nprobe: needle\nname: needle-64k\nlengths: [65536]\ndepths: 20\nsets: 2\nlimit: 9\n",
    )
    assert (read_sized(path).name, read_sized(path).probe) == ("needle-64k", "needle")
    one = planned(path, sets=7, seed=5)
    assert (one.name, one.task and one.task.name, one.group) == ("needle-64k", "needle", str(path))
    assert one.options.model_dump(exclude={"records"}) == {
        **{"sets": 2, "style": "natural", "lengths": (65536,), "depths": 20, "contexts": "shared"}
    }
    assert (one.settings.limit, one.settings.seed) == (9, 5)
    assert planned(path, options={"needle": {"contexts": "single"}}).options.contexts == "single"  # type: ignore[attr-defined]
    many = planned(write(tmp_path, "probe: ruler:multikey\nkeys: 8\n", "many-keys.yml"))
    assert (many.name, many.options.keys) == ("many-keys", 8)  # type: ignore[attr-defined]
    old = planned(write(tmp_path, "probe: ruler:multikey\nknobs: {keys: 8}\n", "old.yml"))
    assert old.options == many.options, "where these options were, once"
    assert set(SETTINGS) <= set(EvalSettings.model_fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "probe: needle\nlenghts: [8]\n",
            r"mine.yaml, line 2: unknown key 'lenghts'\. Did you mean 'lengths'\?",
        ),
        ("probe: needle\nlengths: [8, 9\nsets: 2\n", r"mine.yaml, line [23]: not valid YAML"),
        ("probe: needle\n\tsets: 2\n", r"line 2: not valid YAML"),
        ("- probe\n", r"a sized probe is a YAML mapping"),
        ("", r"a sized probe is a YAML mapping"),
        ("lengths: [8]\n", r"'probe' names the probe"),
        ("probe: [needle]\n", r"'probe' names the probe"),
        ("probe: needle\nname: 7\n", r"line 2: 'name' is a text, not 7"),
        ("probe: needle\nsets: 2\nsets: 3\n", r"line 3: 'sets' is given again"),
        ("probe: needle\nsets: few\n", r"mine.yaml: 'sets'.*not 'few'"),
        ("probe: needle\nsets: 0\n", r"mine.yaml: 'sets'"),
        ("probe: needle\nlimit: 0\n", r"mine.yaml: 'limit'"),
        ("probe: needle\nlengths: [1]\n", r"mine.yaml: 'lengths': lengths are at least 2"),
        ("probe: needle\nknobs: [keys]\n", r"line 2: 'knobs' is a mapping"),
        ("probe: val:code\nsize: 0\n", r"mine.yaml: 'size'"),
        ("probe: val:code\nsize: a\n", r"mine.yaml: 'size'.*not 'a'"),
        ("probe: needle\nsize: 3\n", r"line 2: unknown key 'size'"),
        ("probe: longbench:qasper\n", r"has published questions, and no size"),
    ],
)
def test_bad_files_of_sized_probes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the probe's file"):
        read_sized(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"probe: n\xe9edle\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        read_sized(tmp_path / "latin.yaml")


def test_a_sized_probe_goes_by_its_own_name(tmp_path: Path) -> None:
    corpus = write(tmp_path, "\n\n".join(one.text for one in documents()), "corpus.txt")
    counter = TokenCounter(lambda text: list(range(count_tokens(text))), (), encode(), 4096)

    def made(path: str, **more: Any) -> Any:
        one = planned(Path(path), corpus=str(corpus), max_new_tokens=4, **more)
        assert one.task is not None
        return make_samples(one.name, one.task, one.settings, one.options, load_template("in2"), counter)[0]

    text = "lengths: [3000]\ndepths: 3\nsets: 1\n"
    sized = made(str(write(tmp_path, f"probe: ruler:multikey\nkeys: 8\n{text}", "many-keys.yaml")))
    whole = made("ruler:multikey", lengths=(3000,), depths=3, sets=1, options={"ruler:multikey": {"keys": 8}})
    assert (sized.name, whole.name) == ("many-keys", "ruler:multikey")
    assert [bundle.id for bundle in sized.bundles] == [
        bundle.id.replace("ruler:multikey:", "many-keys:") for bundle in whole.bundles
    ]
    assert [bundle.context for bundle in sized.bundles] == [bundle.context for bundle in whole.bundles]
    assert {bundle.kind for bundle in sized.bundles} == {"many-keys"}
    read = made(str(write(tmp_path, "probe: perplexity\nlengths: [64]\nsets: 1\n", "long-read.yaml")))
    assert [one.id for one in read.texts] == ["long-read:0:0"]
