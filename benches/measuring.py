"""What an example costs, found without decoding: microseconds of ``family.measure``.

    python benches/measuring.py [--family NAME ...]

Examples are a JPEG file and 7 conversations about it, each a question of 12 words and an answer of
25. ``first``: each image has a size that was not seen before. ``known``: all are 640 x 480, and
texts differ. The rival is what there is without treepack: the file decoded, the stock processor on
the image with one conversation, and the tokenizer on each of the others; its chat template is
rendered beforehand. Processors are the real classes with the small settings of
``tests/helpers/zoo``, so images are resized to few pixels, which helps the rival; tokenizers have
one token a byte.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import transformers
import treepack as tp
from common import machine
from PIL import Image
from treepack import families
from treepack.families.markup import render_whole

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import zoo
from helpers.zoo.common import template
from helpers.zoo.patches import QWEN_TEMPLATE

LIMIT_US = 1_000
BRANCHES, EXAMPLES, ROUNDS = 7, 20, 5
WORDS = "a man riding on top of the large brown horse near water and what is it that he holds"
OWN_MARKUP = {"molmo2": template("<|image|>"), "qwen3_vl": QWEN_TEMPLATE}


def write(folder: Path, sizes: Iterable[tuple[int, int]]) -> list[Path]:
    """A JPEG file of noise for each width and height."""
    rng, paths = np.random.default_rng(0), []
    for width, height in sizes:
        small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        paths.append(folder / f"{len(list(folder.iterdir()))}.jpg")
        small.resize((width, height)).save(paths[-1])
    return paths


def examples(paths: Iterable[Path]) -> list[tp.Conversations]:
    """An example about each image."""
    rng, words = np.random.default_rng(1), WORDS.split()

    def say(n: int) -> str:
        return " ".join(rng.choice(words, n))

    return [
        tp.Conversations(
            [[(f"{say(12)}?", f"{say(25)}.")] for _ in range(BRANCHES)], [("image", path)], key=path
        )
        for path in paths
    ]


def median(calls: Iterable[Callable[[], Any]]) -> float:
    """Median of the microseconds of each call."""
    times = []
    for call in calls:
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times)


def rival(processor: Any, path: Path, texts: list[str]) -> None:
    """Cost of an example, the usual way."""
    with Image.open(path) as image:
        processor(text=[texts[0]], images=[[image]], return_tensors="pt")
    for text in texts[1:]:
        processor.tokenizer.encode(text, add_special_tokens=False)


def row(name: str, known: list[tp.Conversations], new: list[tp.Conversations]) -> tuple[float, ...]:
    """Microseconds of a family: first, known, and of the rival."""
    processor, _ = zoo.build(name)
    family = families.find(processor)
    processor.chat_template = processor.chat_template or OWN_MARKUP[family.name]
    family.measure(known[0])
    texts = [[render_whole(processor, each, turns) for turns in each.branches] for each in known]
    paths = [each.media[0].value for each in known]
    first = median((lambda e=e: family.measure(e)) for e in new)
    again = median((lambda e=e: family.measure(e)) for _ in range(ROUNDS) for e in known)
    pairs = zip(paths, texts, strict=True)
    return first, again, median((lambda p=p, t=t: rival(processor, p, t)) for p, t in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    # An example of PaliGemma has one question.
    names = sorted(zoo.BUILDERS.keys() - {"paligemma"})
    parser.add_argument("--family", nargs="*", default=names, choices=names)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    print(machine.describe())
    print(f"\nMicroseconds to measure an example of {BRANCHES} conversations, medians")
    print(f"{'family':18}{'first':>10}{'known':>10}{'rival':>10}{'rival / known':>16}")
    slow = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = itertools.product((640, 512, 800, 427), (480, 333, 600, 720, 256))
        known = examples(write(Path(folder), [(640, 480)] * EXAMPLES))
        new = examples(write(Path(folder), [(w + 8, h + 8) for w, h in sizes]))
        for name in options.family:
            first, again, other = row(name, known, new)
            print(f"{name:18}{first:10.0f}{again:10.0f}{other:10.0f}{other / again:15.1f}x")
            slow += [name] * (again > LIMIT_US)
    if slow:
        print(f"over {LIMIT_US:,} us an example of known size: {', '.join(slow)}")


if __name__ == "__main__":
    main()
