"""A machine with torch alone runs the tests of the kernels."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("transformers") else ["test_training.py"]
