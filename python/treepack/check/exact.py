"""A packed row against each of its paths alone: tokens, logits, loss and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from treepack.batch import PackedBatch, collate
from treepack.check.layers import first_that_differs
from treepack.check.paths import Path, fully_trained, paths_of
from treepack.errors import TreepackError
from treepack.families import Family
from treepack.hf.checks import sees_ahead
from treepack.hf.model import is_packed, passed, prepare, restore
from treepack.sources.conversations import Conversations, read_record

LOGITS, GRADIENTS = 1e-6, 1e-5
"""Largest errors in float64, as a part of the largest value. transformers' own norms and rotary
positions round to float32 whatever the model's dtype."""

TIMES_PLAIN = 4.0
"""How much further off than a plain implementation a row may be in a lower precision."""


class ExactReport(NamedTuple):
    """How far a packed row is from each of its paths alone.

    Attributes:
        logits: largest difference, as a part of the largest logit.
        loss: difference of the weighted losses, as a part of the loss.
        gradients: largest difference, as a part of the largest gradient; ``None`` if left out.
        plain: largest difference of the logits of two stock implementations, eager and sdpa, on the
            same paths: what the dtype alone makes.
        paths: for each path its name and the difference of its logits.
    """

    logits: float
    loss: float
    gradients: float | None
    plain: float
    paths: list[tuple[str, float]]


def check_exact(
    model: nn.Module,
    family: Family,
    examples: Sequence[Any],
    *,
    tolerance: float | None = None,
    gradients: bool = True,
    padding: int = 3,
) -> ExactReport:
    """Check that a packed row gives every path the tokens, logits, loss and gradients it has alone.

    The examples become one row, and the model, prepared, runs on it. Then each path, from the first
    token to the end of one branch, is rendered by the processor as a whole conversation and run
    through the stock model with its own attention, masks and positions.

    Every token of every branch is compared, not only those that training would use.

    Where an example has several branches, `treepack.hf.prepare` takes models of this class from
    then on, in this process, also one that nobody has compared before.

    Args:
        model: of transformers, prepared or not; it is left as it was. It runs in its mode, with
            dropout switched off.
        family: of the model.
        examples: `Conversations` or conversation records, at least one. Two with several branches
            and several images say most.
        tolerance: largest difference of logits as a part of the largest one; ten times that for
            gradients. By default 1e-6 in float64, and in lower precisions four times what two stock
            implementations differ by.
        gradients: whether to compare gradients; they take the memory of the parameters three times.
        padding: tokens of padding behind the row.

    Returns:
        The differences.

    Raises:
        AssertionError: something differs; the message names the example, the branch and the first
            layer that is off.
        TreepackError: an example cannot be loaded, or the model cannot be prepared.

    Example:
        >>> import treepack as tp
        >>> report = tp.testing.check_exact(model, family, examples)  # doctest: +SKIP
        >>> report.logits < 1e-6  # doctest: +SKIP
        True
    """
    conversations = [_conversations(example, place) for place, example in enumerate(examples)]
    trees = [fully_trained(family.load(each), 1.0 + n) for n, each in enumerate(conversations)]
    total = sum(tree.n_tokens for tree in trees) + padding
    sees = sees_ahead(model.config.get_text_config())
    batch = _cast(collate(trees, family=family, total=total, bidirectional=sees), model)
    paths = list(paths_of(family, conversations, trees))
    check = _Check(model, batch, paths)
    report = check.run(gradients)
    _judge(report, check, tolerance)
    if any(len(tree.branch_lengths()[0]) > 1 for tree in trees):
        passed(model)
    return report


