"""Work on the weights of a head where they are whole: between the hooks of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from treepack.errors import AttentionError

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
        check_whole(head)
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
    # Hooks that see a reason to stand aside have not called it.
    return found[0] if found else job()


def is_sharded(parameter: Tensor) -> bool:
    """Whether a parameter is a part of one that ranks share: that of FSDP outside of a forward."""
    return type(parameter.data).__name__ == "DTensor"


def check_whole(head: Any) -> None:
    """Reject a head whose weights are not whole where its deferred logits are needed.

    Raises:
        AttentionError: they are sharded.
    """
    if any(map(is_sharded, head.parameters())):
        raise AttentionError(
            f"the weights of the head ({type(head).__name__}) are sharded here, after the model "
            "has run, and its logits are deferred; shard the head as a unit of its own, "
            "fully_shard(model.get_output_embeddings()), or do not reshard the model itself after "
            "its forward"
        )
