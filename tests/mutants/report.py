"""Which mutants are judged, and how results are shown."""

from __future__ import annotations

import hashlib

from mutants.find import Mutant


def sample(mutants: list[Mutant], count: int | None, seed: int) -> list[Mutant]:
    """Some of the mutants; a change of one function leaves the choice of the others as it is."""

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.key}".encode()).hexdigest()

    chosen = set(sorted(map(rank, mutants))[:count])
    return [mutant for mutant in mutants if rank(mutant) in chosen]


def report(rows: list[tuple[str, int, int, int, int]], survivors: list[Mutant]) -> None:
    print("| group | mutants | sampled | killed | survived |\n|---|---|---|---|---|")
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")
    for mutant in survivors:
        print(describe(mutant))


def describe(mutant: Mutant) -> str:
    before, after = (" ".join(text.split()) for text in (mutant.before, mutant.after))
    return f"{mutant.file}:{mutant.line} {mutant.operator}: {before} -> {after}"
