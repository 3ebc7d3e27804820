"""A look at the rows as training sees them: decoded from their token ids, part by part, with what is learnt.

Nothing is trained and no weights are loaded: the tokenizer (and the window in the model's config) is all it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lcx.context import Context
from lcx.errors import LcxError, UsageError
from lcx.hub import tiny_spec
from lcx.recipe import Step
from lcx.records import Bundle, EncodedBundle
from lcx.run import Run
from lcx.training.data import LEARNT, training_bundles
from lcx.training.settings import PreferenceSettings, TrainSettings

NO_LIMIT = 1 << 40
SHOWN = 1200
"""Characters of a part that are printed; the middle of a longer one is left out (JSON has all of it)."""


def preview_step(step: Step, run: Run, ctx: Context, count: int) -> list[dict[str, Any]]:
    """The first rows of a train step's data, each as `row_view` gives it.

    Raises MissingError for what is not there, UsageError for a step that trains by code of its own.
    """
    from lcx.data.assembly import open_assembler

    settings = step.settings
    if not isinstance(settings, TrainSettings):
        raise UsageError(f"step '{step.id}' trains by code of its own, which shows no rows")
    data, model = run.bundles(step), run.model(step)
    tokenizer = _tokenizer(model)
    assembler = open_assembler(tokenizer, settings.template, settings.chat, data)
    pairs = isinstance(settings, PreferenceSettings)
    found = training_bundles(data, step, run, ctx, supervised=not pairs, keep_rejects=False)
    limit = (
        settings.real_length if isinstance(settings, PreferenceSettings) else None
    ) or settings.max_tokens
    limit = min(limit or NO_LIMIT, _window(model, settings))
    return list(_views(found.bundles, assembler, count, limit, settings.too_long, pairs))


def _views(
    bundles: Sequence[Bundle], assembler: Any, count: int, limit: int, policy: str, pairs: bool
) -> Iterator[dict[str, Any]]:
    from lcx.data.assembly import fit, share_question
    from lcx.training.data import comparable

    shown = 0
    for given in bundles:
        bundle: Bundle | None = given
        if pairs:
            bundle, reason, _ = comparable(given)
            if bundle is None:
                yield {
                    "id": given.id,
                    "left_out": reason,
                    "text": "",
                    "learnt": [],
                    "parts": [],
                    "tokens": {},
                }
                shown += 1
        if bundle is not None:
            encoded = assembler.encode(bundle)
            encoded = share_question(encoded) if pairs else encoded
            view = row_view(assembler, bundle, encoded)
            if encoded.longest_row > limit:
                view["too_long"] = f"{encoded.longest_row:,} tokens, more than {limit:,}: too_long {policy}"
                if policy == "truncate-middle" and (fitted := fit(encoded, limit, policy)) is not None:
                    view = {**row_view(assembler, bundle, fitted), "too_long": view["too_long"]}
            yield view
            shown += 1
        if shown == count:
            return


def row_view(assembler: Any, bundle: Bundle, encoded: EncodedBundle) -> dict[str, Any]:
    """A bundle as its token ids decode: `text`, the texts that are `learnt`, the `parts` in order, and `tokens`.

    Parts are template, the roles of earlier turns, context, question, and the answers by their roles. A rejected
    answer is a part that is not learnt.
    """
    decode = assembler.pieces.decode
    prefix = [int(token) for token in encoded.prefix]
    start = decode(prefix)
    cut = decode(prefix[encoded.head : encoded.head + sum(encoded.chunks)])
    parts: list[dict[str, Any]] = []
    for branch, row in zip(bundle.branches, encoded.branches, strict=True):
        asked = row.ids[: row.answer_start]
        prompt, both = decode([*prefix, *asked]), decode([*prefix, *row.ids])
        own = prompt[len(start) :] if prompt.startswith(start) else decode(asked)
        answer = both[len(prompt) :] if both.startswith(prompt) else decode(row.ids[row.answer_start :])
        known = [
            (part, cut if part == "context" and said not in start else said)
            for part, said in assembler.named_parts(bundle, branch)
        ]
        if not parts:
            parts += _split(start + own, known)
        elif own:
            place = next(place for place, (part, _) in enumerate(known) if part == "question")
            parts += _split(own, known[place - 1 :])
        parts.append(
            {
                "part": branch.role,
                "text": answer,
                "learnt": branch.role in LEARNT,
                "tokens": len(row.ids) - row.answer_start,
            }
        )
    rejected = [part["text"] for part in parts if part["part"] == "rejected"]
    return {
        "id": bundle.id,
        "text": "".join(part["text"] for part in parts),
        "learnt": [part["text"] for part in parts if part.get("learnt")],
        **({"rejected": rejected} if rejected else {}),
        "parts": parts,
        "tokens": {
            "all": len(encoded),
            "context": sum(encoded.chunks),
            "learnt": sum(part["tokens"] for part in parts if part.get("learnt")),
            "longest_row": encoded.longest_row,
        },
    }


def _split(text: str, known: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """A prompt's text in parts: the known texts where they stand behind the template's, and the rest as template.

    A text that the tokens do not decode to (a tokenizer that loses signs) stays inside the template's part.
    """
    found: list[tuple[int, int, str]] = []
    place, before = 0, ""
    for part, said in known:
        if part == "template" or not said:
            before += said
            continue
        at = text.find(before + said, place) + len(before)
        if at < len(before):  # what stands before it decodes otherwise
            at = text.rfind(said) if part == "question" else text.find(said, place)
        if at >= place:
            found.append((at, at + len(said), part))
            place, before = at + len(said), ""
    parts: list[dict[str, Any]] = []
    place = 0
    for begin, end, part in found:
        if begin > place:
            parts.append({"part": "template", "text": text[place:begin]})
        parts.append({"part": part, "text": text[begin:end]})
        place = end
    if place < len(text):
        parts.append({"part": "template", "text": text[place:]})
    return parts


def printed(views: Sequence[dict[str, Any]]) -> str:
    """Views as text for a terminal: a line or more for each part, with a mark before what is learnt."""
    lines: list[str] = []
    for number, view in enumerate(views, 1):
        if "left_out" in view:
            lines += [f"row {number}: {view['id']}: left out: {view['left_out']}", ""]
            continue
        tokens = view["tokens"]
        lines.append(
            f"row {number}: {view['id']}: {tokens['all']:,} tokens, {tokens['context']:,} of them context, "
            f"{tokens['learnt']:,} learnt"
        )
        if "too_long" in view:
            lines.append(f"  {view['too_long']}")
        for part in view["parts"]:
            label = f"{'>' if part.get('learnt') else ' '} {part['part']}"
            shown = _shortened(part["text"]).split("\n")
            lines += [f"{label if not n else '':12}| {line}" for n, line in enumerate(shown)]
        lines.append("")
    lines.append("> marks what is learnt; all else is read only.")
    return "\n".join(lines)


def _shortened(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    half = SHOWN // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def _tokenizer(model: str) -> Any:
    """The model's tokenizer; the tiny models' is made without training one."""
    if (named := tiny_spec(model)) is not None:
        from lcx.modeling.tiny import load_world
        from lcx.training.curriculum import COURSES

        return load_world(COURSES[named[0]].starts).tokenizer
    from lcx.hub import load_tokenizer

    return load_tokenizer(model)


def _window(model: str, settings: TrainSettings) -> int:
    """Tokens that the model takes; as good as no limit where there is no config (a tokenizer of its own)."""
    if tiny_spec(model) is not None:
        return NO_LIMIT
    from lcx.modeling.load import load_config, set_rope, window

    try:
        config = load_config(model)
    except LcxError:
        return NO_LIMIT
    set_rope(config, settings.rope_theta, settings.rope)
    return window(config)
