"""The data of a training step: bundles of an earlier step or rows of anybody's, until they are token ids that fit.

In order: reading, with the answers that are learnt; short pairs laid behind long ones; which bundles can be compared;
and the encoded rows, made on access and brought within the model's window. Torch-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np

from lcx.context import Context
from lcx.data.assembly import fit, share_question
from lcx.data.bundles import holds_bundles
from lcx.data.files import Rejects
from lcx.data.rows import read_bundles_of_rows
from lcx.errors import LcxError, MissingError
from lcx.formatting import several
from lcx.modeling.positions import bundle_rng, draw_mode, place
from lcx.recipe import Step
from lcx.records import Bundle, EncodedBundle
from lcx.run import Run

T = TypeVar("T")
HELD_TOKENS = 4 << 20
"""Tokens that stay encoded between the check and training: about 32 MB of prefixes, all of a small data set."""
HELD_OUT = 26
"""Beside the seed where held-out bundles are drawn, so that the draw is none of training's own."""
LEARNT = ("answer", "chosen")
"""Roles of branches that supervised training learns."""


class Made(Sequence[T]):
    """A sequence whose items are made when they are asked for: subclasses give its length and `at`."""

    def at(self, index: int) -> T:
        """Item number `index`, from 0 to the length."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(len(self))[index]
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]


@dataclass
class TrainingData:
    """Bundles, what was counted while they were read, and what is worth saying about them."""

    bundles: Sequence[Bundle]
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    rejects: Rejects = field(default_factory=Rejects)


def read_training_data(
    data: Path, fields: Mapping[str, str] | None = None, *, supervised: bool = False
) -> TrainingData:
    """The bundles of a folder of them, or of rows: a file, a folder of files, or `hf:NAME` as a path.

    `supervised` leaves out answers that are not to be learnt from by imitation, rejected ones above all. Raises
    UsageError for rows that cannot be used, LcxError where nothing is left to learn.
    """
    found = TrainingData([])
    if holds_bundles(data):
        from lcx.data.bundles import read_bundles

        found.bundles = read_bundles(data)
    else:
        from lcx.data.rows import read_bundles_of_rows

        found.bundles, found.notes = read_bundles_of_rows(str(data), found.rejects, fields)
        found.counts.update({f"rows set aside: {why}": n for why, n in found.rejects.counts.items()})
    if supervised:
        found.bundles, left = learnt_only(found.bundles)
        found.counts.update({f"answers not learnt: {role}": count for role, count in left.items()})
        if left:
            named = ", ".join(f"{count:,} {role}" for role, count in sorted(left.items()))
            found.notes.append(f"sft learns right and chosen answers only; left out: {named}")
        if not len(found.bundles):
            raise LcxError(
                "there is no answer to learn", why=f"The answers of {data} are: {', '.join(sorted(left))}."
            )
    return found


def training_bundles(
    data: Path, step: Step, run: Run, ctx: Context, *, supervised: bool = False, keep_rejects: bool = True
) -> TrainingData:
    """The data of a train step; what is worth saying is logged, and rows set aside go to `rejected.jsonl`."""
    found = read_training_data(data, getattr(step.settings, "fields", None), supervised=supervised)
    if len(found.rejects) and ctx.rank == 0 and keep_rejects:
        found.rejects.write(run.folder(step) / "rejected.jsonl")
    ctx.log(f"{several(len(found.bundles), 'bundle')} from {data}")
    if len(found.rejects):
        ctx.log(f"    set aside: {found.rejects.summary()}")
    for note in found.notes:
        ctx.log(f"    {note}")
    return found


class Learnt(Made[Bundle]):
    """Bundles of which only the answers to be learnt are left; read when they are asked for."""

    def __init__(self, bundles: Sequence[Bundle], kept: Sequence[int]) -> None:
        self.bundles, self.kept = bundles, kept

    def __len__(self) -> int:
        return len(self.kept)

    def at(self, index: int) -> Bundle:
        bundle = self.bundles[self.kept[index]]
        return replace(bundle, branches=tuple(one for one in bundle.branches if one.role in LEARNT))


def learnt_only(bundles: Sequence[Bundle]) -> tuple[Sequence[Bundle], Counter[str]]:
    """The bundles without answers of other roles than LEARNT, and how many there were of each role."""
    left: Counter[str] = Counter()
    kept = []
    for number, bundle in enumerate(bundles):
        roles = [branch.role for branch in bundle.branches]
        left.update(role for role in roles if role not in LEARNT)
        if any(role in LEARNT for role in roles):
            kept.append(number)
    return (Learnt(bundles, kept) if left else bundles), left


class Joined(Made[Bundle]):
    """Two sequences of bundles as one; bundles are read when they are asked for."""

    def __init__(self, first: Sequence[Bundle], second: Sequence[Bundle]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def at(self, index: int) -> Bundle:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


def with_short(
    long: Sequence[Bundle], short: str, rejects: Rejects, fields: Mapping[str, str] | None = None
) -> tuple[Joined, Counter[str]]:
    """The bundles with the pairs of a file of rows behind them, and how many there are of each.

    Rows that are no pair go into `rejects` with the reason. Raises MissingError where there is no file, UsageError
    where no row is usable.
    """
    path = Path(short).expanduser()
    if not short.startswith("hf:") and not path.exists():
        raise MissingError(
            f"no file of short pairs at '{short}'",
            hint='--set STEP.short=FILE.jsonl; a row: {"prompt": "...", "chosen": "...", "rejected": "..."}',
        )
    found, _ = read_bundles_of_rows(short, rejects, fields, pairs=True)
    counts = Counter({"long bundles": len(long), "short bundles mixed in": len(found)})
    counts.update({f"short rows set aside: {reason}": n for reason, n in rejects.counts.items()})
    return Joined(long, found), counts


DUPLICATE = "rejected answers dropped: same text as the chosen one or another"


def comparable(bundle: Bundle) -> tuple[Bundle | None, str, int]:
    """The bundle with distinct answers, chosen first; or None and the reason. Third: answers left out as duplicates."""
    chosen = [branch for branch in bundle.branches if branch.role == "chosen"]
    rejected = [branch for branch in bundle.branches if branch.role == "rejected"]
    if len(chosen) != 1:
        return None, "no chosen answer" if not chosen else f"{len(chosen)} chosen answers", 0
    if not rejected:
        return None, "no rejected answer", 0
    if len({branch.question for branch in (*chosen, *rejected)}) > 1:
        return None, "answers to different questions", 0
    seen = {chosen[0].answer.strip()}
    distinct = []
    for branch in rejected:
        text = branch.answer.strip()
        if text not in seen:
            distinct.append(branch)
            seen.add(text)
    if not distinct:
        return None, "every rejected answer is the chosen one", len(rejected)
    return replace(bundle, branches=(*chosen, *distinct)), "", len(rejected) - len(distinct)


@dataclass
class Screened:
    """The numbers of the bundles that preference training can use; the others are counted and listed with reasons."""

    kept: list[int]
    counts: Counter[str]
    aside: list[dict[str, Any]]


def screen(bundles: Iterable[Bundle]) -> Screened:
    """Look through all bundles once; those that cannot be compared are counted and kept aside with the reason."""
    found = Screened([], Counter(), [])
    for number, bundle in enumerate(bundles):
        usable, reason, doubles = comparable(bundle)
        if usable is None:
            found.counts[f"bundles skipped: {reason}"] += 1
            found.aside.append({"bundle": bundle.id, "reason": reason})
        else:
            found.kept.append(number)
            if doubles:
                found.counts[DUPLICATE] += doubles
    return found


def no_pairs(found: Screened) -> None:
    """Raise LcxError where no bundle can be compared."""
    if not found.kept:
        raise LcxError(
            "there is no pair to learn from",
            why="; ".join(f"{reason} ({count})" for reason, count in found.counts.most_common(3))
            or "The data is empty.",
            hint="Each bundle needs one branch of role chosen, and others of role rejected.",
        )


class PairDataset(Made[EncodedBundle]):
    """Comparable bundles as token ids, made on access: context and question are the prefix of all answers."""

    def __init__(self, bundles: Sequence[Bundle], encoder: Encoder, kept: Sequence[int]) -> None:
        self.bundles, self.encoder, self.kept = bundles, encoder, kept

    def __len__(self) -> int:
        return len(self.kept)

    def at(self, index: int) -> EncodedBundle:
        bundle, reason, _ = comparable(self.bundles[self.kept[index]])
        assert bundle is not None, reason  # it was screened
        encoded = self.encoder.encode(bundle)
        assert encoded is not None  # encoders drop only by a limit, and none is given
        return share_question(encoded)


@dataclass(frozen=True)
class Spread:
    """Draws synthetic positions for a bundle, others in every epoch unless `fixed`. See `lcx.modeling.positions`."""

    seed: int
    target: int
    sparse_share: float
    slot_tokens: int
    fixed: bool = False

    def __call__(self, bundle: EncodedBundle, epoch: int) -> EncodedBundle:
        rng = bundle_rng(self.seed, bundle.id, 0 if self.fixed else epoch)
        mode = draw_mode(rng, self.sparse_share)
        return place(bundle, self.target, rng, mode=mode, slot_tokens=self.slot_tokens)


class Encoder(Protocol):
    """Anything that turns a bundle into token ids, as `lcx.data.assembly.Assembler` does."""

    def encode(self, bundle: Bundle) -> EncodedBundle | None:
        """Token ids of a bundle."""
        ...


class EncodedDataset(Made[EncodedBundle]):
    """Bundles that an encoder turns into token ids when they are asked for."""

    def __init__(self, bundles: Sequence[Bundle], encoder: Encoder) -> None:
        self.bundles, self.encoder = bundles, encoder

    def __len__(self) -> int:
        return len(self.bundles)

    def at(self, index: int) -> EncodedBundle:
        encoded = self.encoder.encode(self.bundles[index])
        assert encoded is not None  # encoders drop only by a limit, and none is given
        return encoded


def span(bundle: EncodedBundle) -> int:
    """Positions that the bundle's longest row needs: the highest position id, plus one."""
    start = len(bundle.prefix) if bundle.positions is None else int(bundle.positions[-1]) + 1
    return start + max(len(branch.ids) for branch in bundle.branches)


