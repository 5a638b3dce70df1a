"""Settings of a dataset: what they may be, their defaults, and the frozen whole of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from treepack._core import Packer
from treepack.dataset.sharding import Introduction, SentShard, find_shard
from treepack.dataset.shards.given import GivenPacks
from treepack.errors import BudgetError, DatasetError
from treepack.options import Bidirectional, MediumKind
from treepack.sources.protocol import OrderedSource, is_map_style

if TYPE_CHECKING:
    from treepack.families import Family
    from treepack.packing.balance import Balance
    from treepack.sources.costs import CostTable
    from treepack.tree import MessageTree

SPELLED_OUT = 240
"""Characters of an ordered source that a fingerprint spells out, so that states stay small."""


@dataclass(frozen=True)
class Policy:
    """How a shard packs, and what it does with examples that fail.

    Attributes:
        budgets: what a row holds of examples, by name.
        packer: settings of the `Packer`.
        skips: whether examples that fail are counted instead of raised.
        requeues: whether an example that costs other than measured is pushed again.
        splits: whether a tree over a budget is split at its branches.
        truncates: whether long branches are cut.
    """

    budgets: Mapping[str, int]
    packer: Mapping[str, Any]
    skips: bool = False
    requeues: bool = False
    splits: bool = False
    truncates: bool = False

    @property
    def reshapes(self) -> bool:
        """Whether trees may be split or cut, which is counted."""
        return self.splits or self.truncates

    def is_over(self, cost: Mapping[str, int]) -> bool:
        """Whether an example is over a budget."""
        # What is no integer the packer rejects.
        return any(
            type(cost.get(name)) is int and cost[name] > size for name, size in self.budgets.items()
        )

    @property
    def drops(self) -> bool:
        """Whether an example over a budget is dropped and counted."""
        return bool(self.packer.get("oversize") == "drop")

    def make_packer(self) -> Packer:
        """A packer with these settings.

        Raises:
            BudgetError: budgets or settings that it does not take.
        """
        return Packer(self.budgets, **self.packer)


@dataclass(frozen=True, eq=False)
class Settings:
    """Everything that a `PackedDataset` was told; iterators read it and change nothing.

    Attributes:
        source: where examples come from.
        budgets: capacities of a row, by name.
        policy: how they are packed.
        family: of the model, or ``None`` if the source yields `MessageTree`.
        shard: rank and size of the data-parallel group, if the user gave them; else they are found
            when they are needed, by `find_shard`.
        virtual_shards: V, or ``None`` for ranks times workers.
        seed: of the order.
        shuffle: whether a map-style source is shuffled.
        epochs: over a map-style source, ``None`` without end.
        pad_to_budget: whether every row is as long as the token budget.
        bidirectional: mode of image attention; ``None`` is the family's.
        sliding_windows: of the model's attention layers, in tokens.
        vision_on_every_row: kinds of media for which every row runs the vision tower, or all;
            ``None`` if nobody has said.
        transform: applied to every loaded tree, or ``None``.
        why_not_resumable: why the stream has no state to save, or ``None``.
        source_start: state of an iterable at its first example.
        sent_shard: what the process that started this one knew of its shard.
        packs: that were made before, or ``None``.
        balance: how packs are dealt to ranks, or ``None``.
        epoch: number of the first one, from which orders are drawn.
        max_branch_tokens: to which branches are cut, or ``None``.
    """

    source: Any
    budgets: Mapping[str, int]
    policy: Policy
    family: Family | None
    shard: tuple[int, int] | None
    virtual_shards: int | None
    seed: int
    shuffle: bool
    epochs: int | None
    pad_to_budget: bool
    bidirectional: Bidirectional | None
    sliding_windows: tuple[int, ...]
    vision_on_every_row: bool | tuple[MediumKind, ...] | None
    transform: Callable[[MessageTree], MessageTree] | None
    why_not_resumable: str | None
    source_start: Any
    sent_shard: SentShard | None = None
    packs: GivenPacks | None = None
    balance: Balance | None = None
    epoch: int = 0
    max_branch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.epochs != 1 and not is_map_style(self.source):
            raise DatasetError(
                f"epochs={self.epochs} of {type(self.source).__name__}: an iterable ends after one "
                "iteration; repeat it in its own __iter__, or give it __len__ and __getitem__"
            )
        if self.pad_to_budget and "tokens" not in self.budgets:
            raise BudgetError(
                f"pad_to_budget needs a budget 'tokens'; there are {list(self.budgets)}"
            )
        self.policy.make_packer()

    def find_shard(self) -> tuple[int, int]:
        """Rank and size of the data-parallel group, as they are now.

        Raises:
            DatasetError: the environment says half of what it takes.
        """
        return find_shard(self.shard, self.sent_shard)

    def sent(self) -> Settings:
        """The settings as a process sends them to the workers that it starts."""
        try:
            return replace(self, sent_shard=SentShard(os.getpid(), self.find_shard()))
        except DatasetError:
            # Whoever reads the copy will find out for itself.
            return self

    def introduce(self) -> Introduction:
        """What this rank tells the others."""
        try:
            shard = self.find_shard()
        except DatasetError as error:
            return Introduction(None, error=str(error))
        told = {**self.fingerprint(), "epochs": self.epochs, "virtual_shards": self.virtual_shards}
        told["steps"] = self.balance and [self.balance.accumulate, self.balance.window]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return Introduction(shard, self.shard is not None, digest)

    def fingerprint(self) -> dict[str, Any]:
        """What the packs depend on beside the examples, as a state keeps it."""
        source = self.source
        kind = type(source).__name__
        if isinstance(source, OrderedSource):
            kind = _shorten(repr(source))
        elif is_map_style(source):
            kind = f"{len(source)} examples"
        more: dict[str, Any] = {"epoch": self.epoch} if self.epoch else {}
        if self.policy.splits:
            more["oversize"] = "split"
        if self.max_branch_tokens is not None:
            more["max_branch_tokens"] = self.max_branch_tokens
        if self.packs is not None:
            more["packs"] = self.packs.digest
        if self.balance is not None:
            # Ranks and steps may change when a stream goes on.
            weights = dict(sorted(self.balance.weights.items()))
            more["balance"] = {"sync": self.balance.sync, "weights": weights}
        return {
            "source": kind,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "family": self.family.name if self.family else "",
            "packer": self.policy.make_packer().state()["fingerprint"],
            **more,
        }


def _shorten(text: str) -> str:
    """A text of bounded length that is different for different texts."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text if len(text) <= SPELLED_OUT else f"{text[: SPELLED_OUT // 2]}... {digest[:16]}"


def find_family(
    processor: Any, family: str | Family | None, chat: Any, budgets: Mapping[str, int]
) -> Family | None:
    """The model family of a processor, or the one given, which must measure what is budgeted."""
    found = _given_family(processor, family, chat)
    if found is None:
        return None
    unknown = [name for name in budgets if name not in found.costs]
    if unknown:
        raise BudgetError(
            f"budgets {unknown} are not measured by family {found.name!r}, which measures "
            f"{list(found.costs)}; rename them, or pass a source that yields MessageTree"
        )
    return found


def _given_family(processor: Any, family: str | Family | None, chat: Any) -> Family | None:
    if family is not None and not isinstance(family, str):
        missing = [name for name in ("measure", "load", "collate") if not hasattr(family, name)]
        if missing:
            raise DatasetError(
                f"family is a {type(family).__name__} without {missing}; pass the name of a family "
                "or a treepack.families.Family"
            )
        return family
    if processor is None:
        if family is not None:
            raise DatasetError(f"family={family!r} needs a processor; pass processor=")
        return None
    from treepack.families import find

    return find(processor, family, chat=chat)


def check_fill(fill: Any, family: Family | None) -> bool | tuple[MediumKind, ...] | None:
    """Kinds of media for which every row runs the vision tower; ``None`` stays undecided.

    Raises:
        DatasetError: there is no family that could say how.
        FamilyError: a kind that the family does not have.
    """
    if not fill:
        return None if fill is None else False
    if family is None:
        raise DatasetError(
            f"vision_on_every_row={fill!r} needs the family of the model, which knows its smallest "
            "image; pass processor= or family="
        )
    if fill is not True:
        fill = (fill,) if isinstance(fill, str) else tuple(fill)
    family.fill_cost(fill)
    return cast("bool | tuple[MediumKind, ...]", fill)


def packed_budgets(
    budgets: Mapping[str, int], family: Family | None, fill: bool | tuple[MediumKind, ...] | None
) -> dict[str, int]:
    """What of each budget is left for examples: the smallest media must fit into every row."""
    if family is None or not fill:
        return dict(budgets)
    reserved = family.fill_cost(fill)
    left = {name: size - reserved.get(name, 0) for name, size in budgets.items()}
    for name, size in left.items():
        if size < 1:
            raise BudgetError(
                f"budget {name!r} is {budgets[name]}, and vision_on_every_row keeps "
                f"{reserved[name]} of it free in every row; raise it"
            )
    return left


def positive(name: str, value: int | None) -> int | None:
    """A positive integer or ``None``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise DatasetError(f"{name} must be a positive integer or None, got {value!r}")
    return int(value)


def check_dict(name: str, value: Any) -> dict[str, Any]:
    """A dict of settings by name."""
    if not isinstance(value, Mapping):
        raise DatasetError(f"{name} must be a dict by name, got {value!r}")
    return dict(value)


def packer_settings(
    pool_size: int, oversize: str, packer: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that a `Packer` is told beside its budgets."""
    return {"pool_size": pool_size, "oversize": oversize, **check_dict("packer", packer or {})}


def check_windows(windows: Any) -> tuple[int, ...]:
    """Windows of sliding attention, in tokens."""
    is_listed = isinstance(windows, Iterable) and not isinstance(windows, str)
    found = tuple(positive("a window", window) or 0 for window in windows) if is_listed else None
    if found is None or 0 in found:
        raise DatasetError(
            f"sliding_windows must be a list of windows in tokens, got {windows!r}; pass "
            "treepack.hf.sliding_windows(model)"
        )
    return found


def check_epoch(value: int) -> int:
    """The number of an epoch."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise DatasetError(f"epoch must be an integer of 0 or more, got {value!r}")
    return int(value)


def check_seed(value: int) -> int:
    """A seed of 64 bits."""
    if not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << 64:
        raise DatasetError(f"seed must be an integer in [0, 2**64), got {value!r}")
    return int(value)


def check_table(costs: Any, family: Family | None = None) -> CostTable:
    """A table of costs, not the numbers themselves, measured with the settings of the family."""
    table = _table(costs)
    settings = getattr(costs, "settings", None)
    if settings is not None:
        from treepack.families.settings import check_measured_with

        check_measured_with(settings, family)
    return table


def _table(costs: Any) -> CostTable:
    if not hasattr(costs, "attach"):
        raise DatasetError(
            f"costs is a {type(costs).__name__}; make a table of it with treepack.costs.from_numpy"
        )
    table: CostTable = costs
    return table


def check_budgets(budgets: Any, packs: GivenPacks | None) -> dict[str, int]:
    """The budgets, by default those that the packs were made for.

    Raises:
        BudgetError: there are none.
        DatasetError: not a dict.
    """
    if budgets is None:
        budgets = packs and packs.budgets
        if not budgets:
            raise BudgetError('budgets are missing; pass budgets={"tokens": 16_384}, say')
    return check_dict("budgets", budgets)


def is_one_of(name: str, value: str, special: str) -> bool:
    """Whether a policy is its special word; ``"raise"`` is the other that it may be."""
    known = ("raise", special)
    if value not in known:
        raise DatasetError(f"{name} must be one of {list(known)}, got {value!r}")
    return value == special
