"""Datasets of encoded bundles, made on access, and the check that every row fits the model's window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, overload

from lcx.data.assembly import fit
from lcx.errors import LcxError
from lcx.records import Bundle, EncodedBundle


class Encoder(Protocol):
    """Anything that turns a bundle into token ids, as `lcx.data.assembly.Assembler` does."""

    def encode(self, bundle: Bundle) -> EncodedBundle | None:
        """Token ids of a bundle."""
        ...


class EncodedDataset(Sequence[EncodedBundle]):
    """Bundles that an encoder turns into token ids when they are asked for."""

    def __init__(self, bundles: Sequence[Bundle], encoder: Encoder) -> None:
        self.bundles, self.encoder = bundles, encoder

    def __len__(self) -> int:
        return len(self.bundles)

    @overload
    def __getitem__(self, index: int) -> EncodedBundle: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedBundle]: ...
    def __getitem__(self, index: int | slice) -> EncodedBundle | list[EncodedBundle]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        encoded = self.encoder.encode(self.bundles[index])
        assert encoded is not None  # encoders drop only by a limit, and none is given
        return encoded


def span(bundle: EncodedBundle) -> int:
    """Positions that the bundle's longest row needs: the highest position id, plus one."""
    start = len(bundle.prefix) if bundle.positions is None else int(bundle.positions[-1]) + 1
    return start + max(len(branch.ids) for branch in bundle.branches)


@dataclass
class Fitted(Sequence[EncodedBundle]):
    """The bundles of a dataset that are trained on, each brought within the limit, and what was counted."""

    source: Sequence[EncodedBundle]
    limit: int
    policy: str
    kept: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    answer_lengths: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def shortest(self) -> int:
        """Number of the bundle of the fewest tokens."""
        return min(range(len(self)), key=self.lengths.__getitem__)

    @overload
    def __getitem__(self, index: int) -> EncodedBundle: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedBundle]: ...
    def __getitem__(self, index: int | slice) -> EncodedBundle | list[EncodedBundle]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
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
