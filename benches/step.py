"""A training step on packs of the fine-tuning mixture, forward and backward, ours and others.

    python benches/step.py                   # a text model and rows of 2,048: about a minute
    python benches/step.py --vision          # Molmo2 with its vision tower: about three
    python benches/step.py --shape slice --packs 2             # rows of 16,384: about five
    python benches/step.py --shape slice --packs 2 --vision    # a quarter of an hour
    python benches/step.py --shape real      # Molmo2-4B's sizes; the default on a GPU

Ours, the dense bias that Molmo2 puts over the same row, and what a trainer does that neither packs
nor shares roots: each annotation alone, in a row padded to the full length, or not padded at all.
Padded rows are computed once more under our own attention, which computes no pair with padding:
that is the best that padding allows.

The text model is the language model alone. There annotations alone attend causally, without
Molmo2's image mask, which favours them. With ``--vision`` each encodes its own images, and all
compute the same mask, by a dense one where the attention is that of transformers' Molmo2. No row
has empty crops, with which Molmo2's own loader fills rows.

A padded row costs the same whatever it holds, but for its crops. So one annotation of each pack is
computed, with ``--vision`` one of each example, and its seconds are taken times the annotations
that it stands for. All others are computed as they are. Losses are compared first, those of
padded rows one by one. The optimiser is not part of the step.

``counted`` is what ours would be if tokens and crops alone took time, a crop as many tokens as it
takes work (`common/step_models.py`), no attention, no head. On a CPU one thread runs, seconds are
those of the processor, and memory is the highest of the process, weights and inputs among it.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import treepack as tp
from common import machine, peak, sft_rows
from common.step_models import SHAPES, Shape, build_text, build_vision
from common.step_ways import WAYS, Inputs, Part
from torch import Tensor, nn

OURS, DENSE, UNPADDED, PADDED, SKIPPING = WAYS


class Result(NamedTuple):
    """What a way took for a pack.

    Attributes:
        losses: of each leaf, or of all under -1.
        seconds: for all annotations.
        rows: that hold them.
        tokens, crops: computed for all annotations.
        gigabytes: that were needed at most.
    """

    losses: dict[int, float]
    seconds: float
    rows: int
    tokens: int
    crops: int
    gigabytes: float


def to_device(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Everything on the device, a bias and pixels in the dtype of the model."""

    def move(name: str, value: Any) -> Any:
        if name == "pixel_values" or (name == "attention_mask" and torch.is_tensor(value)):
            return value.to(device, dtype)
        return value.to(device) if hasattr(value, "to") else value

    return {name: move(name, value) for name, value in inputs.items()}


def step(model: nn.Module, parts: list[Part], weight: Tensor) -> Result:
    """Forward and backward over the rows of a way, which share one pack's weight."""
    _start_memory()
    model.zero_grad()
    losses, seconds = {}, []
    for part in parts:
        inputs = to_device(part.inputs, model.device, model.dtype)
        start = _now()
        loss = model(**inputs, num_items_in_batch=weight).loss
        loss.backward()
        seconds.append(_now() - start)
        losses[part.leaf] = float(loss.detach())
    times = [part.times for part in parts]
    return Result(
        losses,
        sum(n * s for n, s in zip(times, seconds, strict=True)),
        sum(times),
        sum(part.times * part.tokens for part in parts),
        sum(part.times * part.crops for part in parts),
        _highest_memory(),
    )


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _start_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        # What was freed goes back to the system, and the peak starts again from there.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return


def _highest_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        return peak.resident("VmHWM") * (1 << 20) / 1e9
    except OSError:
        return 0.0


