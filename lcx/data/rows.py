"""The one reader of other people's rows: the names of their fields, and their chat formats.

Every place that takes rows (training, synthesis, scoring, evaluation) reads them here, so that what is the context of
a row is decided once. `example_of` knows names and formats; `Tally` reads many rows, names the long fields that nobody
read, and refuses rows that would lose their context that way. docs/rows.md lists the formats.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from lcx.data.files import Raw, Rejects, is_list_of_objects, raw_rows
from lcx.errors import UsageError, suggestion
from lcx.formatting import Written
from lcx.records import TURNS, Branch, Bundle


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: dict[str, tuple[str, ...]] = {
    part: _words(names)
    for part, names in {
        "context": """
            context contexts document documents passage passages text content article articles body story paragraph
            paragraphs background transcript report page page_content raw_content source_text source_document
            long_context full_text haystack ctxs docs chunks chunk snippets knowledge evidence dialogue_context
        """,
        "question": """
            question query instruction prompt problem user_input user_prompt question_text inputs request user human
        """,
        "answer": """
            answer answers output outputs response target targets completion answer_text reply assistant gold_answer
            final_answer ground_truth ground_truths gold reference_answer reference references solution summary
            correct_answer answer_key answerkey
        """,
        "chosen": "chosen chosen_response response_chosen preferred preferred_output accepted response_j",
        "rejected": """
            rejected rejected_response rejected_responses response_rejected rejections dispreferred non_preferred
            non_preferred_output response_k
        """,
        "messages": "messages conversations conversation dialogue dialog chat turns",
        "system": "system system_prompt system_message",
        "reference": "reference references ground_truth ground_truths reference_answer gold",
        "prediction": "pred prediction predictions candidates candidate",
        "choices": "choices options",
        "history": "history",
        "id": "id _id qid example_id uid",
    }.items()
}
"""The names that people use for the parts of a row, in the order in which they are looked for. Case, spaces and hyphens
do not count: `Question` and `Source Text` are found too."""

INPUT = "input"
"""Beside a question it is the context (Alpaca), beside a context the question (LongBench), alone the question."""
LONG = 200
"""Characters a row from which a field that nobody reads is named, and may be the context that lacks."""
SHORT = 40
"""Characters below which a context that stands in a question may stand there by chance."""
ASIDE = frozenset(
    _words(
        """
        meta metadata info extra extra_info annotations tags embedding url reasoning rationale explanation cot
        chain_of_thought thought thoughts critique feedback tools images model license
        """
    )
)
"""Fields that belong beside a row by their names: named where they are long, but never taken for a lost context."""
_PARTS = frozenset({INPUT, *(name for part, names in NAMES.items() if part != "id" for name in names)})
_ASKS = frozenset(
    {INPUT, *(name for part in ("context", "question", "messages", "chosen") for name in NAMES[part])}
)
"""Names of which an object has at least one where it is a row."""
FIELD_ROLES = ("context", "question", "answer", "chosen", "rejected", "messages", "system", "reference", "id")
"""Parts that `fields` may say the field of; `ignore` names those that may stay unread."""


# Fields by other names

Fields = Mapping[str, tuple[str, ...]]
"""For a part of a row (or `ignore`) the fields that hold it, as dotted paths; several are joined by an empty line."""


def parse_fields(value: Any) -> dict[str, str]:
    """The setting `fields` from a text or an object: `context=passage,answer=target`, `question=data.question`.

    Several fields of one part are joined by `+`. Raises ValueError with a suggestion for a part that there is not.
    """
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise ValueError(f"fields: '{value}' is not of the form context=passage,answer=target")
        value = {key.strip(): name.strip() for key, _, name in pairs}
    if not isinstance(value, Mapping):
        raise ValueError("fields: give PART=FIELD,..., such as context=passage,answer=target")
    known = (*FIELD_ROLES, "ignore")
    for key in value:
        if key not in known:
            near = suggestion(str(key), known)
            raise ValueError(
                f"fields: there is no part '{key}'. {near} Parts: {', '.join(known)}".replace("  ", " ")
            )
    return {str(key): str(name) for key, name in value.items()}


RowFields = Annotated[dict[str, str], BeforeValidator(parse_fields)]
"""Type of the setting `fields`."""
FIELDS_HELP = (
    "fields of rows by other names: context=passage,answer=target; a+b joins two, ignore=a leaves one unread"
)


def split_fields(fields: Mapping[str, str] | None) -> Fields:
    """The fields of each part, from a setting that `parse_fields` checked."""
    return {
        part: tuple(name.strip() for name in names.split("+") if name.strip())
        for part, names in (fields or {}).items()
    }


def _plain(name: Any) -> str:
    return re.sub(r"[\s\-]+", "_", str(name).strip().lower())


# Chat formats

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "instruction", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "ai", "chatgpt", "answer", "response"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Who says a turn, by the names that people use."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; `learnt` is False where the row says that it is not to be learnt."""

    role: str
    text: str
    learnt: bool = True


