"""Does a share say 0 % of nothing and 100 % of all, and of nothing else?"""

import math

import pytest
from helpers.cases import cases
from treepack.packing.shares import percent


def worth(text):
    return float(text.strip("<>%"))


def test_only_nothing_is_0_and_only_all_is_100_percent():
    for rng in cases(300, "shares"):
        digits = int(rng.integers(0, 3))
        share = float(10 ** rng.uniform(-9, 0))
        for each in (share, 1 - share, 1 + share):
            if each and not math.isclose(each, 1, rel_tol=1e-12):
                text = percent(each, digits)
                assert text[0] in "<>" or worth(text) not in (0, 100)
                assert (text[0] == "<") <= (each < 0.5)
                assert abs(worth(text) - 100 * each) < 10.0**-digits
    for digits in range(3):
        assert worth(percent(0, digits)) == 0
        assert worth(percent(1, digits)) == 100


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.997, "99.7%"),
        (0.002, "0.2%"),
        (0.5, "50%"),
        (sum([0.1] * 10), "100%"),
        (1e-9, "<0.01%"),
        (1 - 1e-9, ">99.99%"),
        (1 + 1e-9, ">100%"),
        (1.25, "125%"),
        (-0.004, "-0.4%"),
    ],
)
def test_shares_as_people_write_them(share, text):
    assert percent(share) == text
