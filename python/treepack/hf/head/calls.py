"""Work on the weights of a head where they are whole: between the hooks of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

Result = TypeVar("Result")

HOOKS = "_treepack_deferred"
"""Attribute of a head, and of its model, with the hooks that defer logits."""

JOB = "_treepack_job"
"""Attribute of a head during a call of `call_within_hooks`: what to do instead of logits."""


def call_within_hooks(head: Any, job: Callable[[], Result], hidden: Tensor) -> Result:
    """Call a head, and do a job when the hooks before it have run and those after it have not.

    FSDP gathers the weights in the one and frees them in the other. What such hooks make of hidden
    states and results is not used: they have had their say when the head was called first.

    Args:
        head: a module, whose logits may be deferred.
        job: what to do.
        hidden: float ``[.., L, H]``, what the head is called with.
    """
    if HOOKS not in vars(head):
        return job()
    found: list[Result] = []

    def keep() -> Result:
        found.append(job())
        return found[0]

    vars(head)[JOB] = keep
    try:
        head(hidden)
    finally:
        vars(head).pop(JOB, None)
    return found[0]