_CHATML = r"<\|im_start\|>\s*(?P<role>\w+)[^\S\n]*\n?(?P<text>.*?)(?:<\|im_end\|>\s*|(?=<\|im_start\|>)|\Z)"
_LLAMA3 = (
    r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\s*(?P<text>.*?)"
    r"(?:<\|eot_id\|>\s*|<\|end_of_text\|>|\Z)"
)
_GEMMA = r"<start_of_turn>(?P<role>\w+)\n?(?P<text>.*?)(?:<end_of_turn>\s*|\Z)"
_ZEPHYR = (
    r"<\|(?P<role>system|user|assistant)\|>\s*(?P<text>.*?)"
    r"(?:<\|end\|>\s*|</s>\s*|(?=<\|(?:system|user|assistant)\|>)|\Z)"
)
_HH = r"\s*(?P<role>Human|Assistant): ?(?P<text>.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)"
_GUANACO = (
    r"\s*### (?P<role>Human|Assistant): ?"
    r"(?P<text>(?:[^\s#]++|(?!### (?:Human|Assistant):)#|\s++(?!### (?:Human|Assistant):))*+)"
)
MARKUP = {
    "ChatML": ("<|im_start|>", _CHATML),
    "Llama 3": ("<|start_header_id|>", _LLAMA3),
    "Gemma": ("<start_of_turn>", _GEMMA),
    "Zephyr": ("<|user|>", _ZEPHYR),
    "Zephyr with system": ("<|system|>", _ZEPHYR),
    "Human/Assistant": ("Human:", _HH),
    "### Human/Assistant": ("### Human:", _GUANACO),
}
"""Chat formats in plain text: how such a text begins, and one turn of it."""
_OPENING = re.compile(r"\s*(<\|begin_of_text\|>|<bos>|<s>|<\|endoftext\|>)?\s*")
UNREAD_MARKUP = (
    "[INST]",
    "<<SYS>>",
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "<|start|>",
    "[gMASK]",
    "<|begin▁of▁sentence|>",
)
"""Beginnings of chat formats that are refused: what is a turn in them cannot be told for certain."""
_ENDS = re.compile(
    r"(?<!\s)\s*+(<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|</s>|<\|end\|>|<\|endoftext\|>|<\|end_of_text\|>|<eos>)\s*\Z"
)


def markup_turns(text: str) -> list[Turn] | None:
    """The turns of a text that is already in a chat format; None for any other text.

    The text has to begin with a turn: such names further in are text. Raises ValueError for a format, or a part of
    one, that cannot be read as turns.
    """
    opening = _OPENING.match(text)
    rest = text[opening.end() :] if opening else text
    for name, (begins, pattern) in MARKUP.items():
        if not rest.startswith(begins):
            continue
        turns, place = [], 0
        turn = re.compile(pattern, re.DOTALL)
        while place < len(rest):
            match = turn.match(rest, place)
            if match is None or match.end() == place:
                raise ValueError(f"already in a chat format ({name}) that does not end where a turn does")
            turns.append(Turn(_role(match["role"]), match["text"].strip("\n")))
            place = match.end()
        return turns[:-1] if turns[-1].role == "assistant" and not turns[-1].text.strip() else turns
    if found := next((begins for begins in UNREAD_MARKUP if rest.startswith(begins)), None):
        raise ValueError(f"already in a chat format ({found}); give it as messages")
    return None


def _role(name: Any) -> str:
    role = ROLES.get(str(name).strip().lower())
    if role is None:
        raise ValueError(f"a turn of role '{name}'")
    return role


def is_chat(value: Any) -> bool:
    """Whether a value is a list of turns: objects with role and content, or from and value."""
    return isinstance(value, list | tuple) and bool(value) and all(_is_turn(one) for one in value)


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        ("role" in value and ("content" in value or "tool_calls" in value))
        or ("from" in value and "value" in value)
    )


def chat_turns(value: Sequence[Mapping[str, Any]], notes: list[str] | None = None) -> list[Turn]:
    """The turns of a conversation. Raises ValueError with the reason for one that text alone cannot hold.

    A thought in a field of its own is no part of a turn, which `notes` are told.
    """
    turns = []
    for one in value:
        if notes is not None and any(isinstance(one.get(key), str) and one[key].strip() for key in APART):
            notes.append(THOUGHT_APART)
        if one.get("tool_calls") or one.get("function_call"):
            raise ValueError("tool calls in a turn")
        role = _role(one["role"] if "role" in one else one["from"])
        text = _content(one.get("content", one.get("value")))
        weight = next((one[key] for key in ("weight", "train", "trainable", "loss") if key in one), None)
        turns.append(Turn(role, text, weight is None or bool(weight)))
    return turns


def _content(value: Any) -> str:
    """A turn's text: a string, or the text parts of a list of parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    parts = [value] if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple):
        raise ValueError(f"a turn's content is {_kind(value)}")
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif (
            isinstance(part, Mapping)
            and isinstance(part.get("text"), str)
            and part.get("type") in (*(None, "text", "input_text", "output_text"),)
        ):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"a part of type '{kind}' in a turn: only text is read")
    return "\n".join(texts)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        type(value), type(value).__name__
    )


# One row


@dataclass(frozen=True)
class Example:
    """What a row says.

    `answers` are right answers, the first of which is learnt; `chosen` and `rejected` are those of preference data.
    `turns` are the system turn and the earlier turns before `question`. `predictions` are answers to be judged. `used`
    are the fields that were read, and `notes` what is counted about the row.
    """

    context: str = ""
    question: str = ""
    answers: tuple[str, ...] = ()
    chosen: str | None = None
    rejected: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    references: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    id: str | None = None
    used: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def plain_question(self) -> str:
        """The question with system and earlier turns before it, where a place takes one text only."""
        return "\n\n".join([*(text for _, text in self.turns), self.question])


MARKED = "texts in a chat format (<|im_start|>... and the like) read as turns"
IN_PROMPT = "contexts that stand in the prompt already, which are not put before it again"
SURROGATES = "lone surrogates read as U+FFFD"
LATER_TURNS = "turns after the last answer left out"
EARLIER = "earlier assistant turns, which are part of the prompt and not learnt"
THOUGHT_APART = "thoughts in fields of their own (reasoning_content and the like), which are not learnt"
THOUGHT_LEARNT = (
    "answers with a thought in them (<think>, <|channel|> and the like), which counts as a part of the answer"
)
_THOUGHT = re.compile(r"</?think(?:ing)?>|<\|channel\|>|\[/?THINK\]")
APART = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_text")
"""Fields of a turn in which servers and datasets keep a thought apart."""
GREETING = "assistant turns before the first user turn left out"
UNWRAPPED = "rows that lie in one object"
NO_TEXT = "rows with null or empty answers in a list of them, which are left out"
EMPTY_REJECTED = "empty rejected answers left out"


def joined_text(value: Any) -> str:
    """The text in a value: a string, a list of texts or titled texts, HotpotQA's titles and sentences.

    Raises ValueError for a value without a text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        title = value.get("title")
        body = next((value[key] for key in _BODIES if key in value and not _blank(value[key])), None)
        if isinstance(title, list | tuple) and isinstance(body, list | tuple):
            pairs = zip(title, body, strict=False)
            return "\n\n".join(f"{one}\n{''.join(texts_of(sentences))}" for one, sentences in pairs)
        if body is None:
            raise ValueError(f"a context that is an object with {', '.join(map(str, value))}")
        named = isinstance(title, str) and title.strip()
        return f"{title}\n{joined_text(body)}" if named else joined_text(body)
    if isinstance(value, list | tuple):
        parts = [one for one in value if not _blank(one)]
        if len(parts) == 2 and isinstance(parts[0], str) and isinstance(parts[1], list | tuple):
            return f"{parts[0]}\n{''.join(map(str, parts[1]))}"  # [title, [sentence, ...]]
        return "\n\n".join(joined_text(one) for one in parts)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"a context that is {_kind(value)}")


