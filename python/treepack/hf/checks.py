"""Which models a packed row can be exact in; every other one is rejected by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from treepack.batch.layout import PREFIX, SLIDING, WITHIN
from treepack.errors import AttentionError
from treepack.options import AttentionBackend, Bidirectional

EXACT = {"full_attention", "attention", "full", "sliding_attention", "mlp", "moe"}
"""Layer types in which a token sees all tokens before it, those in a window, or none."""

RECURRENT = {"linear_attention", "mamba", "conv", "hybrid"}
"""Layer types that tree-recurrence may know; ``hybrid`` has attention beside the recurrence."""

DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""Fields of configurations that set the dropout of attention weights."""

FLASH = ("cuda", "fa3", "fa4")
FLASH_HEAD_SIZE = 256
"""Backends that run FlashAttention, and the largest head that it takes."""

OWN_POSITIONS = "create_position_ids_from_input_ids"
"""What the embeddings of RoBERTa and its kin have."""

UNREACHABLE = "its layers do not pass on to attention what the model is given, nor so the mask"

QUESTION_IN_IMAGE = (
    "its features of an image depend on the question, so branches cannot have one root in common"
)

DRAFTS = "it drafts for another model, whose keys and values it attends to, and is given no tokens"

SPEAKS = "it has no forward of its own; prepare the part of it that writes text, model.thinker"

NAMED = {
    "StableLmForCausalLM": UNREACHABLE,
    "NemotronForCausalLM": UNREACHABLE,
    "Blip2ForConditionalGeneration": "its forward reads labels before the loss function gets them",
    "InstructBlipForConditionalGeneration": QUESTION_IN_IMAGE,
    "InstructBlipVideoForConditionalGeneration": QUESTION_IN_IMAGE,
    "Gemma4AssistantForCausalLM": DRAFTS,
    "Gemma4UnifiedAssistantForCausalLM": DRAFTS,
    "Qwen2_5OmniForConditionalGeneration": SPEAKS,
    "Qwen3OmniMoeForConditionalGeneration": SPEAKS,
}
"""Models whose configuration and layers do not show why they cannot be packed."""


PREFIX_MODELS = ("PaliGemmaForConditionalGeneration",)
"""Models whose layers are not causal because image and prompt see ahead, and nothing else does."""


class Seen(NamedTuple):
    """What the checks look at."""

    model: Any
    text: Any
    decoder: Any
    layers: list[Any]
    backend: AttentionBackend | None


def check_model(model: Any, backend: AttentionBackend | None) -> None:
    """Reject what a packed row cannot compute exactly; nothing is changed.

    Raises:
        AttentionError: as `treepack.hf.prepare` says.
    """
    name = type(model).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttentionError(f"{name} is not a model of transformers; pass the model itself")
    text, layers = model.config.get_text_config(), list(attention_layers(model))
    seen = Seen(model, text, text_model(model), layers, backend)
    for check in CHECKS:
        reason = check(seen)
        if reason:
            raise AttentionError(f"{name} {reason}")


def _named(seen: Seen) -> str | None:
    reasons = (NAMED.get(kind.__name__) for kind in type(seen.model).__mro__)
    reason = next(filter(None, reasons), None)
    return reason and f"cannot be packed: {reason}"


def _encoder_decoder(seen: Seen) -> str | None:
    if getattr(seen.model.config, "is_encoder_decoder", False):
        return "is an encoder-decoder; packed rows need a decoder alone"
    return None


def _kinds_of_layers(seen: Seen) -> str | None:
    kinds = sorted(_kinds(seen.model) - EXACT - RECURRENT)
    if kinds:
        return (
            f"has layers of type {kinds}; a packed row is exact in full and sliding-window "
            "attention only, and in recurrent layers that tree-recurrence knows"
        )
    return None


def _causality(seen: Seen) -> str | None:
    if seen.layers:
        return None
    others = sorted({type(m).__name__ for m in seen.decoder.modules() if _sees_ahead(m)})
    if others:
        return (
            f"has text layers that are not causal ({', '.join(others)} says is_causal=False): text "
            "tokens see later ones, and in a packed row only image tokens do"
        )
    return "has no causal attention layers that could be packed"


def _head_of_tokens(seen: Seen) -> str | None:
    if seen.model.get_output_embeddings() is None:
        return (
            "has no language-model head (get_output_embeddings() is None), and the targets of a "
            "packed row are tokens; use a ...ForCausalLM or ...ForConditionalGeneration, or, for "
            "hidden states alone, tp.hf.register() and model.set_attn_implementation"
        )
    return None


