"""What an example costs, found without decoding: microseconds of ``family.measure``.

    python benches/measuring.py [--family NAME ...] [--write]

Examples are a JPEG file and 7 conversations about it, each a question of 12 words and an answer of
25. ``first``: each image has a size that was not seen before. ``known``: all are 640 x 480, and
texts differ. ``one turn``: the first conversation alone.

There are two rivals. ``least`` is what no measuring can do without: the tokenizer's own
``encode_batch`` of the same texts, without markup, and ``PIL.Image.open`` of the file. ``decoding``
is what there is without treepack: the file decoded, the stock processor on the image with one
conversation, and the tokenizer on each of the others; its chat template is rendered beforehand.

Processors are the real classes with the small settings of ``tests/helpers/zoo``, so images are
resized to few pixels, which helps ``decoding``. The tokenizers of the tests have one token a byte;
here they get merges, learnt from the pages of ``docs`` and these words, as real ones have them: 1.1
tokens a word. They run on one core, as where each core has a worker that measures. Times are those
of the processor, so that waiting for other programs does not count; files are in memory. For each
example the least of several times counts, and for a family the median over its examples.
``--write`` puts the table into docs/models.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers
import treepack as tp
from common import machine
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from treepack import families
from treepack.families.markup import render_whole

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import zoo
from helpers.zoo.common import template
from helpers.zoo.patches import QWEN_TEMPLATE

# Read when a tokenizer is called first.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

LIMIT_US, LIMIT_ONE_US, LIMIT_RATIO = 1_000, 300, 1.3
BRANCHES, EXAMPLES, ROUNDS = 7, 20, 10
# Of what takes milliseconds.
FEW, FEW_ROUNDS = 8, 3
WORDS = "a man riding on top of the large brown horse near water and what is it that he holds"
DOCS = Path(__file__).parents[1] / "docs"
PAGE, BEGIN, END = (
    DOCS / "models.md",
    "<!-- speed: benches/measuring.py -->",
    "<!-- end of speed -->",
)
VOCABULARY = 3_000
OWN_MARKUP = {"molmo2": template("<|image|>"), "qwen3_vl": QWEN_TEMPLATE}


def write(folder: Path, sizes: Iterable[tuple[int, int]]) -> list[Path]:
    """A JPEG file of noise for each width and height."""
    rng, paths = np.random.default_rng(0), []
    for width, height in sizes:
        small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        paths.append(folder / f"{len(list(folder.iterdir()))}.jpg")
        small.resize((width, height)).save(paths[-1])
    return paths


@functools.cache
def merges() -> list[Any]:
    """What a tokenizer that begins with bytes learns to merge."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pages = [path.read_text() for path in sorted(DOCS.rglob("*.md"))]
    learner.train_from_iterator([*pages, *[WORDS] * 100], trainer)
    return list(json.loads(learner.to_str())["model"]["merges"])


def merge(tokenizer: Any) -> None:
    """Let a tokenizer of bytes merge them; its special tokens keep their ids."""
    vocabulary = tokenizer.get_vocab()
    for left, right in merges():
        vocabulary.setdefault(left + right, len(vocabulary))
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"].update(vocab=vocabulary, merges=merges())
    before = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    for token, place in before.items():
        if tokenizer.encode(token, add_special_tokens=False) != [place]:
            raise AssertionError(f"{token} is another token now")


def examples(paths: Iterable[Path], one_question: bool) -> list[tp.Conversations]:
    """An example about each image; PaliGemma takes one question for each."""
    rng, words = np.random.default_rng(1), WORDS.split()

    def say(n: int) -> str:
        return " ".join(rng.choice(words, n))

    def branches() -> Any:
        asked = [f"{say(12)}?" for _ in range(BRANCHES)]
        return [[(asked[0] if one_question else each, f"{say(25)}.")] for each in asked]

    return [tp.Conversations(branches(), [("image", path)], key=path) for path in paths]


def timed(call: Callable[[], Any]) -> float:
    """Microseconds of processor time of a call."""
    start = time.thread_time()
    call()
    return 1e6 * (time.thread_time() - start)


def least(tokenizer: Any, example: tp.Conversations) -> None:
    """The texts tokenised and the file opened, and nothing else."""
    said = [text for turns in example.branches for turn in turns for text in turn[:2]]
    tokenizer.backend_tokenizer.encode_batch(said, add_special_tokens=False)
    with Image.open(example.media[0].value) as image:
        image.size  # noqa: B018


def decoding(processor: Any, path: Path, texts: list[str]) -> None:
    """Cost of an example, the usual way."""
    with Image.open(path) as image:
        processor(text=[texts[0]], images=[[image]], return_tensors="pt")
    for text in texts[1:]:
        processor.tokenizer.encode(text, add_special_tokens=False)


class Row(NamedTuple):
    """Microseconds of a family and of the rivals."""

    family: str
    first: float
    known: float
    one: float
    least: float
    decoding: float


