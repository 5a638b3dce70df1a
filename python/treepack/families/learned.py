"""A family whose declarations were found out by `treepack.families.learn`, and can be saved."""

from __future__ import annotations

import importlib
import inspect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from treepack.errors import DataError, FamilyError
from treepack.families.base import Array, Int64, Seen
from treepack.families.by_processor import ProcessorFamily
from treepack.families.chat_format import ChatFormat
from treepack.families.grids import on_three_axes
from treepack.families.joins import Join
from treepack.families.row_inputs import media_kinds
from treepack.options import Bidirectional
from treepack.sources.conversations import Conversations, Medium
from treepack.sources.media import cut
from treepack.tree import MessageTree

VERSION = 1


class Facts(NamedTuple):
    """What a family declares, found out from a processor and a model.

    Attributes:
        processor: name of the processor's class.
        media_names: for each kind of medium the names of its arrays.
        joins: how they are joined, by name, where not on their first axis.
        bidirectional: which image tokens see later ones.
        features: ids of the tokens that stand for features of the vision tower.
        positions: the class of the model that says position ids, and its configuration as JSON:
            ``(module, class, module of the configuration, its class, configuration)``. ``None``
            counts.
        rejected: for each kind of medium that does not work the reason.
        mixes: whether a row may have images and videos.
        several: kinds of media of which an example may have more than one.
        nests_images: see `ProcessorFamily`.
    """

    processor: str
    media_names: dict[str, tuple[str, ...]]
    joins: Mapping[str, Join] = MappingProxyType({})
    bidirectional: Bidirectional = "none"
    features: tuple[int, ...] = ()
    positions: tuple[str, str, str, str, str] | None = None
    rejected: Mapping[str, str] = MappingProxyType({})
    mixes: bool = True
    several: tuple[str, ...] = ()
    nests_images: bool = True


class LearnedFamily(ProcessorFamily):
    """A family made by `treepack.families.learn`; it needs no model any more.

    Args:
        processor: that from which it was learnt, or another one of its class with its settings.
        facts: what was found out.
        chat: how turns are written; by default as in the chat template.

    Raises:
        FamilyError: a processor of another class.

    Example:
        >>> from treepack.families.learned import LearnedFamily
        >>> family = tp.families.learn(processor, model)  # doctest: +SKIP
        >>> text = json.dumps(family.to_dict())  # doctest: +SKIP
        >>> LearnedFamily.from_dict(processor, json.loads(text))  # doctest: +SKIP
    """

    name = "learned"
    processors: ClassVar[tuple[str, ...]] = ()
    vision_cost = "units"

    def __init__(self, processor: Any, facts: Facts, chat: ChatFormat | None = None) -> None:
        if type(processor).__name__ != facts.processor:
            raise FamilyError(
                f"the family was learnt from a {facts.processor}, and this is a "
                f"{type(processor).__name__}; learn it from this one"
            )
        self.facts: Facts = facts._replace(joins=dict(facts.joins), rejected=dict(facts.rejected))
        # Other families declare these for their class.
        self.__dict__.update(
            media_names=dict(facts.media_names),
            joins=dict(facts.joins),
            bidirectional=facts.bidirectional,
            nests_images=facts.nests_images,
        )
        self._core: Any = None
        super().__init__(processor, chat)

    def to_dict(self) -> dict[str, Any]:
        """What was found out, as JSON; without the processor."""
        facts = self.facts._replace(joins={})._asdict()
        joins = {name: list(rule) for name, rule in self.facts.joins.items()}
        return {"version": VERSION, **facts, "joins": joins}

    @classmethod
    def from_dict(
        cls, processor: Any, saved: Mapping[str, Any], chat: ChatFormat | None = None
    ) -> LearnedFamily:
        """The family that was saved.

        Args:
            processor: as it was learnt from.
            saved: from `to_dict`.
            chat: as it was learnt with.

        Raises:
            FamilyError: of another version or processor, or not from `to_dict`.
        """
        if not isinstance(saved, Mapping) or saved.get("version") != VERSION:
            raise FamilyError(
                f"this is no learnt family of version {VERSION}; learn it again with "
                "treepack.families.learn(processor, model)"
            )
        positions = saved["positions"]
        facts = Facts(
            saved["processor"],
            {kind: tuple(names) for kind, names in saved["media_names"].items()},
            {name: _join(rule) for name, rule in saved["joins"].items()},
            saved["bidirectional"],
            tuple(saved["features"]),
            None if positions is None else (*positions,),
            saved["rejected"],
            saved["mixes"],
            tuple(saved["several"]),
            saved["nests_images"],
        )
        return cls(processor, facts, chat)

    def feature_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for features of the vision tower."""
        return self.facts.features

    def root_positions(self, made: Mapping[str, Array]) -> Int64 | None:
        """What the model's own ``get_rope_index`` says of a root with media."""
        if self.facts.positions is None or not any("pixel" in name for name in made):
            return None
        import torch

        if self._core is None:
            self._core = _core(self.facts.positions)
        takes = inspect.signature(self._core.get_rope_index).parameters
        given = {name: torch.from_numpy(made[name]) for name in takes if name in made}
        positions, _ = self._core.get_rope_index(**given)
        found: Int64 = positions[:, 0].long().numpy()
        return found

    def position_ids(self, positions: Int64) -> Int64:
        """Position ids as the model takes them: ``[1, total]``, or ``[A, 1, total]`` on axes."""
        if self.facts.positions is None:
            return positions
        return on_three_axes(positions)

    def collate(
        self, trees: Sequence[MessageTree], total: int, fill: Any = False
    ) -> dict[str, Array]:
        """Model inputs of the media; a row that mixes kinds is rejected if the model takes none."""
        if not self.facts.mixes and len(media_kinds(trees, self.media_names)) > 1:
            raise FamilyError(
                f"the row of {cut(str([tree.key for tree in trees]))} has images and videos, and "
                "the model was not exact on such rows; pack them apart, a PackedDataset for each"
            )
        return super().collate(trees, total, fill)

    def _see(self, conversations: Conversations) -> list[Seen]:
        seen = super()._see(conversations)
        kinds = Counter(medium.medium.kind for medium in seen)
        for kind, n in kinds.items():
            if n > 1 and kind not in self.facts.several:
                raise DataError(
                    f"{seen[0].example} has {n} media of the kind {kind!r}, and the model was not "
                    "exact with more than one in an example; make an example of each"
                )
        return seen

    def _open(self, medium: Medium, name: str) -> Seen:
        if medium.kind in self.facts.rejected:
            raise DataError(
                f"{name}: the model was not learnt with a {medium.kind}: "
                f"{self.facts.rejected[medium.kind]}"
            )
        return super()._open(medium, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_core": None}


def _join(rule: list[Any]) -> Join:
    axis, fill, counts, pads = rule
    return Join(axis, fill, None if counts is None else (counts[0], counts[1]), pads)


def _core(positions: tuple[str, str, str, str, str]) -> Any:
    """A model without weights, that knows its configuration and says position ids."""
    from torch import nn

    module, name, config_module, config_name, config = positions
    kind = getattr(importlib.import_module(module), name)
    core = kind.__new__(kind)
    nn.Module.__init__(core)
    config_kind = getattr(importlib.import_module(config_module), config_name)
    core.config = config_kind.from_dict(json.loads(config))
    return core