def _other_attention(seen: Seen) -> str | None:
    for layer in seen.layers:
        sinks = [name for name, _ in layer.named_parameters(recurse=False) if "sink" in name]
        if sinks:
            return (
                f"has attention sinks ({type(layer).__name__}.{sinks[0]}), which treepack does not "
                "compute; train it with one example a row and its own attention"
            )
    crossing = {type(m).__name__ for m in seen.decoder.modules() if "CrossAtt" in type(m).__name__}
    if crossing:
        return (
            f"has cross attention ({sorted(crossing)[0]}), in which every token of a row would see "
            "the images of all its examples; packed rows need images among the tokens"
        )
    strange = {type(x).__name__ for x in seen.layers if _is_of_another_part(x, seen.text)}
    if strange:
        return (
            f"has causal attention outside of its text model ({', '.join(sorted(strange))}), which "
            "would take the mask of the row too; this model cannot be packed"
        )
    return None


def _windows(seen: Seen) -> str | None:
    kinds = getattr(seen.text, "layer_types", None) or ()
    has_window = getattr(seen.text, "sliding_window", None) is not None
    masks = "create_sliding_window_causal_mask" in _names_in_forward(type(seen.decoder))
    for layer in seen.layers:
        index = getattr(layer, "layer_idx", None)
        if kinds:
            is_local = index is not None and kinds[index : index + 1] == ["sliding_attention"]
            told = getattr(layer, "sliding_window", None) is not None
        else:
            is_local = has_window and masks
            told = _tells_window(type(layer))
        if is_local and not told:
            return (
                f"has a sliding window in layer {index} that it does not tell its attention "
                "function; a packed row would attend beyond it"
            )
    return None


def _scores(seen: Seen) -> str | None:
    if seen.backend != "flex" and getattr(seen.text, "attn_logit_softcapping", None) is not None:
        return (
            "soft-caps its attention scores, which has no varlen kernel; prepare it with "
            'backend="flex"'
        )
    for field in DROPOUTS:
        if getattr(seen.text, field, None):
            return (
                f"has {field}={getattr(seen.text, field)}, and varlen kernels have no dropout; set "
                "it to 0.0 in the text config before the model is built"
            )
    return None


def _size_of_heads(seen: Seen) -> str | None:
    fields = ("qk_head_dim", "head_dim")
    found = (getattr(layer, field, None) for layer in seen.layers for field in fields)
    largest = max((size for size in found if isinstance(size, int)), default=0)
    device = next((p.device.type for p in seen.model.parameters()), "cpu")
    if largest > FLASH_HEAD_SIZE and (seen.backend or device) in FLASH:
        return (
            f"has heads of size {largest}, and FlashAttention takes {FLASH_HEAD_SIZE} at most; "
            'prepare it with backend="flex"'
        )
    return None


def _inputs(seen: Seen) -> str | None:
    if "position_ids" not in inspect.signature(type(seen.decoder).forward).parameters:
        return (
            f"takes no position_ids ({type(seen.decoder).__name__}.forward), so the branches of a "
            "row would get the positions of the row and not those of their paths"
        )
    own = (type(m) for m in seen.decoder.modules() if hasattr(m, OWN_POSITIONS))
    counting = next(own, None)
    if counting is not None:
        return (
            f"counts positions from its padding id on ({counting.__name__}.{OWN_POSITIONS}), and "
            "the position ids of a packed row count from 0"
        )
    if not any("loss_function" in _names_in_forward(kind) for kind in type(seen.model).__mro__):
        return (
            "computes its loss by itself, not by model.loss_function, and would leave out the "
            "weights and targets of a packed row"
        )
    return None


CHECKS: tuple[Callable[[Seen], str | None], ...] = (
    _named,
    _encoder_decoder,
    _kinds_of_layers,
    _causality,
    _head_of_tokens,
    _other_attention,
    _windows,
    _scores,
    _size_of_heads,
    _inputs,
)
"""Each says what is wrong with a model, or nothing; the first one to speak is heard."""


def check_reached(model: Any, name: str) -> None:
    """Reject a model with attention that stayed as it was, though ``name`` was set.

    Raises:
        AttentionError: a layer does not use the attention interface of transformers.
    """
    missed = [layer for layer in attention_layers(model) if implementation_of(layer) != name]
    if missed:
        raise AttentionError(
            f"{type(missed[0]).__name__} of {type(model).__name__} does not take its attention "
            "from the attention interface of transformers; this model cannot be packed"
        )


