"""Texts in tokens, or only how many: by the Rust tokenizer itself where nothing else has a say."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

LIBRARY = "transformers.tokenization_utils"
STEPS = ("__call__", "encode", "_encode_plus")
"""Methods of a tokenizer of transformers that may do something to a text, or to its tokens."""


def encode_all(tokenizer: Any, texts: Sequence[str], is_data: bool = False) -> list[list[int]]:
    """Tokens of each of several texts, without any around them.

    One call for all texts of an example takes half the time of a call for each.

    Args:
        tokenizer: Hugging Face tokenizer.
        texts: any number of them.
        is_data: whether special tokens are letters like any other.
    """
    written = [text for text in texts if text]
    backend = _backend(tokenizer, is_data)
    if backend is not None and written:
        encodings = backend.encode_batch_fast(written, add_special_tokens=False)
        found = iter([encoding.ids for encoding in encodings])
    else:
        found = iter(_encoded(tokenizer, written, is_data))
    return [next(found) if text else [] for text in texts]


def count_all(tokenizer: Any, texts: Sequence[str], is_data: bool = False) -> list[int]:
    """How many tokens each of several texts has; the arguments are those of `encode_all`."""
    backend = _backend(tokenizer, is_data)
    if backend is None:
        return [len(ids) for ids in encode_all(tokenizer, texts, is_data)]
    written = texts if all(texts) else [text for text in texts if text]
    if not written:
        return [0] * len(texts)
    counts = list(map(len, backend.encode_batch_fast(written, add_special_tokens=False)))
    if len(counts) == len(texts):
        return counts
    found = iter(counts)
    return [next(found) if text else 0 for text in texts]


def _encoded(tokenizer: Any, texts: Sequence[str], is_data: bool) -> list[list[int]]:
    options = {"add_special_tokens": False, **({"split_special_tokens": True} if is_data else {})}
    if len(texts) < 2 or not callable(tokenizer):
        return [list(tokenizer.encode(text, **options)) for text in texts]
    return [list(ids) for ids in tokenizer(texts, **options)["input_ids"]]


def _backend(tokenizer: Any, is_data: bool) -> Any:
    """The tokenizer of the library tokenizers, set up as transformers would; ``None`` to ask it."""
    kind: type = type(tokenizer)
    if not _is_stock(kind) or not vars(tokenizer).keys().isdisjoint(STEPS):
        return None
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None or backend.padding is not None:
        return None
    splits = is_data or tokenizer.split_special_tokens
    if backend.encode_special_tokens != splits:
        backend.encode_special_tokens = splits
    return backend


@functools.cache
def _is_stock(kind: type) -> bool:
    """Whether a class hands texts over as the tokenizers of transformers do."""
    if not hasattr(kind, "backend_tokenizer"):
        return False
    owners = [next(base for base in kind.__mro__ if step in vars(base)) for step in STEPS]
    return all(owner.__module__.startswith(LIBRARY) for owner in owners)
