"""Train a small vision-language model twice: one annotation a sequence, and packed message trees.

Both start from the same weights and see the same annotations; before training, the loss of every
annotation is compared between the two. The models have random weights: this shows what packing
saves and that it changes nothing, not what a model learns.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import baseline
import models
import more_models
import packed
import torch
import treepack as tp
from data import write_demo_data
from models import Setup
from report import Run, progress, table
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import DataLoader

FAMILIES = {**models.FAMILIES, **more_models.FAMILIES}

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference of an annotation's loss that rounding explains."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if packing changed no loss by more than rounding."""
    options = parse(arguments)
    console = Console()
    # A loader process needs a core of its own; threads that wait for one slow all others down.
    torch.set_num_threads(max(1, torch.get_num_threads() - options.workers))
    try:
        return run(options, console)
    except tp.errors.TreepackError as error:
        # An error of a loader process carries its whole traceback; what to do is its last line.
        console.print(str(error).splitlines()[-1], style="red", markup=False)
        return 2


def run(options: argparse.Namespace, console: Console) -> int:
    """Compare, train, and show what it took."""
    options.out.mkdir(parents=True, exist_ok=True)
    path, images = options.data, options.images
    if path is None:
        path, images = write_demo_data(options.out)
    source = tp.group_conversations(path, images=images)[: options.examples]
    if not source:
        raise tp.errors.DataError(f"{path}: there are no examples to train on")
    setup = FAMILIES[options.family](texts(source))
    setup.budgets.update(options.budget)
    demo = Demo(source, setup, options.workers)
    console.print(demo.describe())
    difference, rows = demo.compare()
    runs = demo.train(rows)
    console.print(table(runs, setup.budgets, difference))
    console.print(f"A picture of one pack: {demo.draw(rows, options.out / 'pack.html')}")
    if difference > demo.tolerance:
        console.print(f"That is more than rounding ({demo.tolerance:.0e}).", style="red")
        return 1
    return 0


class Demo:
    """One family on one set of examples."""

    def __init__(self, source: Sequence[tp.Conversations], setup: Setup, workers: int) -> None:
        self.source = source
        self.setup = setup
        self.workers = workers
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.tolerance = TOLERANCE[self.dtype]
        self.annotations = baseline.Annotations(source, setup.processor)

    def describe(self) -> str:
        """What will run, and where."""
        model = self.setup.make_model()
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        return (
            f"{len(self.source)} examples with {len(self.annotations)} annotations. "
            f"{type(model).__name__} of {size:.1f} M random weights in {self.dtype} on "
            f"{self.device}; threads: {torch.get_num_threads()}, loader processes: {self.workers}."
        )

    def compare(self) -> tuple[float, list[tp.PackedBatch]]:
        """Largest difference of an annotation's loss before training, and the packed rows."""
        every = range(len(self.annotations))
        with progress() as bar:
            model, loader = self._model(), self.annotations.loader([every], None, self.workers)
            alone = baseline.losses(model, loader, self._task(bar, "compare (a)"))
            model, loader = tp.hf.prepare(self._model()), self._packed_loader()
            together, rows = packed.losses(model, loader, self._task(bar, "compare (b)"))
        self.names = [name for name, _ in alone]
        if set(self.names) != together.keys():
            raise RuntimeError("(a) and (b) did not see the same annotations")
        return max(abs(loss - together[name]) for name, loss in alone), rows

    def train(self, rows: list[tp.PackedBatch]) -> list[Run]:
        """One epoch each: padded to the budget, padded to the longest, packed."""
        budget = self.setup.budgets["tokens"]
        runs = [Run("(a) to budget", budget), Run("(a) to longest"), Run("(b) packed", budget)]
        steps = self._steps(rows)
        with progress() as bar:
            for run in runs:
                model, advance = self._model(), self._task(bar, f"train {run.name}")
                start = time.perf_counter()
                if run is runs[-1]:
                    packed.train(tp.hf.prepare(model), self._packed_loader(), run, advance)
                else:
                    loader = self.annotations.loader(steps, run.capacity, self.workers)
                    baseline.train(model, loader, steps, run, advance)
                run.seconds = time.perf_counter() - start
                run.loss = self._mean_loss(model)
        return runs

    def _steps(self, rows: list[tp.PackedBatch]) -> list[list[int]]:
        """The annotations of each packed row, as numbers of `baseline.Annotations`."""
        numbers = defaultdict(list)
        for number, name in enumerate(self.names):
            numbers[name].append(number)
        return [[numbers[name].pop() for name in packed.leaves(row).values()] for row in rows]

    def _mean_loss(self, model: torch.nn.Module) -> float:
        losses, _ = packed.losses(tp.hf.prepare(model), self._packed_loader(), lambda _: None)
        return sum(losses.values()) / len(losses)

    def draw(self, rows: list[tp.PackedBatch], path: Path) -> Path:
        """A page about the row with most images."""
        images = {e.key: e.media[0].value for e in self.source if e.media}

        def wealth(batch: tp.PackedBatch) -> tuple[int, float]:
            row = batch["treepack"]
            return sum(key in images for key in row.keys), row.stats["targets"]

        row = max(rows, key=wealth)
        return tp.viz.save_pack(row, path, tokenizer=self.setup.processor.tokenizer, images=images)

    def _model(self) -> torch.nn.Module:
        return self.setup.make_model().to(self.device, self.dtype)

    def _packed_loader(self) -> DataLoader:
        setup = self.setup
        return packed.make_loader(self.source, setup.processor, setup.budgets, self.workers)

    def _task(self, bar: Progress, name: str) -> Callable[[int], None]:
        task = bar.add_task(name, total=len(self.annotations))
        return lambda n: bar.advance(task, n)


def texts(source: Sequence[tp.Conversations]) -> list[str]:
    """Everything that is said."""
    turns = (turn for example in source for turns in example.branches for turn in turns)
    return [text for turn in turns for text in (turn.question, turn.answer)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILIES), default="molmo2")
    parser.add_argument("--data", type=Path, help="LLaVA-style JSONL of your own")
    parser.add_argument("--images", type=Path, help="folder of its images")
    parser.add_argument("--examples", type=int, help="only the first so many examples")
    parser.add_argument("--budget", type=_budget, action="append", default=[], metavar="NAME=N")
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    return parser.parse_args(arguments)


def _budget(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    return name, int(size)


if __name__ == "__main__":
    sys.exit(main())