def is_hybrid(model: Any) -> bool:
    """Whether some layers of a model are recurrent: linear attention, Mamba or convolutions."""
    return bool(_kinds(model) & RECURRENT)


def makes_all_logits(model: Any) -> bool:
    """Whether the forward of a model, and of the part with its head, has no ``logits_to_keep``."""
    head = model.get_output_embeddings()
    return not any(
        "logits_to_keep" in inspect.signature(type(part).forward).parameters
        for part in model.modules()
        if hasattr(part, "get_output_embeddings") and part.get_output_embeddings() is head
    )


def warn_of_rotary_lengths(model: Any) -> None:
    """Tell of rotary frequencies that depend on the longest position of a row.

    Warns:
        UserWarning: they do.
    """
    text = model.config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    # Models with several kinds of layers have parameters for each.
    each = [value for value in given.values() if isinstance(value, Mapping)] or [given]
    for rope in each:
        kind = rope.get("rope_type") or ""
        if "dynamic" in kind or kind == "longrope":
            length = rope.get("original_max_position_embeddings") or text.max_position_embeddings
            warnings.warn(
                f"{type(model).__name__} has rope_type={kind!r}: its rotary frequencies depend on "
                f"the longest position of the row. Where a path is longer than {length} tokens, "
                "all paths of its row get the frequencies of long ones, as in a padded batch of "
                "transformers, and differ from each path alone; rows of shorter paths are exact",
                UserWarning,
                stacklevel=3,
            )
            return


def warn_of_batch_norms(model: Any) -> None:
    """Tell of batch norms, by which each image depends on the others of its row.

    Warns:
        UserWarning: the model has some.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    named = (name for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    first = next(named, None)
    if first is not None:
        warnings.warn(
            f"{type(model).__name__} has batch norms ({first}): in training mode the features of "
            "an image depend on all images of its row, as on those of any batch, and differ from "
            "those of each path alone. Rows are exact while they are in evaluation mode: call "
            ".eval() on the vision tower after each model.train()",
            UserWarning,
            stacklevel=3,
        )


def text_model(model: Any) -> Any:
    """The part of a model that holds its text layers, from embeddings to hidden states."""
    found = model.get_decoder()
    # Some models have something else by the name of ``decoder``.
    holds_layers = any(hasattr(part, "is_causal") for part in found.modules())
    return found if holds_layers or found is model else model.base_model


def attention_layers(model: Any) -> Iterator[Any]:
    """The modules of a model that compute the attention of a packed row."""
    if type(model).__name__ in PREFIX_MODELS:
        return (m for m in text_model(model).modules() if _sees_ahead(m))
    return (m for m in model.modules() if getattr(m, "is_causal", None) is True)


def sees_ahead(config: Any) -> Bidirectional | None:
    """How image tokens see later ones, as `collate` names it, where a text configuration says it.

    Args:
        config: of a text model.

    Returns:
        ``None`` where it says nothing, so that the family alone knows.
    """
    told = getattr(config, "use_bidirectional_attention", False)
    kind = getattr(config, "model_type", "")
    if told == "vision":
        return WITHIN if kind.startswith("gemma4_unified") else SLIDING
    if told is True:
        return PREFIX
    return "none" if told is None and kind.startswith("gemma4") else None


def implementation_of(layer: Any) -> str | None:
    """Name of the attention that a layer asks transformers for, if it says so."""
    return getattr(getattr(layer, "config", None), "_attn_implementation", None)


def _kinds(model: Any) -> set[str]:
    text = model.config.get_text_config()
    fields = (getattr(text, name, None) or () for name in ("layer_types", "layers_block_type"))
    return {kind for kinds in fields for kind in kinds}


def _sees_ahead(module: Any) -> bool:
    return getattr(module, "is_causal", None) is False and implementation_of(module) is not None


def _is_of_another_part(layer: Any, text: Any) -> bool:
    config = getattr(layer, "config", text)
    return not isinstance(config, type(text)) and not isinstance(text, type(config))


def _names_in_forward(kind: type) -> set[str]:
    """Names of functions and attributes that the forward of a class itself uses."""
    code = getattr(inspect.unwrap(kind.__dict__.get("forward", None)), "__code__", None)
    return set(code.co_names) if code else set()


def _tells_window(kind: Any) -> bool:
    """Whether the forward of a layer passes a sliding window on."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is None or any(
        "sliding_window" in names
        for names in (*filter(lambda c: isinstance(c, tuple), code.co_consts), code.co_names)
    )