@dataclass
class Fitted(Made[EncodedBundle]):
    """The bundles of a dataset that are trained on, each brought within the limit, and what was counted."""

    source: Sequence[EncodedBundle]
    limit: int
    policy: str
    kept: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    answer_lengths: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    held: dict[int, EncodedBundle] = field(default_factory=dict)
    """Bundles by their number that stay encoded from the check on; the others are encoded anew on access."""

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def shortest(self) -> int:
        """Number of the bundle of the fewest tokens."""
        return min(range(len(self)), key=self.lengths.__getitem__)

    def longest(self, count: int) -> list[int]:
        """Numbers of the bundles of the most tokens, the longest first."""
        return sorted(range(len(self)), key=lambda number: (-self.lengths[number], number))[:count]

    def part(self, numbers: Sequence[int]) -> Fitted:
        """Some of the bundles, by their numbers; what was counted stays with the whole."""
        return replace(
            self,
            kept=[self.kept[number] for number in numbers],
            branches=[self.branches[number] for number in numbers],
            lengths=[self.lengths[number] for number in numbers],
            held={place: self.held[number] for place, number in enumerate(numbers) if number in self.held},
        )

    def apart(self, share: float, seed: int) -> tuple[Fitted, Fitted]:
        """The bundles that are trained on, and those held out: a share of them, at least one, drawn by the seed.

        Raises LcxError where nothing would be left to train on.
        """
        count = max(1, round(share * len(self)))
        if count >= len(self):
            raise LcxError(
                f"eval_share {share:g} of {len(self):,} contexts leaves nothing to train on",
                hint="Lower eval_share, or name held-out data of its own: --set train.eval_input=FILE",
            )
        drawn = set(np.random.default_rng([seed, HELD_OUT]).permutation(len(self))[:count].tolist())
        numbers = range(len(self))
        return self.part([n for n in numbers if n not in drawn]), self.part(
            [n for n in numbers if n in drawn]
        )

    def at(self, index: int) -> EncodedBundle:
        bundle = self.held.get(index)
        if bundle is None:
            bundle = fit(self.source[self.kept[index]], self.limit, self.policy)
        assert bundle is not None
        return bundle


