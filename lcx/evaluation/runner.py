"""Run probes on a model: encode, check the window, decode, score, draw; go on where a run was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcx.context import Context
from lcx.corpus.assembly import fit as fit_row
from lcx.errors import UsageError
from lcx.evaluation.plots import curve_png
from lcx.evaluation.predictions import score_predictions
from lcx.evaluation.probes import Probe, get_probe, row_of
from lcx.evaluation.progress import Meter
from lcx.evaluation.settings import EvalSettings
from lcx.paths import slug
from lcx.records import Branch, Bundle, EncodedBundle
from lcx.work.files import make_folder, write_json, write_lines
from lcx.work.journal import Journal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["fit", "run_probes", "stop_ids", "thin"]


def thin(bundle: Bundle, limit: int | None) -> Bundle:
    """The bundle with at most `limit` of its branches, spread evenly over them."""
    count = len(bundle.branches)
    if limit is None or limit >= count:
        return bundle
    places = [(2 * number + 1) * count // (2 * limit) for number in range(limit)]
    return replace(bundle, branches=tuple(bundle.branches[place] for place in places))


@dataclass(frozen=True)
class Job:
    """One context to answer. `encoded` is None where it was dropped; `cut` tokens were taken out to fit."""

    bundle: Bundle
    encoded: EncodedBundle | None
    cut: int = 0


def fit(
    bundle: Bundle, encoded: EncodedBundle, window: int | None, max_new_tokens: int, too_long: str
) -> Job:
    """A job that fits a window of so many tokens (None: no limit).

    Raises UsageError naming the tokens needed, the window and the settings where `too_long` is `error`, or
    where not even the questions fit.
    """
    longest = max(branch.answer_start for branch in encoded.branches)
    needed = len(encoded.prefix) + longest + max_new_tokens
    if window is None or needed <= window:
        return Job(bundle, encoded)
    if too_long == "error" or (too_long != "drop" and window - longest - max_new_tokens < 2):
        items = bundle.meta.get("items")
        raise UsageError(
            f"{bundle.id} needs {needed} tokens, but the model's window is {window}",
            why=f"Context {len(encoded.prefix)}{f' ({items} items)' if items else ''}, question up to {longest}, "
            f"answer up to {max_new_tokens} tokens.",
            hint=f"Set sizes.{bundle.kind.split(':')[-1]} or context_tokens lower, too_long to drop or "
            "truncate-middle, or window to what the model can really read.",
        )
    short = fit_row(encoded, window - max_new_tokens, too_long)
    return Job(bundle, short, 0 if short is None else len(encoded.prefix) - len(short.prefix))


def run_probes(
    bundles_by_probe: Mapping[str, Sequence[Bundle]],
    encode: Callable[[Bundle], EncodedBundle],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: EvalSettings,
    out: Path,
    ctx: Context,
    *,
    probes: Mapping[str, Probe] | None = None,
    eos_ids: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Answer and score the bundles of every probe; returns what `scores.json` holds.

    Writes to `out`: `predictions-TASK.jsonl`, `curve-TASK.png`, `scores.json`, and a journal of answered
    contexts from which a killed run continues. `probes` are known probes by name (default: the built-in
    ones), `eos_ids` the tokens that end an answer (default: the model's and the tokenizer's). Raises
    UsageError before any decoding where a context does not fit the window.
    """
    found = {name: get_probe(name, probes) for name in bundles_by_probe}
    window = settings.window or getattr(model.config, "max_position_embeddings", None)
    stops = sorted(stop_ids(model, tokenizer) if eos_ids is None else set(eos_ids))
    jobs: dict[str, list[Job]] = {}
    for name, bundles in bundles_by_probe.items():
        thinned = [thin(bundle, settings.limit) for bundle in bundles]
        jobs[name] = [
            fit(bundle, encode(bundle), window, settings.max_new_tokens, settings.too_long)
            for bundle in thinned
        ]
    make_folder(out)
    same = _digest_of_weights(model)
    scores: dict[str, Any] = {}
    with Journal(out / "journal.jsonl") as journal:
        for name, todo in jobs.items():
            rows = _answer(name, todo, model, tokenizer, settings, stops, same, journal, ctx)
            write_lines(out / f"predictions-{slug(name)}.jsonl", rows)
            scores[name] = _score(found[name], todo, rows, settings)
            curve_png(out / f"curve-{slug(name)}.png", {settings.model or "model": scores[name]}, title=name)
    total = _summary(scores, settings)
    write_json(out / "scores.json", total)
    return total