_BODIES = _words(
    "text content page_content paragraph_text passage_text context contexts passage body document sentences"
)


def texts_of(value: Any) -> list[str]:
    """The texts in a value: one, a number, a list of them, SQuAD's `{"text": [...]}`, TriviaQA's `{"value": ..}`."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, bool):
        return ["true" if value else "false"]
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, Mapping):
        for key in (
            "text",
            "value",
            "answer",
            "input_text",
            "content",
            "response",
            "output",
            "normalized_value",
        ):
            if key in value and (found := texts_of(value[key])):
                return found
        return []
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts_of(one)]
    return []


def unwrapped(row: Any, fields: Fields | None = None) -> Any:
    """The row that lies in the one object of a row which says nothing else: `{"id": 7, "data": {"question": ...}}`.

    Any other row comes back as it is: one with parts or a longer text beside the object, with several objects, or whose
    object `fields` reach into.
    """
    if not isinstance(row, Mapping):
        return row
    objects = [key for key, value in row.items() if isinstance(value, Mapping) and _plain(key) not in ASIDE]
    if len(objects) != 1:
        return row
    [name] = objects
    inner, beside = row[name], {key: value for key, value in row.items() if key != name}
    named = {path.partition(".")[0] for paths in (fields or {}).values() for path in paths}
    if (
        name in named
        or _plain(name) in _PARTS
        or not any(_plain(key) in _ASKS or key in named for key in inner)
    ):
        return row
    if any(key in named or _plain(key) in _PARTS for key, value in beside.items() if not _blank(value)):
        return row
    return row if text_size(beside) >= min(LONG, text_size(inner)) else {**beside, **inner}


def rows_within(row: Any) -> list[Any]:
    """The rows of one question each in a row that nests several: SQuAD's articles, lists of questions."""
    if not isinstance(row, Mapping):
        return [row]
    paragraphs = _objects(row.get("paragraphs"))
    if any("qas" in one for one in paragraphs):
        title = {"title": row["title"]} if "title" in row else {}
        return [inner for one in paragraphs for inner in rows_within({**title, **one})]
    outer = {key: value for key, value in row.items() if key not in _NESTS}
    answers = row.get("answers")
    if isinstance(answers, Mapping):  # CoQA: {"input_text": [...], "answer_start": [...]}
        answers = next((value for value in answers.values() if isinstance(value, list | tuple)), None)
    for key in (*_PAIRS, "questions"):
        asked = _objects(row.get(key))
        if asked and not (key == "questions" and isinstance(answers, list | tuple)):
            return [
                {**outer, **one, "id": one.get("id", _inner_id(row, n))} for n, one in enumerate(asked, 1)
            ]
    questions = row.get("questions")
    for key in ("question", "query"):
        if questions is None and isinstance(row.get(key), list | tuple) and all(map(_is_text, row[key])):
            questions = row[key]
            answers = outer.pop("answer", None) if answers is None else answers
            outer.pop(key)
    if not isinstance(questions, list | tuple) or not isinstance(answers, list | tuple):
        return [row]
    if len(questions) != len(answers) or not questions or ("questions" not in row and len(questions) == 1):
        return [row]
    return [
        {**outer, "question": "".join(texts_of(asked)[:1]), "answers": answer, "id": _inner_id(row, n)}
        for n, (asked, answer) in enumerate(zip(questions, answers, strict=True), 1)
    ]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _objects(value: Any) -> list[Any]:
    return value if is_list_of_objects(value) else []


_PAIRS = ("qas", "qa_pairs", "qa", "qna", "question_answer_pairs")
"""Fields that hold a list of objects with a question each."""
_NESTS = frozenset({*_PAIRS, "questions", "answers", "id"})


def _inner_id(row: Mapping[str, Any], number: int) -> str | None:
    return f"{row['id']}-{number}" if isinstance(row.get("id"), str | int | Written) else None


