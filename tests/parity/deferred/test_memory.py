"""Deferred logits need no memory of the size of logits."""

from __future__ import annotations

import sys

import pytest
from helpers.cases import FACTOR
from helpers.losses.heads import cut_finely

from benches.common import peak

MOST = {"loss": 600, "entropy": 1000}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.skipif(FACTOR < 2, reason="takes two minutes; TREEPACK_CASES=2 runs it")
@pytest.mark.parametrize("what", MOST)
def test_a_large_vocabulary_takes_little_memory(what):
    found, _ = peak.measured("deferred", what, "float32")
    # The gradient of the head alone is as large as its weight.
    assert 4 * peak.VOCABULARY * peak.HIDDEN / 2**20 < found <= MOST[what]


@pytest.mark.parametrize("what", MOST)
def test_a_smaller_one_takes_less_than_its_logits(monkeypatch, what):
    """In this process, which may use again what others have left: no more than a bound."""
    cut_finely(monkeypatch, 1 << 20, least=256)
    length, vocabulary = 1_024, 24_000
    found, _ = peak.peak("deferred", what, length=length, vocabulary=vocabulary)
    assert found < 4 * length * vocabulary / 2**20