def _answer(
    name: str,
    jobs: Sequence[Job],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: EvalSettings,
    stops: list[int],
    weights: str,
    journal: Journal,
    ctx: Context,
) -> list[dict[str, Any]]:
    """Rows of predictions for one probe, from the journal where it has them."""
    from lcx.modeling.decode import decode_bundle

    said: list[str] = []

    def refused(reason: str) -> None:
        if not said:
            said.append(reason)
            ctx.log(f"{name}: every question reads its context anew, because {reason}")

    rows: list[dict[str, Any]] = []
    with Meter(ctx, name, len(jobs), sum(len(job.bundle.branches) for job in jobs)) as meter:
        for job in jobs:
            branches = job.bundle.branches
            if job.encoded is None:
                meter.skip(len(branches))
                rows.extend({**row_of(branch, None), "skip": True} for branch in branches)
                continue
            mark = _fingerprint(job.encoded, settings.max_new_tokens, stops, weights)
            held = journal.get(job.bundle.id)
            if held is not None and held["fingerprint"] == mark:
                meter.skip(len(branches))
                texts = held["texts"]
            else:
                answers = decode_bundle(
                    model,
                    job.encoded,
                    max_new_tokens=settings.max_new_tokens,
                    eos_ids=stops,
                    batch=settings.batch,
                    on_done=meter.answers,
                    on_refused=refused,
                )
                texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
                journal.append({"unit": job.bundle.id, "fingerprint": mark, "texts": texts})
                meter.context()
            rows.extend(_rows(branches, texts))
    return rows


def _rows(branches: Sequence[Branch], texts: Sequence[str]) -> list[dict[str, Any]]:
    return [row_of(branch, text) for branch, text in zip(branches, texts, strict=True)]


def _score(
    probe: Probe, jobs: Sequence[Job], rows: list[dict[str, Any]], settings: EvalSettings
) -> dict[str, Any]:
    positions = max((job.bundle.meta.get("items", 0) for job in jobs), default=0)
    scored = score_predictions(probe, rows, settings.compat, span=settings.span, positions=positions)
    prefixes = [len(job.encoded.prefix) for job in jobs if job.encoded is not None]
    return {
        **scored,
        "positions": positions,
        "ambiguous": sum(job.bundle.meta.get("skipped", 0) for job in jobs),
        "contexts": len(jobs),
        "dropped": sum(job.encoded is None for job in jobs),
        "truncated": sum(job.cut > 0 for job in jobs),
        "context_tokens": round(sum(prefixes) / len(prefixes)) if prefixes else None,
    }


def _summary(scores: Mapping[str, Mapping[str, Any]], settings: EvalSettings) -> dict[str, Any]:
    """`scores.json`: every task, and the mean over tasks of average and gap."""
    means: dict[str, float | None] = {}
    for key in ("average", "gap"):
        known = [score[key] for score in scores.values() if score[key] is not None]
        means[key] = sum(known) / len(known) if known else None
    return {
        "model": settings.model,
        "corpus": settings.corpus,
        "seed": settings.seed,
        "style": settings.style,
        "tasks": dict(scores),
        **means,
    }


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, end: str = "") -> set[int]:
    """Tokens that end an answer: the model's (generation settings), the tokenizer's, a template's `end`.

    An `end` counts where it is a single token, as the tiny model's is.
    """
    config = getattr(model, "generation_config", None)
    given = [getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    found: set[int] = set()
    for one in given:
        found.update(one if isinstance(one, (list, tuple)) else [] if one is None else [one])
    closing = tokenizer.encode(end, add_special_tokens=False) if end else []
    if len(closing) == 1:
        found.update(closing)
    return {int(token) for token in found}


def _fingerprint(encoded: EncodedBundle, max_new_tokens: int, stops: list[int], weights: str) -> str:
    """What the answers to a context follow from."""
    digest = hashlib.sha256(np.asarray(encoded.prefix, dtype=np.int64).tobytes())
    if encoded.positions is not None:
        digest.update(np.asarray(encoded.positions, dtype=np.int64).tobytes())
    prompts = [branch.ids[: branch.answer_start] for branch in encoded.branches]
    digest.update(json.dumps([prompts, max_new_tokens, stops, weights]).encode())
    return digest.hexdigest()[:32]


def _digest_of_weights(model: PreTrainedModel) -> str:
    """A hash of a few numbers of every parameter: training changes it, and it costs nothing to read."""
    import torch

    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        few = flat[:: max(1, flat.numel() // 8)][:8].to("cpu", torch.float32)
        digest.update(name.encode() + few.numpy().tobytes())
    return digest.hexdigest()