class _Taker:
    """Takes fields out of a row by part, and remembers which."""

    def __init__(self, row: Mapping[str, Any], fields: Fields) -> None:
        self.row, self.fields = row, fields
        self.names: dict[str, str] = {}
        for key in row:
            self.names.setdefault(_plain(key), key)
        self.taken = {path.partition(".")[0] for paths in fields.values() for path in paths} | {
            path for paths in fields.values() for path in paths
        }
        self.used: set[str] = set()

    def find(
        self, part: str, names: Sequence[str] = (), fits: Callable[[Any], bool] = lambda value: True
    ) -> tuple[str, Any]:
        """Name and value of the first field of a part that holds something that fits; ("", None) where none does."""
        if part in self.fields:
            paths = self.fields[part]
            values = [self._path(path) for path in paths]
            if len(values) > 1:
                return paths[0], "\n\n".join(joined_text(one) for one in values)
            return (paths[0], values[0]) if values else ("", None)
        for name in names or NAMES[part]:
            key = self.names.get(name)
            if key is None or key in self.taken or key in self.used or _blank(self.row[key]):
                continue
            if fits(self.row[key]):
                self.used.add(key)
                return name, self.row[key]
        return "", None

    def _path(self, path: str) -> Any:
        """The value at a dotted path. Raises ValueError where the row has none."""
        if path in self.row:
            self.used.add(path)
            return self.row[path]
        value: Any = self.row
        for part in path.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            else:
                raise ValueError(f"no field '{path}'")
        self.used.add(path.partition(".")[0])
        return value


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())


def example_of(row: Any, fields: Fields | None = None) -> Example:
    """What a row says, by the names that people use or those that `fields` gives.

    Nothing has to be there: a caller asks for what it needs. Raises ValueError with the reason for a row that must not
    be used: labelled as bad, in a chat format that cannot be read, with images or tools.
    """
    if not isinstance(row, Mapping):
        raise ValueError("no JSON object")
    take = _Taker(row, fields or {})
    notes: list[str] = []
    _, system = take.find("system")
    context, prompt = _context_and_prompt(take, notes)
    _, chosen = take.find("chosen")
    rejected = _rejected(take, notes)
    answers: list[str] = []
    good: str | None = None
    bad: list[str] = []
    if chosen is not None or rejected:
        prompt, good, bad = _preference(prompt, chosen, rejected, notes)
    else:
        prompt, answers = _supervised(take, prompt, notes)
    _refuse_label(take, bool(answers))
    prompt = _history(take) + prompt
    if system is not None:
        said = "\n".join(texts_of(system))
        prompt = [
            Turn("system", said),
            *(turn for turn in prompt if turn.role != "system" or turn.text != said),
        ]
    prompt, answers = _with_choices(take, prompt, answers)
    prompt = _without_greeting(prompt, notes)
    _check_order(prompt)
    if any(_stands_in(context.strip(), turn.text) for turn in prompt):
        context = ""
        notes.append(IN_PROMPT)
    _, references = take.find("reference")
    _, predictions = take.find("prediction")
    _note_gaps(predictions, notes)
    _, name = take.find("id", NAMES["id"], lambda value: isinstance(value, str | int | Written))
    said_already = {turn.text.strip() for turn in prompt}
    take.used |= {
        key for key, value in row.items() if isinstance(value, str) and value.strip() in said_already
    }
    found = Example(
        context,
        prompt[-1].text if prompt else "",
        tuple(answers),
        good,
        tuple(bad),
        tuple((turn.role, turn.text) for turn in prompt[:-1]),
        tuple(texts_of(references)),
        tuple(texts_of(predictions)),
        str(name) if name is not None else None,
        frozenset(take.used),
        tuple(notes),
    )
    return _without_surrogates(found)


def _stands_in(context: str, text: str) -> bool:
    """Whether a context is in a text already: a short one as words of their own, since "a" is in most questions."""
    if not context or context not in text:
        return False
    edged = rf"(?<!\w){re.escape(context)}(?!\w)"
    return len(context) >= SHORT or re.search(edged, text) is not None


def _context_and_prompt(take: _Taker, notes: list[str]) -> tuple[str, list[Turn]]:
    """The context, and the turns that end with the question (or with the answer, where a conversation holds it)."""
    _, messages = take.find("messages", NAMES["messages"], is_chat)
    if messages is None:  # OpenAI's preference data: {"input": {"messages": [...]}, "preferred_output": ...}
        _, given = take.find(
            INPUT, (INPUT,), lambda one: isinstance(one, Mapping) and is_chat(one.get("messages"))
        )
        if given is not None:
            if given.get("tools"):
                raise ValueError("tools in a conversation")
            messages = given["messages"]
    name, asked = take.find("question")
    _, context_value = take.find("context", NAMES["context"], lambda value: not is_chat(value))
    context = joined_text(context_value) if context_value is not None else ""
    alone = messages is None and asked is None and "question" not in take.fields
    if alone and isinstance(context_value, str) and (turns := markup_turns(context)) is not None:
        notes.append(MARKED)
        return "", turns
    if messages is not None:
        prompt = chat_turns(messages, notes)
        if asked is not None:
            prompt = _beside(prompt, name, asked, take)
    elif is_chat(asked):
        prompt = chat_turns(asked, notes)
    else:
        question = "\n".join(texts_of(asked)) if asked is not None else ""
        if (turns := markup_turns(question)) is not None:
            notes.append(MARKED)
            prompt = turns
        else:
            if name in ("question", "query") and "question" not in take.fields:
                _, task = take.find("question", ("instruction",))
                question = "\n\n".join([*texts_of(task), question])
            context, question = _input(take, name, context, question)
            prompt = [Turn("user", question)] if question.strip() else []
    if not context and (messages is not None or is_chat(asked)):
        _, extra = take.find(INPUT, (INPUT,))
        context = joined_text(extra) if extra is not None else ""
    return context, prompt


def _input(take: _Taker, name: str, context: str, question: str) -> tuple[str, str]:
    """Context and question with the field `input`, whose meaning follows from what stands beside it."""
    if "question" in take.fields and "context" in take.fields:
        return context, question
    if question and context and name not in ("instruction", "prompt", "problem"):
        return context, question  # often the whole prompt once more: unread, and named where it is long
    _, extra = take.find(INPUT, (INPUT,))
    if extra is None:
        return context, question
    text = joined_text(extra)
    if not question:
        return context, text
    if not context:
        return text, question
    return context, question if text.strip() in question else f"{question}\n\n{text}"