def fit_all(
    dataset: Sequence[EncodedBundle],
    *,
    window: int,
    max_tokens: int | None = None,
    policy: str = "error",
    check: Callable[[EncodedBundle], None] | None = None,
) -> Fitted:
    """Check all rows against the window before anything is trained, and apply the policy to those too long.

    A row is a prefix with one branch; its synthetic positions, where it has any, must lie in the window
    too. `check` is called with each bundle that is kept, and may raise. Raises LcxError naming row and limit
    under `error`, or where nothing is left.
    """
    limit = min(window, max_tokens or window)
    tokens = 0
    name = "the model's window" if limit == window else "max_tokens"
    done = Fitted(dataset, limit, policy)
    for index in range(len(dataset)):
        bundle: EncodedBundle | None = dataset[index]
        assert bundle is not None
        row = bundle.longest_row
        if row > limit and policy == "error":
            raise LcxError(
                f"bundle {bundle.id} has a row of {row:,} tokens, more than {name} of {limit:,}",
                hint="Make shorter contexts, or set too_long to drop or truncate-middle"
                + (
                    " (rope_theta alone does not widen a window)."
                    if limit == window
                    else ", or raise max_tokens."
                ),
            )
        bundle = fit(bundle, limit, policy, done.counts)
        if bundle is None:
            continue
        if span(bundle) > window:
            raise LcxError(
                f"bundle {bundle.id} has position {span(bundle) - 1:,}; "
                f"the model's window ends at {window - 1:,}",
                hint="Lower the target length of the synthetic positions.",
            )
        if check is not None:
            check(bundle)
        tokens += len(bundle)
        if tokens <= HELD_TOKENS:
            done.held[len(done.kept)] = bundle
        done.kept.append(index)
        done.branches.append(len(bundle.branches))
        done.lengths.append(len(bundle))
        done.answer_lengths |= {len(branch.ids) - branch.answer_start for branch in bundle.branches}
    if not done.kept:
        why = (
            f"All {len(dataset):,} were longer than {name} of {limit:,} tokens."
            if len(dataset)
            else "The data is empty."
        )
        raise LcxError("there is nothing to train on", why=why)
    return done
