"""Packers of whole tables by others: the packages where they are installed, else their algorithms.

Each takes tokens and crops, int64 ``[n]``, and gives packs of indices. What is written here says so
in its name; only the two-dimensional one looks at the crops.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

Packs = list[list[int]]
Rival = Callable[[np.ndarray, np.ndarray, dict[str, int]], Packs]


def best_fit_decreasing(tokens: np.ndarray, _crops: np.ndarray, budgets: dict[str, int]) -> Packs:
    """The longest first, each into the fullest pack that has room (the rule of TRL's "bfd")."""
    packs: Packs = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for i in np.argsort(-tokens, kind="stable").tolist():
        size = int(tokens[i])
        place = bisect_left(rooms, size)
        if place == len(rooms):
            pack, room = len(packs), budgets["tokens"]
            packs.append([])
        else:
            room = rooms[place]
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms.pop(place)
        packs[pack].append(i)
        if room > size:
            if not by_room.setdefault(room - size, []):
                insort(rooms, room - size)
            by_room[room - size].append(pack)
    return packs


def first_fit_decreasing(tokens: np.ndarray, _crops: np.ndarray, budgets: dict[str, int]) -> Packs:
    """The longest first, each into the first pack that has room."""
    return _first_fit(np.argsort(-tokens, kind="stable"), tokens, budgets["tokens"])


def first_fit_decreasing_in_groups(
    tokens: np.ndarray, _crops: np.ndarray, budgets: dict[str, int]
) -> Packs:
    """First fit within runs of 100,000 (the rule of axolotl's multipack)."""
    order = np.argsort(-tokens, kind="stable")
    groups = (order[start : start + 100_000] for start in range(0, len(order), 100_000))
    return [pack for group in groups for pack in _first_fit(group, tokens, budgets["tokens"])]


def _first_fit(order: np.ndarray, tokens: np.ndarray, budget: int) -> Packs:
    """With a tree of the largest rooms, so that no pack is looked at in vain."""
    leaves = 1 << max(1, len(order) - 1).bit_length()
    room = [budget] * (2 * leaves)
    packs: Packs = []
    for i in order.tolist():
        size, node = int(tokens[i]), 1
        while node < leaves:
            node *= 2
            node += room[node] < size
        room[node] -= size
        if node - leaves == len(packs):
            packs.append([])
        packs[node - leaves].append(i)
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return packs


def two_dimensional_first_fit_decreasing(
    tokens: np.ndarray, crops: np.ndarray, budgets: dict[str, int]
) -> Packs:
    """By the largest share of a budget, each into the first pack with room in both."""
    shares = np.maximum(tokens / budgets["tokens"], crops / budgets["crops"])
    room = np.empty((2, len(tokens)), np.int32)
    packs: Packs = []
    opened = first = 0
    for i in np.argsort(-shares, kind="stable").tolist():
        fits = (room[0, first:opened] >= tokens[i]) & (room[1, first:opened] >= crops[i])
        pack = first + int(fits.argmax()) if len(fits) else 0
        if not len(fits) or not fits[pack - first]:
            pack, opened = opened, opened + 1
            room[:, pack] = budgets["tokens"], budgets["crops"]
            packs.append([])
        packs[pack].append(i)
        room[:, pack] -= tokens[i], crops[i]
        # Full packs at the front are never looked at again.
        while first < opened and (room[:, first] <= 0).any():
            first += 1
    return packs


def binpacking_package(tokens: np.ndarray, _crops: np.ndarray, budgets: dict[str, int]) -> Packs:
    """``binpacking.to_constant_volume``."""
    import binpacking

    found = binpacking.to_constant_volume(dict(enumerate(tokens.tolist())), budgets["tokens"])
    return [list(pack) for pack in found]


def axolotl_package(tokens: np.ndarray, _crops: np.ndarray, budgets: dict[str, int]) -> Packs:
    """Axolotl's ``pack_parallel`` in one process, the longest first."""
    from axolotl.utils.samplers.multipack import pack_parallel

    order = np.argsort(-tokens, kind="stable")
    found = pack_parallel(tokens[order], budgets["tokens"], 100_000, 200, num_processes=1)
    return [[int(order[i]) for i in pack] for pack in found]


def trl_package(tokens: np.ndarray, _crops: np.ndarray, budgets: dict[str, int]) -> Packs:
    """TRL's ``pack_dataset``, strategy "bfd", over lists a sixteenth as long: it copies tokens."""
    import datasets
    import pyarrow as pa
    from trl import pack_dataset

    lengths = -(-tokens // 16)
    values = np.repeat(np.arange(len(tokens), dtype=np.int32), lengths)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    table = pa.table({"input_ids": pa.ListArray.from_arrays(offsets, values)})
    packed = pack_dataset(datasets.Dataset(table), budgets["tokens"] // 16, strategy="bfd")
    rows = packed.with_format("arrow")[:]
    return [np.unique(row.values.to_numpy()).tolist() for row in rows["input_ids"]]


def rivals() -> dict[str, Rival]:
    """Everything that can be run here, by the name to print."""
    found: dict[str, Rival] = {}
    for name, package, here, ours in (
        ("TRL, best fit decreasing", "trl", trl_package, best_fit_decreasing),
        ("axolotl, multipack", "axolotl", axolotl_package, first_fit_decreasing_in_groups),
        ("binpacking", "binpacking", binpacking_package, None),
    ):
        if find_spec(package) and _imports(here, package):
            found[name] = here
        elif ours is not None:
            found[f"{name} (reimplemented)"] = ours
    found["first fit decreasing (reimplemented)"] = first_fit_decreasing
    found["two-dimensional first fit decreasing"] = two_dimensional_first_fit_decreasing
    return found


def _imports(rival: Rival, package: str) -> bool:
    """Whether a package packs a tiny table: some need more than themselves."""
    sizes: Any = np.array([3, 2, 1])
    try:
        return sum(map(len, rival(sizes, sizes, {"tokens": 64, "crops": 64}))) == 3
    except ImportError as error:
        print(f"{package} is installed but cannot be imported: {error}")
        return False