def row(name: str, old: list[Path], new: list[Path]) -> Row:
    """Measure one family; what is compared alternates, example by example."""
    processor, _ = zoo.build(name)
    merge(processor.tokenizer)
    family = families.find(processor)
    is_prompt = family.name == "paligemma"
    if not is_prompt:
        processor.chat_template = processor.chat_template or OWN_MARKUP[family.name]
    known, unknown = (examples(paths, is_prompt) for paths in (old, new))
    one = [replace(example, branches=example.branches[:1], roles=()) for example in known]
    for example in (known[0], one[0]):
        family.measure(example)
    texts = [[written(processor, each, turns) for turns in each.branches] for each in known]
    calls = {
        "least": [partial(least, family.tokenizer, e) for e in known],
        "known": [partial(family.measure, e) for e in known],
        "one": [partial(family.measure, e) for e in one],
    }
    found = least_of(calls, ROUNDS)
    slow = {
        "first": [partial(measure_anew, family, e) for e in unknown[:FEW]],
        "decoding": [
            partial(decoding, processor, *each) for each in zip(old[:FEW], texts, strict=False)
        ],
    }
    return Row(family.name, **found, **least_of(slow, FEW_ROUNDS))


def measure_anew(family: Any, example: tp.Conversations) -> None:
    """Measure an example as if no size had been seen yet."""
    for known in ("_measured", "_images"):
        if isinstance(vars(family).get(known), dict):
            vars(family)[known].clear()
    family.measure(example)


def least_of(calls: dict[str, list[Callable[[], Any]]], rounds: int) -> dict[str, float]:
    """The median over the examples of the least of their times; what is compared alternates."""
    times = {column: [float("inf")] * len(each) for column, each in calls.items()}
    for _ in range(rounds):
        for place in range(len(next(iter(times.values())))):
            for column, each in calls.items():
                times[column][place] = min(times[column][place], timed(each[place]))
    return {column: statistics.median(found) for column, found in times.items()}


def written(processor: Any, example: tp.Conversations, turns: Any) -> str:
    """A conversation as text; PaliGemma has no chat."""
    if getattr(processor, "chat_template", None):
        return render_whole(processor, example, turns)
    return "".join([processor.image_token, *turns[0][:2]])


def table(rows: list[Row]) -> list[str]:
    """The lines for docs/models.md."""
    titles = ["family", "first", "known", "one turn", "known / least", "decoding / known"]
    lines = [titles, ["---"] + ["---:"] * 5]
    for r in rows:
        numbers = [f"{r.first:,.0f}", f"{r.known:,.0f}", f"{r.one:,.0f}"]
        ratios = [f"{r.known / r.least:.2f}", f"{r.decoding / r.known:.1f}"]
        lines.append([f"`{r.family}`", *numbers, *ratios])
    return ["| " + " | ".join(line) + " |" for line in lines]


def write_page(rows: list[Row]) -> None:
    """Put the table into docs/models.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    told = f"Microseconds of processor time; {machine.describe()}, not quiet."
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, told, "", *table(rows), END]) + after)


def one_of_each_family() -> list[str]:
    """Names of builders; models of one family are measured alike."""
    names: dict[str, str] = {}
    for name in sorted(zoo.BUILDERS, key=lambda name: (len(name), name)):
        names.setdefault(families.find(zoo.build(name)[0]).name, name)
    return [names[family] for family in sorted(names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--family", nargs="*", choices=sorted(zoo.BUILDERS))
    parser.add_argument("--write", action="store_true", help="put the table into docs/models.md")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    print(machine.describe())
    print(f"\nProcessor time in us to measure an example of {BRANCHES} conversations")
    columns = ("first", "known", "one turn", "least", "known / least", "decoding / known")
    print(f"{'family':18}" + "".join(f"{title:>17}" for title in columns))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = itertools.product((640, 512, 800, 427), (480, 333, 600, 720, 256))
        old = write(Path(folder), [(640, 480)] * EXAMPLES)
        new = write(Path(folder), [(w + 8, h + 8) for w, h in sizes])
        for name in options.family or one_of_each_family():
            rows.append(row(name, old, new))
            found = rows[-1]
            print(
                f"{found.family:18}{found.first:17.0f}{found.known:17.0f}{found.one:17.0f}"
                f"{found.least:17.0f}{found.known / found.least:16.2f}x"
                f"{found.decoding / found.known:16.1f}x"
            )
    slow = [
        r.family
        for r in rows
        if r.known > LIMIT_US or r.one > LIMIT_ONE_US or r.known > LIMIT_RATIO * r.least
    ]
    if slow:
        limits = f"{LIMIT_US:,} us, {LIMIT_ONE_US} us a turn, or {LIMIT_RATIO} of the least"
        print(f"over {limits}: {', '.join(slow)}")
    if options.write:
        write_page(rows)


if __name__ == "__main__":
    main()