def measure(model: nn.Module, batch: tp.PackedBatch, rounds: int) -> dict[str, Result]:
    """The median of each way on a pack, round-robin. What runs out of memory is left out."""
    weight = batch["loss_weights"].sum().to(model.device)
    results: dict[str, list[Result]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            # The vision tower keeps its own.
            text = "text_config" if "text_config" in model.config.sub_configs else ""
            model.set_attn_implementation({text: way.attention})
            try:
                results[name].append(step(model, way.build(batch), weight))
                print(
                    f"  {name}: {results[name][-1].seconds:.1f} s, all annotations",
                    file=sys.stderr,
                    flush=True,
                )
            except torch.cuda.OutOfMemoryError:
                continue
    medians = {name: _median(found) for name, found in results.items() if found}
    _check(batch, medians, model.dtype)
    return medians


def _median(results: list[Result]) -> Result:
    middle = statistics.median_low(result.seconds for result in results)
    return next(result for result in results if result.seconds == middle)


def _check(batch: tp.PackedBatch, results: dict[str, Result], dtype: torch.dtype) -> None:
    limit = 0.05 if dtype == torch.bfloat16 else 1e-4
    # Rows of their own compute the same, but that those of a text model are causal.
    same = batch["treepack"].mask.bidirectional == "none" or "mm_token_type_ids" in batch
    compared = [OURS, DENSE, UNPADDED] if same else [OURS, DENSE]
    losses = [sum(results[name].losses.values()) for name in compared if name in results]
    assert max(losses) - min(losses) < limit, losses
    for name in (PADDED, SKIPPING):
        if name in results and UNPADDED in results:
            for leaf, loss in results[name].losses.items():
                assert abs(loss - results[UNPADDED].losses[leaf]) < limit, (name, leaf, loss)


def report(shape: Shape, packs: list[tp.PackedBatch], results: list[dict[str, Result]]) -> None:
    """Annotations per second of each way over all packs, and in times of ours."""
    done = sum(map(sft_rows.annotations, packs))
    print(
        f"{'':34}{'s a row':>9}{'annotations/s':>15}{'ours is':>10}{'counted':>10}"
        f"{'tokens':>9}{'crops':>8}{'GB':>7}"
    )
    first: dict[str, float] = {}
    for name in WAYS:
        if any(name not in result for result in results):
            print(f"{name:34} out of memory")
            continue
        found = [result[name] for result in results]
        seconds = sum(result.seconds for result in found)
        tokens, crops = (sum(getattr(r, field) for r in found) for field in ("tokens", "crops"))
        work = tokens + crops * shape.crop_flops / shape.token_flops
        first = first or {"seconds": seconds, "work": work}
        rows = seconds / sum(result.rows for result in found)
        times, counted = f"{seconds / first['seconds']:.1f} x", f"{work / first['work']:.1f} x"
        print(
            f"{name:34}{rows:9.3f}{done / seconds:15.3f}{times:>10}{counted:>10}"
            f"{tokens / done:9.0f}{crops / done:8.1f}{max(r.gigabytes for r in found):7.1f}"
        )
    print("tokens and crops: computed for an annotation")


def describe(shape: Shape, packs: list[tp.PackedBatch]) -> str:
    """One line for the model and one for its rows."""
    n = len(packs)
    masks = [batch["treepack"].mask for batch in packs]
    examples = sum(mask.n_examples for mask in masks) / n
    branches = sum(map(sft_rows.annotations, packs)) / n
    fill = sum(mask.used for mask in masks) / n / shape.total
    area = sum(mask.area for mask in masks) / n / (shape.total**2 / 2)
    pairs, crop = shape.token_flops / shape.pair_flops, shape.crop_flops / shape.token_flops
    return (
        f"{shape}\n{n} packs: {examples:.1f} examples and {branches:.1f} annotations each, "
        f"{fill:.0%} full, {area:.0%} of the causal pairs; "
        f"in work {pairs:,.0f} pairs are a token, a crop is {crop:.1f}"
    )


def main() -> None:
    """Compare on the best device there is."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="real" if cuda else "small")
    parser.add_argument("--vision", action="store_true", help="with the vision tower")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--total", type=int, help="tokens of a row, at least 2,048")
    parser.add_argument("--mode", default="image_tokens", help="none, image_tokens, within_image")
    parser.add_argument("--packs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3 if cuda else 1)
    options = parser.parse_args()
    if options.vision and options.mode != "image_tokens":
        parser.error("Molmo2's image tokens see each other: --vision has no other mode")
    given = {"layers": options.layers, "total": options.total}
    shape = SHAPES[options.shape]._replace(**{k: v for k, v in given.items() if v})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cuda" if cuda else "cpu")
    model = (build_vision if options.vision else build_text)(shape, device)
    images = shape.images if options.vision else None
    packs = sft_rows.draw_rows(
        options.packs, shape.total, shape.vocabulary, options.mode, images=images
    )
    print(machine.describe())
    print(describe(shape, packs), flush=True)
    report(shape, packs, [measure(model, batch, options.rounds) for batch in packs])


if __name__ == "__main__":
    main()
