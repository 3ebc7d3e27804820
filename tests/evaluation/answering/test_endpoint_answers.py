"""Answers of a model behind a server: the order of the requests, faults, the journal, and a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcx.context import Context
from lcx.data.templates import Template
from lcx.errors import LcxError, MissingError, UsageError
from lcx.evaluation import served_model as module
from lcx.evaluation.model import Answer, Answerer, self_check
from lcx.evaluation.samples import ContextPrompts
from lcx.evaluation.served_model import open_endpoint
from lcx.llm.settings import Calling
from lcx.records import Branch, Bundle, EncodedBundle
from tests.llm.models import tiny_llama
from tests.llm.stub_server import Reply, Stub, prompt_of

TEMPLATE = Template("t", head="Read.\n", between="\n\nQ: ", after="?", cue="\nA:", bare_head="Q: ", end=" ;")


def job(context: str, questions: int, name: str = "") -> ContextPrompts:
    branches = tuple(Branch(f"question {number}", "", "query") for number in range(questions))
    bundle = Bundle(name or context[:8], branches, context=context)
    return ContextPrompts(bundle, EncodedBundle(bundle.id, np.zeros(1), ()))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Answerer]]:
    made: list[Answerer] = []

    def open_one(stub: Stub, **settings: Any) -> Answerer:
        calling = Calling(base_url=stub.url, **{"concurrency": 1, **settings})
        made.append(open_endpoint("openai:m", TEMPLATE, calling, tmp_path, Context()))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def test_prompts_and_answers(opened: Callable[..., Answerer]) -> None:
    def script(body: dict[str, Any]) -> Reply:
        last = prompt_of(body).split("Q: ")[1]
        return Reply(f"to {last}", finish="length" if "1" in last else "stop", usage=(50, 7))

    told: list[tuple[int, int, Answer]] = []
    with Stub(script) as stub:
        answerer = opened(stub)
        jobs = [job("ctx b", 2), job("", 1), ContextPrompts(job("gone", 1).bundle, None), job("ctx a", 1)]
        found = answerer.answer(jobs, max_new_tokens=9, on_answer=lambda *one: told.append(one))
    assert found == [
        [Answer("to question 0?", "stop", 7), Answer("to question 1?", "length", 7)],
        [Answer("to question 0?", "stop", 7)],
        [],
        [Answer("to question 0?", "stop", 7)],
    ]
    assert {(number, place): one for number, place, one in told} == {
        (number, place): one for number, row in enumerate(found) for place, one in enumerate(row)
    }
    body = next(one for one in stub.bodies if "ctx b" in prompt_of(one))
    # One message of the user, without the cue that a bare prompt ends with: the server has a chat template.
    assert [m["role"] for m in body["messages"]] == ["user"]
    assert prompt_of(body) == "Read.\nctx b\n\nQ: question 0?"
    assert any(prompt_of(one) == "Q: question 0?" for one in stub.bodies)
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (9, 0.0, [" ;"])
    assert self_check(answerer, jobs, 4, 0, max_new_tokens=9) == {}
    about = answerer.describe()
    assert (about["way"], about["reuse"]) == ("endpoint", True)
    assert about["calls"]["calls"] == 4


@pytest.mark.parametrize("concurrency", [1, 5])
def test_requests_come_in_the_order_of_their_contexts(
    opened: Callable[..., Answerer], concurrency: int
) -> None:
    """Contexts in any order, their questions mixed up by how long answers take: each context is one run."""
    names = [f"context {letter} " + "word " * 50 for letter in "dbeac"]
    counts = [4, 7, 1, 6, 5]
    slow = threading.Lock()

    def script(body: dict[str, Any]) -> Reply:
        with slow:
            return Reply("yes", delay=0.001 * (len(prompt_of(body)) * 7 % 5))

    with Stub(script) as stub:
        opened(stub, concurrency=concurrency).answer(
            [job(name, count) for name, count in zip(names, counts, strict=True)], max_new_tokens=4
        )
    order = [prompt_of(body)[6:15].strip() for body in stub.bodies]
    several = [name for name in order if name != "context e"]  # one question shares with nobody
    runs = [name for place, name in enumerate(several) if not place or several[place - 1] != name]
    assert runs == ["context a", "context b", "context c", "context d"]
    assert len(order) == sum(counts)


def test_the_first_question_on_a_context_goes_alone(opened: Callable[..., Answerer]) -> None:
    answered: list[int] = []
    """Answers that were sent when each request came."""
    flying: list[int] = []

    def script(body: dict[str, Any]) -> Reply:
        answered.append(sum(stub.good.values()))
        flying.append(stub.in_flight)
        return Reply("yes", delay=0.05)

    with Stub(script) as stub:
        opened(stub, concurrency=8).answer([job("one context", 9)], max_new_tokens=4)
    assert answered[0] == 0
    assert min(answered[1:]) == 1
    assert max(flying[1:]) > 1
    assert prompt_of(stub.bodies[0]).endswith("question 0?")


def test_failures_are_counted_item_by_item(opened: Callable[..., Answerer]) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if "question 1" in prompt_of(body):
            return Reply(status=400, message="maximum context length is 10 tokens")
        return Reply("yes")

    with Stub(script) as stub:
        answerer = opened(stub)
        [found] = answerer.answer([job("ctx", 3)], max_new_tokens=4)
    assert [one.text for one in found] == ["yes", None, "yes"]
    assert found[1].finish == "error"
    assert "maximum context length" in found[1].error
    [(reason, count)] = answerer.describe()["failed"].items()
    assert ("maximum context length" in reason, count) == (True, 1)


def test_faults_on_the_way_are_tried_again_and_replies_are_kept(
    opened: Callable[..., Answerer], tmp_path: Path
) -> None:
    seen: dict[str, int] = {}

    def script(body: dict[str, Any]) -> Reply:
        prompt = prompt_of(body)
        seen[prompt] = seen.get(prompt, 0) + 1
        if seen[prompt] == 1 and "question 2" in prompt:
            return Reply(status=429, headers={"retry-after-ms": "1"})
        if seen[prompt] == 1 and "question 3" in prompt:
            return Reply(status=503, headers={"retry-after-ms": "1"})
        return Reply(f"said {prompt[-2]}")

    with Stub(script) as stub:
        first = opened(stub, max_calls=3)
        with pytest.raises(LcxError):
            first.answer([job("ctx", 5)], max_new_tokens=4)
        first.close()
        asked = stub.calls
        assert asked < 7
        second = opened(stub)
        [found] = second.answer([job("ctx", 5)], max_new_tokens=4)
        assert [one.text for one in found] == [f"said {number}" for number in range(5)]
        assert max(stub.good.values()) == 1, "an answer was paid for twice"
    assert (tmp_path / "calls.sqlite").is_file()


def test_what_is_missing_is_said_before_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingError, match="key"):
        open_endpoint("openai:m", TEMPLATE, Calling(), tmp_path, Context())
    with pytest.raises(UsageError, match="model"):
        open_endpoint("openai:", TEMPLATE, Calling(base_url="http://127.0.0.1:1"), tmp_path, Context())


def test_a_plan_needs_its_text(opened: Callable[..., Answerer], tmp_path: Path) -> None:
    plan = Bundle("p", (Branch("why", "", "query"),), plan=(0, 1))
    one = ContextPrompts(plan, EncodedBundle("p", np.zeros(1), ()))
    with Stub(lambda body: "yes") as stub:
        with pytest.raises(UsageError, match="plan"):
            opened(stub).answer([one], max_new_tokens=4)
        calling = Calling(base_url=stub.url)
        answerer = open_endpoint(
            "openai:m", TEMPLATE, calling, tmp_path, Context(), context_text=lambda _: "told"
        )
        assert answerer.answer([one], max_new_tokens=4)[0][0].text == "yes"
        answerer.close()
    assert prompt_of(stub.bodies[0]) == "Read.\ntold\n\nQ: why?"


def test_few_prompts_are_in_memory_at_a_time(
    opened: Callable[..., Answerer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, most = 0, 0
    real = module.ServerAnswerer.request

    with Stub(lambda body: "yes") as stub:

        def counted(*given: Any) -> Any:
            nonlocal made, most
            made += 1
            most = max(most, made - stub.calls)
            return real(*given)

        monkeypatch.setattr(module.ServerAnswerer, "request", counted)
        opened(stub, concurrency=2).answer([job("ctx", 60)], max_new_tokens=4)
    assert made == 60
    assert most <= module.AHEAD * 2 + 1


def test_a_real_server_gives_the_answers_of_the_same_model_here(
    transformers_server: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lcx.data.assembly import Assembler
    from lcx.evaluation.local_model import open_local
    from lcx.evaluation.samples import encode

    folder = tiny_llama(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    template = Template("t", head="Read.\n", between="\nQ: ", after="?")
    assembler = Assembler(tokenizer, template)
    jobs = []
    for context in ("The miller counted sacks.", "The river ran past the mill."):
        branches = tuple(Branch(question, "", "query") for question in ("who", "what ran", "when was it"))
        bundle = Bundle(context[4:9], branches, context=context)
        jobs.append(ContextPrompts(bundle, encode(assembler, bundle)))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    here = open_local(model, tokenizer, stops=[tokenizer.eos_token_id]).answer(jobs, max_new_tokens=12)
    served = open_endpoint(
        f"openai:{folder}", template, Calling(base_url=transformers_server), tmp_path / "step", Context()
    )
    there = served.answer(jobs, max_new_tokens=12)
    served.close()
    texts = [[one.text for one in row] for row in there]
    assert texts == [[one.text for one in row] for row in here]
    assert len({text for row in texts for text in row}) == 6
    assert {one.finish for row in there for one in row} <= {"stop", "length"}