def _beside(prompt: list[Turn], name: str, asked: Any, take: _Taker) -> list[Turn]:
    """The conversation with a question that stands beside it: its last user turn, or what comes after it."""
    text = "\n".join(texts_of(asked))
    if any(turn.role == "user" and text.strip() in turn.text for turn in prompt):
        return prompt
    if is_chat(asked) or prompt[-1].role == "user" or not text.strip():
        take.used.discard(take.names.get(name, name))
        return prompt
    return [*prompt, Turn("user", text)]


def _supervised(take: _Taker, prompt: list[Turn], notes: list[str]) -> tuple[list[Turn], list[str]]:
    """The prompt up to its last user turn, and the right answers."""
    said = [n for n, turn in enumerate(prompt) if turn.role == "assistant" and turn.learnt]
    if said and (prompt[-1].role == "assistant" or "answer" not in take.fields):
        last = said[-1]
        after = len(prompt) - last - 1
        _, value = take.find("answer", NAMES["answer"], lambda value: _same(value, prompt[last].text))
        if prompt[-1].role == "user":  # asked once more, and maybe answered in a field of its own
            _, value = take.find("answer")
            if found := texts_of(value):
                return prompt, found
        if after:
            notes.append(LATER_TURNS)
        if len(said) > 1 or any(turn.role == "assistant" for turn in prompt[:last]):
            notes.append(EARLIER)
        return prompt[:last], [prompt[last].text]
    _, value = take.find("answer")
    if is_chat(value):
        return _supervised_chat(take, [*prompt, *chat_turns(value, notes)], notes)
    marked = bool(notes) and MARKED in notes
    found = [_ENDS.sub("", text) if marked else text for text in texts_of(value)]
    _note_gaps(value, notes)
    if isinstance(value, str) and marked and (turns := markup_turns(value)):
        found = [turns[-1].text]
    return prompt, found


def _note_gaps(value: Any, notes: list[str]) -> None:
    """Note a list of answers of which some have no text."""
    if isinstance(value, list | tuple) and not all(map(texts_of, value)):
        notes.append(NO_TEXT)


def _supervised_chat(take: _Taker, turns: list[Turn], notes: list[str]) -> tuple[list[Turn], list[str]]:
    said = [n for n, turn in enumerate(turns) if turn.role == "assistant" and turn.learnt]
    if not said:
        return turns, []
    if len(said) > 1:
        notes.append(EARLIER)
    return turns[: said[-1]], [turns[said[-1]].text]


def _same(value: Any, text: str) -> bool:
    found = texts_of(value)
    return bool(found) and found[0].strip() == text.strip()


def _rejected(take: _Taker, notes: list[str]) -> list[Any]:
    """The rejected answers as they stand in the row: one, a list, or fields `rejected_1`, `rejected_2` ..."""
    _, value = take.find("rejected")
    numbered = [name for name in take.names if re.fullmatch(r"rejected_?\d+", name)]
    found = [value] if not isinstance(value, list | tuple) or is_chat(value) else list(value)
    if "rejected" not in take.fields:
        for name in sorted(numbered, key=lambda one: int(re.sub(r"\D", "", one))):
            take.used.add(take.names[name])
            found.append(take.row[take.names[name]])
    if isinstance(value, list | tuple) and None in value:
        notes.append(EMPTY_REJECTED)
    return [one for one in found if one is not None]


def _preference(
    prompt: list[Turn], chosen: Any, rejected: list[Any], notes: list[str]
) -> tuple[list[Turn], str, list[str]]:
    """The prompt, the chosen answer and the rejected ones; the prompt may be what all of them begin with."""
    if isinstance(chosen, list | tuple) and not is_chat(chosen):
        if len(chosen) > 1:
            raise ValueError(f"{len(chosen)} chosen answers")
        chosen = chosen[0] if chosen else None
    answers = [_conversation(one, notes) for one in ("" if chosen is None else chosen, *rejected)]
    if prompt and prompt[-1].role == "assistant" and not isinstance(answers[0], list):
        if prompt[-1].text.strip() != str(answers[0]).strip():
            raise ValueError("a conversation that ends with an answer other than the chosen one")
        prompt = prompt[:-1]
    chats = [one for one in answers if isinstance(one, list)]
    if chats:
        prompt, chats = _common_turns(prompt, chats)
        if any(len(one) != 1 or one[0].role != "assistant" for one in chats):
            raise ValueError("chosen and rejected answers that go on over several turns")
        texts = iter(one[0].text for one in chats)
        answers = [next(texts) if isinstance(one, list) else one for one in answers]
    texts_only = [str(one) for one in answers]
    if not prompt and len(texts_only) > 1 and not chats:
        start = _common_words(texts_only)
        prompt = [Turn("user", start)] if start.strip() else []
        texts_only = [text[len(start) :] for text in texts_only] if prompt else texts_only
    elif len(prompt) == 1 and all(
        len(t) > len(prompt[0].text) and t.startswith(prompt[0].text) for t in texts_only
    ):
        texts_only = [text[len(prompt[0].text) :] for text in texts_only]  # each holds the prompt once more
    if MARKED in notes:
        texts_only = [_ENDS.sub("", text) for text in texts_only]
    bad = [text for text in texts_only[1:] if text.strip()]
    if len(bad) < len(texts_only) - 1:
        notes.append(EMPTY_REJECTED)
    return prompt, texts_only[0], bad


def _common_words(texts: Sequence[str]) -> str:
    """What all texts begin with, up to the end of its last whole word: the space after it belongs to what follows."""
    shared = 0
    while shared < min(map(len, texts)) and len({text[shared] for text in texts}) == 1:
        shared += 1
    start = texts[0][:shared]
    return start[: max(start.rfind(" "), start.rfind("\n"), 0)]


