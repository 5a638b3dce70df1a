"""Seeded streams of costs, modelled on the mixture that Molmo2 is fine-tuned on.

One example costs LLM tokens and 378-pixel ViT crops. Budgets of a row: 16,384 tokens, 128 crops.
``sft`` is the mixture, 3.8 examples to a row; ``image`` is short of tokens, ``video`` of crops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

BUDGETS = {"tokens": 16_384, "crops": 128}
KINDS = ("text", "image", "images", "video", "long")
MIXTURES = {
    "sft": (0.10, 0.33, 0.09, 0.46, 0.02),
    "image": (0.15, 0.60, 0.15, 0.08, 0.02),
    "video": (0.12, 0.10, 0.03, 0.74, 0.01),
}
CROP_ODDS = np.array([1, 1, 1, 2, 1, 3, 1, 5], float)


class Stream(NamedTuple):
    """Costs of a stream, int64 ``[n]`` each.

    Attributes:
        tokens: of the language model.
        crops: of the vision tower.
        branches: annotations of each example.
        vision_tokens: those of the tokens that stand for images.
    """

    tokens: Int64
    crops: Int64
    branches: Int64
    vision_tokens: Int64

    def costs(self) -> list[dict[str, int]]:
        """One dict for each example, of tokens and crops."""
        pairs = zip(self.tokens.tolist(), self.crops.tolist(), strict=True)
        return [{"tokens": tokens, "crops": crops} for tokens, crops in pairs]

    @property
    def columns(self) -> dict[str, Int64]:
        """All columns by name, as `treepack.simulate` takes them."""
        return self._asdict()

    @property
    def bound(self) -> float:
        """No fewer rows can hold the stream: the largest of sum / budget."""
        return float(
            max(self.tokens.sum() / BUDGETS["tokens"], self.crops.sum() / BUDGETS["crops"])
        )


class _Drawn(NamedTuple):
    tokens: int
    crops: int
    branches: int
    vision_tokens: int


def generate(mixture: str, n: int = 20_000, seed: int = 0) -> Stream:
    """The first ``n`` examples of a mixture.

    Args:
        mixture: its name in `MIXTURES`.
        n: how many.
        seed: of the draws.

    Example:
        >>> stream = generate("sft", 1_000)
        >>> int(stream.tokens.max()), int(stream.crops.max())
        (16180, 128)
    """
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(KINDS), size=n, p=MIXTURES[mixture])
    draw = (_text, _image, _images, _video, _long)
    costs = np.array([draw[kind](rng) for kind in kinds], np.int64).reshape(-1, 4)
    tokens, crops, branches, vision = np.ascontiguousarray(costs.T)
    return Stream(np.minimum(tokens, BUDGETS["tokens"]), crops, branches, vision)


def _text(rng: np.random.Generator) -> _Drawn:
    return _Drawn(int(np.clip(rng.lognormal(np.log(900), 0.75), 300, 4000)), 0, 1, 0)


def _image(rng: np.random.Generator) -> _Drawn:
    tokens, crops = _tiles(rng)
    branches = int(np.clip(rng.geometric(0.22), 1, 20))
    return _Drawn(tokens + int(rng.integers(10, 301, branches).sum()), crops, branches, tokens)


def _images(rng: np.random.Generator) -> _Drawn:
    parts = [_tiles(rng) for _ in range(int(rng.integers(2, 6)))]
    branches = int(np.clip(rng.geometric(0.4), 1, 8))
    vision = sum(part[0] for part in parts)
    tokens = vision + int(rng.integers(10, 301, branches).sum())
    return _Drawn(tokens, sum(part[1] for part in parts), branches, vision)


def _video(rng: np.random.Generator) -> _Drawn:
    frames = int(np.clip(round(2 * rng.lognormal(np.log(24), 0.85)), 16, 128))
    tokens = int(frames * 83 + rng.integers(0, 3) * frames)
    branches = int(np.clip(rng.geometric(0.3), 1, 12))
    said = int(np.clip(rng.lognormal(np.log(120), 1.0, branches), 20, 1000).sum())
    return _Drawn(tokens + said, frames, branches, frames * 83)


def _long(rng: np.random.Generator) -> _Drawn:
    tokens = frames = 0
    branches = 1
    if rng.random() < 0.6:
        frames = int(rng.integers(64, 129))
        tokens = frames * 83
        branches = int(rng.integers(4, 40))
    whole = int(rng.integers(max(tokens + 200, 6000), BUDGETS["tokens"] + 1))
    return _Drawn(whole, frames, branches, tokens)


def _tiles(rng: np.random.Generator) -> tuple[int, int]:
    """Tokens and crops of one image: an overview and a grid of 1 to 8 tiles."""
    tiles = int(rng.choice(np.arange(1, 9), p=CROP_ODDS / CROP_ODDS.sum()))
    grids = [(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
    rows, columns = min(grids, key=lambda grid: abs(grid[0] - grid[1] * rng.uniform(0.6, 1.6)))
    height = int((rows * 19 + 8) * rng.uniform(0.8, 1))
    width = int((columns * 19 + 8) * rng.uniform(0.8, 1))
    pooled = -(-height // 2) * (-(-width // 2) + 1)
    return pooled + 2 + 14 * 15 + 2, tiles + 1
