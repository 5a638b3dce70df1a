"""What records say and treepack cannot do: rejected by name and with a reason, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import DataError
from treepack.sources.records.base import is_given, shown

_AUDIO = "sound is not trained on; remove it with its <audio>, or leave the record out"
_TOOLS = "calls of tools are not written for any model; write them as text, or leave the record out"
_THINKING = "thoughts are not written for any model; put them into the answer as the model does"
_SAMPLING = "set it in the processor; of sizes a record can say 'min_pixels' and 'max_pixels'"
_PREFERENCE = "write 'prompt', 'chosen' and 'rejected'"
_UNPAIRED = "answers marked good or bad are not read; leave the bad ones out, or pair them: "

RECORD = {
    "audio": _AUDIO,
    "audios": _AUDIO,
    "tools": _TOOLS,
    "functions": _TOOLS,
    "tool_calls": _TOOLS,
    "rejected_response": _PREFERENCE,
    "rejected_messages": _PREFERENCE,
    "rejected_images": _PREFERENCE,
    "kto_tag": _UNPAIRED + _PREFERENCE,
    "chat_template": "how turns are written is set for the model: PackedDataset(chat=)",
    "chat_template_kwargs": "how turns are written is set for the model: PackedDataset(chat=)",
}
"""Fields of a record."""

TURN = {
    "tool_calls": _TOOLS,
    "tool_call_id": _TOOLS,
    "function_call": _TOOLS,
    "reasoning_content": _THINKING,
    "reasoning": _THINKING,
    "thinking": _THINKING,
    "audio": _AUDIO,
    "audios": _AUDIO,
    "image": "name the images in the record, or as parts of the first question",
    "images": "name the images in the record, or as parts of the first question",
    "video": "name the videos in the record, or as parts of the first question",
    "videos": "name the videos in the record, or as parts of the first question",
    "train_detail": "a turn has one weight; write 'weight'",
    "training_detail": "a turn has one weight; write 'weight'",
    "mask": "write 'loss': false where an answer is not to be trained on",
    "masked": "write 'loss': false where an answer is not to be trained on",
    "prefix": "an answer that goes on is not written for any model; write the whole answer",
    "objects": "boxes are not written into texts; write their coordinates as the model does",
}
"""Fields of a turn."""

SPEAKERS = {
    **dict.fromkeys(
        ("tool", "tool_call", "tool_response", "tool_result", "function", "function_call"), _TOOLS
    ),
    **dict.fromkeys(("function_response", "observation", "ipython", "environment"), _TOOLS),
    "developer": "write 'system'",
    "context": "write it into the question",
}
"""Who speaks in a turn."""

PARTS = {
    **dict.fromkeys(("audio", "audio_url", "input_audio"), _AUDIO),
    **dict.fromkeys(("tool_use", "tool_result", "tool_call", "function"), _TOOLS),
    **dict.fromkeys(("thinking", "reasoning", "redacted_thinking"), _THINKING),
    **dict.fromkeys(("file", "document"), "give its pages as images"),
}
"""Types of the parts of a turn."""

MEDIUM = {
    **dict.fromkeys(("sample_fps", "raw_fps"), "write 'fps'"),
    **dict.fromkeys(("min_frames", "max_frames", "total_pixels"), _SAMPLING),
    **dict.fromkeys(("resized_height", "resized_width"), _SAMPLING),
    "detail": _SAMPLING,
    **dict.fromkeys(("bbox", "crop"), "cut the image out beforehand"),
    **dict.fromkeys(("loss", "train", "weight"), "give it to the whole turn"),
}
"""What is said of one image or video."""

QUESTION = {
    **dict.fromkeys(
        ("choices", "options", "hint", "context", "lecture"), "write it into the question"
    ),
}
"""Fields beside a single question without which it asks something else."""

SHAPES = {
    "points": "how coordinates are written differs between models; write questions and answers "
    "with format=, a function",
    "text": "a plain text has no question and answer; write 'prompt' and 'completion', where the "
    "prompt may be empty, or 'caption' if it says what an image shows",
    "input_ids": "it is tokenized already; make a MessageTree of it",
    "chosen": "write 'rejected' beside 'chosen'",
}
"""Fields of records in none of the formats, and what to write instead."""

TAGS = ("<bbox>", "<ref-object>")
"""What stands in texts for the `BOXES` of a record."""

BOXES = frozenset(("objects", "bbox"))


def reject(fields: Mapping[Any, Any], known: Mapping[str, str], where: str, name: str) -> None:
    """Reject fields of a table of this module that hold something.

    Raises:
        DataError: one of them does.
    """
    for field, reason in known.items():
        value = fields.get(field)
        if is_given(value):
            raise DataError(f"{name}: {where} has {field!r}: {shown(value)}; {reason}")


def reject_tags(text: str, name: str) -> None:
    """Reject tags in a text whose record has boxes that they stand for.

    Raises:
        DataError: there is one.
    """
    for tag in TAGS:
        if tag in text:
            raise DataError(
                f"{name}: {tag} in a text; boxes are not written into texts, so write their "
                "coordinates as the model does"
            )