def _conversation(value: Any, notes: list[str]) -> list[Turn] | str:
    """An answer of preference data: a text, or the turns of a conversation that ends with it."""
    if is_chat(value):
        return chat_turns(value, notes)
    if _is_turn(value):
        return chat_turns([value], notes)
    if isinstance(value, str) and (turns := markup_turns(value)) is not None:
        notes.append(MARKED)
        return turns
    found = texts_of(value)
    if not found and not _blank(value):
        raise ValueError(f"an answer is {_kind(value)}")
    return found[0] if found else ""


def _common_turns(prompt: list[Turn], chats: list[list[Turn]]) -> tuple[list[Turn], list[list[Turn]]]:
    """The prompt with the turns that all conversations begin with, and what is left of each."""
    if prompt and all(chat[: len(prompt)] == prompt and len(chat) > len(prompt) for chat in chats):
        chats = [chat[len(prompt) :] for chat in chats]
    elif any(len(chat) > 1 and chat[0].role != "assistant" for chat in chats):
        prompt = []  # they hold the prompt themselves
    shared = min(len(chat) for chat in chats) - 1
    for place in range(shared):
        if len({chat[place] for chat in chats}) > 1:
            shared = place
            break
    return [*prompt, *chats[0][:shared]], [chat[shared:] for chat in chats]


def _refuse_label(take: _Taker, answered: bool) -> None:
    """Refuse KTO's bad answers. Raises ValueError for a row whose label says that its answer is not to be learnt."""
    for name in ("label", "kto_tag", "desirable", "is_desirable", "is_correct", "is_right", "correct"):
        key = take.names.get(name)
        if key is None or not answered or key in take.taken:
            continue
        if "correct" in name and any(one in take.names for one in NAMES["prediction"]):
            continue  # of the prediction, and no word about the reference
        value = take.row[key]
        marked = isinstance(value, bool) or str(value).strip().lower() in ("true", "false")
        number = value in (0, 1) or str(value).strip() in ("0", "1")
        if marked or (number and (name.startswith("is_") or "completion" in take.names)):
            take.used.add(key)
            if str(value).strip().lower() in ("false", "0"):
                raise ValueError(f"{name} is false: an answer that is not to be learnt")


def _history(take: _Taker) -> list[Turn]:
    """Earlier turns in LLaMA-Factory's `history`: pairs of question and answer, or a conversation."""
    _, value = take.find("history", NAMES["history"], lambda one: isinstance(one, list | tuple))
    if value is None:
        return []
    if is_chat(value):
        return chat_turns(value)
    turns = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("a history that is no list of question and answer")
        turns += [Turn("user", str(pair[0])), Turn("assistant", str(pair[1]))]
    return turns


def _with_choices(take: _Taker, prompt: list[Turn], answers: list[str]) -> tuple[list[Turn], list[str]]:
    """The question with the choices of a row below it; the number of a choice, as an answer, is its letter."""
    if not prompt or prompt[-1].role != "user":
        return prompt, answers
    if lettered := _lettered(take):
        choices = [str(take.row[take.names[name]]) for name in lettered]
        take.used |= {take.names[name] for name in lettered}
    else:
        _, value = take.find("choices", NAMES["choices"], lambda one: isinstance(one, list | tuple | Mapping))
        if value is None:
            return prompt, answers
        if isinstance(value, Mapping):
            value = value["text"] if "text" in value else list(value.values())
        choices = texts_of(value)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    if not choices or len(choices) > 26:
        return prompt, answers
    if answers and answers[0].isdecimal() and answers[0] not in choices and int(answers[0]) < len(choices):
        answers = [letters[int(answers[0])]]
    said = prompt[-1].text
    named = bool(answers) and answers[0] in list(letters)
    if all(choice in said for choice in choices) and not (named and not _lists(said, letters)):
        return prompt, answers
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return [*prompt[:-1], replace(prompt[-1], text=f"{said}\n{lines}")], answers


def _lettered(take: _Taker) -> list[str]:
    """Fields of a choice each, `choice_a` or `A` and the like, from the first letter on."""
    for begins in ("choice_", "choice", "option_", "option", "op", ""):
        found = []
        for letter in "abcdefghij":
            key = take.names.get(begins + letter)
            if key is None or key in take.taken or _blank(take.row[key]):
                break
            found.append(begins + letter)
        if len(found) > 1:
            return found
    return []


def _lists(text: str, letters: str) -> bool:
    """Whether a text has each letter with a sign behind it, as lists of choices have."""
    return all(re.search(rf"(?<!\w){letter}\s?[.):\]]", text) for letter in letters)


def _without_greeting(prompt: list[Turn], notes: list[str]) -> list[Turn]:
    """The prompt without an assistant's greeting before the first user turn, which few chat templates take.

    A long one stays, and its row is refused: the questions may be about it.
    """
    first = next((n for n, turn in enumerate(prompt) if turn.role != "system"), None)
    if first is None or prompt[first].role != "assistant" or len(prompt[first].text) >= LONG:
        return prompt
    if [turn.role for turn in prompt[first + 1 : first + 2]] != ["user"]:
        return prompt
    notes.append(GREETING)
    rest = prompt[:first] + prompt[first + 1 :]
    if EARLIER in notes and not any(turn.role == "assistant" for turn in rest):
        notes.remove(EARLIER)
    return rest


def _check_order(prompt: Sequence[Turn]) -> None:
    """Raises ValueError for turns that no chat template takes: not one user turn and one assistant turn in turn."""
    spoken = [turn.role for turn in prompt]
    while spoken and spoken[0] == "system":
        spoken.pop(0)
    if "system" in spoken:
        raise ValueError("a system turn after other turns")
    for place, role in enumerate(spoken):
        if role != ("user", "assistant")[place % 2]:
            said = "begins with the assistant's" if not place else f"has two turns of the {role} in a row"
            raise ValueError(f"a conversation that {said}" + (" turn" if not place else ""))
    if prompt and (not spoken or spoken[-1] != "user"):
        raise ValueError("no question: the conversation has no user turn before the answer")


