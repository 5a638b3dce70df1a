"""Which FlashAttention torch runs: its own, or one that was activated in its place."""

from __future__ import annotations

import torch.nn.attention as torch_attention

from treepack.errors import AttentionError

PACKAGES = {"FA3": "flash_attn_interface", "FA4": "flash_attn.cute"}
"""Names that torch has for them, and the packages that hold their kernels."""


def active() -> str | None:
    """``"FA3"``, ``"FA4"``, or ``None`` for torch's own FlashAttention 2."""
    find = getattr(torch_attention, "current_flash_attention_impl", None)
    return None if find is None else find()


def require(name: str | None) -> None:
    """Activate an implementation for the process, if it may be; there is one for all of torch.

    Args:
        name: a key of `PACKAGES`, or ``None`` for torch's own.

    Raises:
        AttentionError: another one is active, or this one is not installed.
    """
    running = active()
    if running == name:
        return
    if running is not None or name is None:
        raise AttentionError(
            f"torch runs {running}, not {name or 'its own FlashAttention'}; name it with "
            f"backend={str(running).lower()!r}, or call "
            "torch.nn.attention.restore_flash_attention_impl() first"
        )
    try:
        torch_attention.activate_flash_attention_impl(name)
    except (AttributeError, ImportError, RuntimeError, ValueError) as error:
        raise AttentionError(
            f"{name} needs the package {PACKAGES[name]} with kernels for this GPU ({error}); "
            "install it, or leave backend out"
        ) from error