class _Check:
    """The two runs. The model is prepared for the first, and restored for the second."""

    def __init__(self, model: Any, batch: PackedBatch, paths: list[Path]) -> None:
        self.model, self.batch, self.paths = model, batch, paths

    def run(self, gradients: bool) -> ExactReport:
        was_packed = is_packed(self.model)
        if not was_packed:
            prepare(self.model, unchecked=True)
        try:
            with without_dropout(self.model):
                return self._compare(gradients)
        finally:
            self.model.zero_grad()
            if not was_packed:
                restore(self.model)

    def _compare(self, gradients: bool) -> ExactReport:
        with torch.set_grad_enabled(gradients):
            out = self.model(**self.batch)
            packed, loss = _kept(out.logits[0].detach(), self.batch), out.loss.detach()
            mine = _gradients(self.model, out.loss) if gradients else None
            with restore(self.model):
                alone, plain, alone_loss = self._alone(gradients)
                theirs = _taken(self.model) if gradients else None
        scale = max(logits.abs().max().item() for logits in alone)
        pairs = zip(self.paths, alone, strict=True)
        errors = [(path.name, _far(packed[path.targets], b) / scale) for path, b in pairs]
        return ExactReport(
            logits=max(error for _, error in errors),
            loss=abs(float(loss - alone_loss)) / max(abs(float(alone_loss)), 1e-30),
            gradients=None if mine is None or theirs is None else _farthest(mine, theirs),
            plain=plain / scale,
            paths=errors,
        )

    def _alone(self, gradients: bool) -> tuple[list[torch.Tensor], float, torch.Tensor]:
        """Logits of each path, how far eager attention is from sdpa, and the loss of all."""
        total = float(sum(path.weights.sum() for path in self.paths))
        found, plain, loss = [], 0.0, torch.zeros(())
        for path in self.paths:
            logits = self._logits(path)
            targets = [*path.tokens[path.first :].tolist()]
            targets += [] if path.end_target is None else [path.end_target]
            each = cross_entropy(
                logits.float() if logits.dtype != torch.float64 else logits,
                torch.tensor(targets, device=logits.device),
                reduction="none",
            )
            part = (each * torch.from_numpy(path.weights).to(each)).sum() / total
            if gradients:
                part.backward()
            loss = loss + part.detach().cpu()
            found.append(logits.detach())
            plain = max(plain, self._plain(path, logits.detach()))
        return found, plain, loss

    def _logits(self, path: Path) -> torch.Tensor:
        """Logits of the tokens that predict the path's own, ``[L, vocab]``."""
        logits = self.model(**_cast(path.inputs, self.model), use_cache=False).logits[0]
        kept: torch.Tensor = logits[path.first - 1 : path.first - 1 + len(path.weights)]
        return kept

    def _plain(self, path: Path, logits: torch.Tensor) -> float:
        if logits.dtype == torch.float64:
            return 0.0
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            with torch.no_grad():
                return _far(self._logits(path), logits)
        finally:
            self.model.set_attn_implementation(before)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Switch dropout off in this block; two runs of a model with it never agree."""
    active = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]
    for module in active:
        module.eval()
    try:
        yield
    finally:
        for module in active:
            module.train()


def _kept(logits: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """The logits of the targets; some models give those of all tokens."""
    places = batch["logits_to_keep"]
    return logits if len(logits) == len(places) else logits[places]


def _judge(report: ExactReport, check: _Check, tolerance: float | None) -> None:
    is_wide = check.batch["loss_weights"].dtype == torch.float64 or _is_float64(check.model)
    most = tolerance or (LOGITS if is_wide else max(LOGITS, TIMES_PLAIN * report.plain))
    name, error = max(report.paths, key=lambda pair: pair[1])
    if not error <= most:
        path = next(path for path in check.paths if path.name == name)
        where = first_that_differs(check.model, check.batch, path, _cast(path.inputs, check.model))
        raise AssertionError(
            f"{name}: its logits differ by {error:.1e} of their scale from those it has alone, "
            f"more than {most:.1e}; {where}"
        )
    if not report.loss <= max(most, LOGITS):
        raise AssertionError(f"the loss differs by {report.loss:.1e} of its value")
    if report.gradients is not None and not report.gradients <= 10 * most:
        raise AssertionError(
            f"the logits agree, and gradients differ by {report.gradients:.1e} of their scale, "
            f"more than {10 * most:.1e}"
        )


def _conversations(example: Any, place: int) -> Conversations:
    if isinstance(example, Mapping):
        return read_record(example, f"record {place}")
    if not isinstance(example, Conversations):
        raise TreepackError(
            f"example {place} is a {type(example).__name__}; pass Conversations or records"
        )
    return example


def _cast(inputs: Any, model: nn.Module) -> Any:
    """Inputs on the device of the model, pixels in its dtype."""
    weight = next(model.parameters())
    if isinstance(inputs, PackedBatch):
        return inputs.to(weight.device, dtype=weight.dtype)
    return {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _is_float64(model: nn.Module) -> bool:
    return bool(next(model.parameters()).dtype == torch.float64)


def _gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return _taken(model)


def _taken(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of a model, which has none afterwards."""
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _farthest(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    zero = torch.zeros(())
    names = {*mine, *theirs}
    scale = max((grad.abs().max().item() for grad in theirs.values()), default=1.0) or 1.0
    return max(_far(mine.get(n, zero), theirs.get(n, zero)) for n in names) / scale


def _far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.detach().cpu() - b.detach().cpu()).abs().max())