def _without_surrogates(found: Example) -> Example:
    """The example with lone halves of surrogate pairs, which no UTF-8 can hold, as U+FFFD."""
    texts = [found.context, found.question, *found.answers, found.chosen or "", *found.rejected]
    texts += [*(text for _, text in found.turns), *found.references, *found.predictions]
    try:
        "".join(texts).encode()
        return found
    except UnicodeEncodeError:
        return replace(
            found,
            context=clean(found.context),
            question=clean(found.question),
            answers=tuple(map(clean, found.answers)),
            chosen=None if found.chosen is None else clean(found.chosen),
            rejected=tuple(map(clean, found.rejected)),
            turns=tuple((role, clean(text)) for role, text in found.turns),
            references=tuple(map(clean, found.references)),
            predictions=tuple(map(clean, found.predictions)),
            notes=(*found.notes, SURROGATES),
        )


def clean(text: str) -> str:
    """A text whose lone surrogates are U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Many rows


def plural(count: int, noun: str = "row") -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass
class _Unread:
    rows: int = 0
    characters: int = 0
    bare: int = 0
    """Rows that have no context, and whose prompt is shorter than this field."""


class Tally:
    """Reads rows as examples, and counts what is worth saying about them: unread fields, duplicates, formats."""

    def __init__(self, rejects: Rejects, fields: Mapping[str, str] | None = None) -> None:
        self.rejects, self.fields = rejects, split_fields(fields)
        self.counts: Counter[str] = Counter()
        self.examples = 0
        self._bare = 0
        self._unread: dict[str, _Unread] = {}
        self._seen: set[bytes] = set()
        self._first = ""
        self._ignored = set(self.fields.get("ignore", ()))

    def examples_in(self, source: str | Path) -> Iterator[tuple[Raw, Example]]:
        """The examples of a file, a folder of files or a dataset; rows that must not be used are set aside."""
        for raw in raw_rows(source, self.rejects):
            yield from self.examples_of(raw)

    def examples_of(self, raw: Raw) -> Iterator[tuple[Raw, Example]]:
        """The examples of one row: several where it nests them."""
        row = unwrapped(raw.row, self.fields)
        if row is not raw.row:
            self.counts[UNWRAPPED] += 1
        rows = rows_within(row)
        for place, row in enumerate(rows, 1):
            where = raw.where if len(rows) == 1 else f"{raw.where}.{place}"
            if not self._first:
                self._first = f"{raw.where} of {raw.source} has {described(row)}"
            try:
                found = example_of(row, self.fields)
            except ValueError as bad:
                self.rejects.add(raw.source, str(bad), where=where)
                continue
            self.saw(row, found)
            yield Raw(raw.source, where, row), found

    def saw(self, row: Mapping[str, Any], found: Example, *, documents: bool = False) -> None:
        """Count what a row says. Of documents only long fields beside the text are of interest."""
        self.examples += 1
        if documents:
            for key, value in row.items():
                if key not in found.used and key not in self._ignored and _plain(key) not in _NEVER_CONTEXT:
                    self._count(str(key), value, bare=False)
            return
        self.counts.update(found.notes)
        self._bare += not found.context
        said = (found.context, found.turns, found.question, found.answers, found.chosen, found.rejected)
        digest = hashlib.blake2b(repr(said).encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest in self._seen:
            self.counts["rows that say the same as an earlier one, which are kept"] += 1
        self._seen.add(digest)
        prompt = len(found.question) + sum(len(text) for _, text in found.turns)
        for key, value in row.items():
            if key in found.used or key in self._ignored:
                continue
            lost = not found.context and _plain(key) not in ASIDE and _plain(key) not in _NEVER_CONTEXT
            size = text_size(value)
            self._count(str(key), value, bare=lost and size >= LONG and prompt < size)

    def _count(self, key: str, value: Any, *, bare: bool) -> None:
        if size := text_size(value):
            unread = self._unread.setdefault(key, _Unread())
            unread.rows += 1
            unread.characters += size
            unread.bare += bare

    def unread(self) -> dict[str, int]:
        """Fields that nobody read and that are long, or named like a part of a row; with their mean of characters."""
        means = {key: round(one.characters / one.rows) for key, one in self._unread.items()}
        return {key: mean for key, mean in means.items() if mean >= LONG or _plain(key) in _TOLD}

    def notes(self) -> list[str]:
        """What is worth saying: a line each for unread fields, and for what was counted."""
        lines = [
            f"field '{key}' ({plural(mean, 'character')} a row) is not used"
            for key, mean in self.unread().items()
        ]
        if 0 < self._bare < self.examples:
            lines.append(
                f"{self._bare:,} of {plural(self.examples, 'row')} without a context, which the others have"
            )
        return lines + [f"{count:,} {what}" for what, count in sorted(self.counts.items())]

    def check(self, source: str | Path) -> None:
        """Raises UsageError where rows have no context, and a long field beside it that nobody read."""
        lost = {key: one for key, one in self._unread.items() if one.bare}
        if not lost:
            return
        key, one = max(lost.items(), key=lambda pair: pair[1].characters)
        mean = round(one.characters / one.rows)
        raise UsageError(
            f"field '{key}' ({plural(mean, 'character')} a row) of {source} is not used, with "
            f"{one.bare:,} of {plural(self.examples)} without any other context",
            why="No name of a context is known for it; trained or asked like this, the question stands alone.",
            hint=f"--fields context={key} reads it as the context; --fields ignore={key} leaves it out.",
        )

    def nothing_usable(self, source: str | Path, needed: str) -> UsageError:
        """The error for rows of which none can be used: the reasons, and what was found."""
        counts = self.rejects.counts
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts.most_common(4))
        details = next((item.detail for item in self.rejects.items if item.detail), "")
        why = "; ".join(filter(None, (reasons, self._first or details))) or "It is empty."
        return UsageError(
            f"{source} has no usable row",
            why=why,
            hint=f"{needed} Other names: --fields question=FIELD,answer=FIELD (a.b for a field inside another). "
            "docs/rows.md lists the formats.",
        )


_NEVER_CONTEXT = frozenset(
    NAMES["answer"] + NAMES["chosen"] + NAMES["rejected"] + NAMES["reference"] + NAMES["id"]
)
_TOLD = frozenset(
    name
    for part in ("context", "question", "answer", "messages", "system", "choices")
    for name in NAMES[part]
) - frozenset(NAMES["reference"]) | {INPUT}
"""Names of parts: a field of such a name that nobody read is named, however short it is."""


def described(row: Any) -> str:
    """What a row has, for messages: its fields, and those of objects inside it."""
    if not isinstance(row, Mapping):
        return f"no object but {_kind(row)}"
    if not row:
        return "no fields"
    parts = []
    for key, value in list(row.items())[:12]:
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], Mapping) else value
        if isinstance(inner, Mapping):
            what = "a list of objects" if inner is not value else "an object"
            parts.append(f"{key} ({what} with {', '.join(map(str, list(inner)[:6]))})")
        else:
            parts.append(str(key))
    more = f", ... ({len(row)} in all)" if len(row) > 12 else ""
    return f"the field{'s' if len(row) > 1 else ''} {', '.join(parts)}{more}"


def text_size(value: Any) -> int:
    """Characters of all texts in a value."""
    if isinstance(value, str):
        return len(value.strip())
    if isinstance(value, Mapping):
        return sum(map(text_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(text_size, value))
    return 0


# Rows as documents


def document_text(
    row: Mapping[str, Any], tally: Tally, questions: bool
) -> tuple[str | None, list[list[str | None]]]:
    """A row's text for a corpus, and the questions that it asks about it, [question, answer or None], if wanted.

    The text is what holds the context, whatever else the row has; chat formats inside it are text. None where no field
    holds a text. Raises ValueError for a row whose text is none.
    """
    row = unwrapped(row, tally.fields)
    take = _Taker(row, tally.fields)
    name, value = take.find("context", NAMES["context"], lambda one: not is_chat(one))
    text = joined_text(value) if value is not None else None
    if name and isinstance(value, int | float):
        raise ValueError("text is not a string")
    found = Example(context=text or "", used=frozenset(take.used))
    if questions or text is None:
        try:
            found = next((example_of(one, tally.fields) for one in rows_within(row)), found)
        except ValueError:
            if text is None:
                raise
    if text is None:
        blank = any(_plain(key) in NAMES["context"] for key in row)
        return (found.context or ("" if blank else None)), _asked(found) if questions else []
    tally.saw(row, replace(found, context=text, used=found.used | take.used), documents=True)
    if not questions:
        return text, []
    several = [example for one in rows_within(row)[1:] for example in _quietly(one, tally.fields)]
    return text, [pair for example in (found, *several) for pair in _asked(example)]


def _asked(found: Example) -> list[list[str | None]]:
    """The question of an example with its answer, where it has one."""
    question = found.plain_question.strip()
    answer = found.chosen if found.chosen is not None else next(iter(found.answers), None)
    return [[question, answer.strip() if answer and answer.strip() else None]] if question else []


def _quietly(row: Any, fields: Fields) -> Iterator[Example]:
    with suppress(ValueError):
        yield example_of(row, fields)


# Rows as training data

NEEDED = 'A row: {"context": "...", "question": "...", "answer": "..."}, or "chosen" and "rejected" for the answer.'


def name_of(source: str) -> str:
    """What ids call a source: its file's name without endings, or the dataset."""
    return source if source.startswith("hf:") else Path(source).name.partition(".")[0] or source


