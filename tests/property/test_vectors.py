"""The test vectors of the Rust tests are what the reference implementations give."""

from __future__ import annotations

from helpers import core_vectors


def test_packs():
    cases = list(core_vectors.read_packs((core_vectors.FOLDER / "packs.txt").read_text()))
    assert len(cases) > 10
    for case, packs in cases:
        assert core_vectors.make_packs(case) == packs


def test_plans():
    cases = list(core_vectors.read_plans((core_vectors.FOLDER / "plans.txt").read_text()))
    assert len(cases) > 50
    for case, plan in cases:
        assert core_vectors.make_plan(case) == plan
