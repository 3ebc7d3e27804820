"""What an eval step asks and reads: the bundles of its probes and the texts of its measures, made from the corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from lcx.corpus.documents import Rejects, read_corpus
from lcx.evaluation.probes import Measure, Probe, ProbeOptions, Reading
from lcx.evaluation.settings import EvalSettings
from lcx.records import Bundle, EncodedBundle

__all__ = ["build_material", "eval_notes"]


def build_material(
    probes: Mapping[str, Probe | Measure],
    settings: EvalSettings,
    tokenizer: Any,
    encode: Callable[[Bundle], EncodedBundle],
    window: int | None,
) -> tuple[dict[str, list[Bundle] | list[Reading]], Counter[str]]:
    """Bundles or texts of every evaluation by name, and counts of what of the corpus was set aside, by reason.

    `window` is the model's, in tokens. Raises UsageError where the corpus is too small for one of them.
    """

    def tokenize(text: str) -> list[int]:
        # A long text is no mistake here: not verbose. A special token's name in a text stays text.
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]

    def prompt_tokens(bundle: Bundle) -> int:
        encoded = encode(bundle)
        asked = max(branch.answer_start for branch in encoded.branches)
        return len(encoded.prefix) + asked + settings.max_new_tokens

    material: dict[str, list[Bundle] | list[Reading]] = {}
    rejects = Rejects()
    for task, probe in probes.items():
        options = ProbeOptions(
            size=settings.size(task),
            sets=settings.sets,
            style=settings.style,
            context_tokens=settings.context_tokens,
            count_tokens=lambda text: len(tokenize(text)),
            lengths=settings.lengths,
            records=settings.records,
            depths=settings.depths,
            one_needle=settings.needle_contexts == "single",
            buckets=settings.buckets,
            window=window,
            tokenize=tokenize,
            opening=_opening(tokenizer),
            prompt_tokens=prompt_tokens,
        )
        # Read anew for each probe, which stops as soon as it has enough: a corpus may be larger than memory.
        aside = Rejects()
        documents = read_corpus(settings.corpus, limit=settings.documents, rejects=aside)
        material[task] = probe.build(documents, options, settings.seed)
        rejects = aside if len(aside) > len(rejects) else rejects
    return material, rejects.counts


def _opening(tokenizer: Any) -> tuple[int, ...]:
    """The begin-of-text token, where the tokenizer puts one before a text by itself."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return (int(bos),) if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos] else ()


def eval_notes(
    tasks: Mapping[str, Mapping[str, Any]], sets: int
) -> tuple[dict[str, int], dict[str, Any], list[str]]:
    """Counts, headline numbers and warnings of an eval step's results, by task."""
    counts: dict[str, int] = {}
    metrics: dict[str, Any] = {}
    notes = []
    for task, found in tasks.items():
        read = "texts" in found
        counts[f"{task} {'tokens' if read else 'queries'}"] = found["n"]
        for what in ("texts", "joined", "nulls", "skipped", "ambiguous", "dropped", "truncated"):
            if found.get(what):
                counts[f"{task} {what}"] = found[what]
        if found.get("worst"):
            metrics[f"{task} worst cell"] = found["worst"]
        for what in ("perplexity", "decoys"):
            if found.get(what) is not None:
                metrics[task if what == task else f"{task} {what}"] = found[what]
        if found.get("truncated"):
            how = "texts were cut at the end" if read else "contexts were cut in the middle"
            notes.append(f"{task}: {found['truncated']} {how} to fit the window")
        if read and found["texts"] + found.get("dropped", 0) < sets:
            notes.append(
                f"{task}: the corpus gave {found['texts'] + found.get('dropped', 0)} texts, not {sets}"
            )
    return counts, metrics, notes