def bundle_of(found: Example, name: str) -> Bundle:
    """The bundle of an example: a question, and either a chosen answer with rejected ones or a right one.

    Raises ValueError with the reason for an example that is none of that.
    """
    if not found.question.strip():
        raise ValueError("no question")
    if found.chosen is not None:
        if not found.chosen.strip():
            raise ValueError("no chosen answer")
        answers = [("chosen", found.chosen), *(("rejected", text) for text in found.rejected)]
    elif found.answers and found.answers[0].strip():
        answers = [("answer", found.answers[0])]
    else:
        raise ValueError("no answer")
    meta = {TURNS: [list(turn) for turn in found.turns]} if found.turns else {}
    branches = tuple(Branch(found.question, text, role) for role, text in answers)
    return Bundle(found.id or name, branches, context=found.context, kind="rows", meta=meta)


def read_bundles_of_rows(
    source: str | Path, rejects: Rejects, fields: Mapping[str, str] | None = None, *, pairs: bool = False
) -> tuple[list[Bundle], list[str]]:
    """All usable rows of a file, folder or dataset as bundles, and what is worth saying about them.

    Rows that cannot be used go into `rejects` with the reason; with `pairs` also those that have no rejected answer
    beside a chosen one. Raises UsageError where none can be used, and where rows
    would lose their contexts because nobody knows the field that holds it.
    """
    tally = Tally(rejects, fields)
    found: list[Bundle] = []
    for raw, example in tally.examples_in(source):
        try:
            if pairs and example.chosen is not None and not example.rejected:
                raise ValueError("no rejected answer")
            if pairs and example.chosen is None:
                raise ValueError("no chosen answer")
            bundle = bundle_of(example, f"{name_of(raw.source)}-{raw.padded}")
            if thoughts := sum(bool(_THOUGHT.search(one.answer)) for one in bundle.branches):
                tally.counts[THOUGHT_LEARNT] += thoughts
            found.append(bundle)
        except ValueError as bad:
            rejects.add(raw.source, str(bad), where=raw.where)
    tally.check(source)
    if not found:
        raise tally.nothing_usable(source, NEEDED)
    return found, tally.notes()
