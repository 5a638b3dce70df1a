"""Shares as text."""

from __future__ import annotations

import math

MORE_DIGITS = 2


def percent(share: float, digits: int = 0) -> str:
    """A share in percent that says 0 % only of nothing, and 100 % only of all.

    Where rounding would say so of anything else, up to two more digits are shown.

    Args:
        share: 1 is all; more than all, and less than nothing, are possible.
        digits: behind the point.

    Returns:
        The text, such as ``"48%"``.

    Example:
        >>> percent(0.48), percent(0.9973), percent(0.002), percent(0.99999), percent(1)
        ('48%', '99.7%', '0.2%', '>99.99%', '100%')
    """
    if share < 0:
        return f"-{percent(-share, digits)}"
    # Sums of shares may miss their end by a rounding error.
    if share < 1e-12 or math.isclose(share, 1.0, rel_tol=1e-12):
        return f"{round(share):.{digits}%}"
    text = ""
    for more in range(MORE_DIGITS + 1):
        text = f"{share:.{digits + more}%}"
        if float(text[:-1]) not in (0.0, 100.0):
            return text
    smallest = 10.0 ** -(digits + MORE_DIGITS)
    if share < 0.5:
        return f"<{smallest:.{digits + MORE_DIGITS}f}%"
    return f">{100 - smallest:.{digits + MORE_DIGITS}f}%" if share < 1 else ">100%"
