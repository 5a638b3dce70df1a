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
_UNPAIRED = "write 'prompt', 'completion' and 'label', true or false"

_WEIGHT = "what counts is 'weight', of the record or of an answer; write 0 for no training"
_MASK = "write 'loss': false where an answer is not to be trained on"
_BOXES = "boxes are not written into texts; write their coordinates as the model does"
_IMAGES = "name the images in the record, or as parts of the first question"
_CHAT = "how turns are written is set for the model: PackedDataset(chat=)"

RECORD = {
    **dict.fromkeys(("audio", "audios", "audio_url", "audio_urls", "audio_path"), _AUDIO),
    **dict.fromkeys(("input_audio", "sound", "speech"), _AUDIO),
    **dict.fromkeys(("tools", "functions", "tool_calls", "tool_call", "function_call"), _TOOLS),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THINKING),
    "enable_thinking": _CHAT,
    **dict.fromkeys(("loss", "loss_scale", "loss_mask", "loss_masks"), _WEIGHT),
    **dict.fromkeys(("train", "training", "trainable"), _WEIGHT),
    "rejected_response": _PREFERENCE,
    "rejected_messages": _PREFERENCE,
    "rejected_images": _PREFERENCE,
    "kto_tag": _UNPAIRED,
    **dict.fromkeys(("chat_template", "chat_template_kwargs"), _CHAT),
}
"""Fields of a record."""

HISTORY = {
    "history": "it is read beside 'query' or 'instruction'; write earlier turns into the messages"
}
"""Fields of a record in a format that does not read them."""

TURN = {
    **dict.fromkeys(("tools", "tool_calls", "tool_call", "tool_call_id", "tool_responses"), _TOOLS),
    **dict.fromkeys(("function_call", "function_calls", "functions"), _TOOLS),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "think", "thought"), _THINKING),
    **dict.fromkeys(("thoughts", "chain_of_thought", "cot"), _THINKING),
    "enable_thinking": _CHAT,
    **dict.fromkeys(("audio", "audios", "audio_url", "audio_urls", "audio_path"), _AUDIO),
    **dict.fromkeys(("image", "images", "image_url", "image_path"), _IMAGES),
    **dict.fromkeys(
        ("video", "videos", "video_url", "video_path"), _IMAGES.replace("image", "video")
    ),
    "train_detail": "a turn has one weight; write 'weight'",
    "training_detail": "a turn has one weight; write 'weight'",
    **dict.fromkeys(("mask", "masked", "loss_mask", "loss_masks", "mask_loss", "no_loss"), _MASK),
    **dict.fromkeys(("ignore", "ignore_loss", "do_train", "is_trained", "train_on_turn"), _MASK),
    **dict.fromkeys(
        ("prefix", "partial"),
        "an answer that goes on is not written for any model; write the whole answer",
    ),
    "refusal": "write it as the answer",
    **dict.fromkeys(("objects", "bbox", "bboxes", "bbox_2d", "boxes"), _BOXES),
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
    **dict.fromkeys(("sample_fps", "raw_fps", "video_fps"), "write 'fps'"),
    **dict.fromkeys(("sample_rate", "frame_rate"), "write 'fps'"),
    **dict.fromkeys(("segment", "segments", "clip", "time_range"), "write 'start' and 'end'"),
    **dict.fromkeys(("begin", "start_frame", "end_frame"), "write 'start' and 'end' in seconds"),
    **dict.fromkeys(
        ("frame_indices", "timestamps", "frames"), "name the frames in a list of paths"
    ),
    **dict.fromkeys(("resize", "rotate", "rotation", "mask"), "change the file beforehand"),
    **dict.fromkeys(("min_patches", "max_patches", "num_crops", "max_num"), _SAMPLING),
    **dict.fromkeys(("min_frames", "max_frames", "total_pixels"), _SAMPLING),
    **dict.fromkeys(("resized_height", "resized_width"), _SAMPLING),
    "detail": _SAMPLING,
    **dict.fromkeys(("bbox", "bbox_2d", "crop"), "cut the image out beforehand"),
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

BOXES = frozenset(("objects", "bbox", "bboxes", "bbox_2d", "boxes"))


def reject(fields: Mapping[Any, Any], known: Mapping[str, str], where: str, name: str) -> None:
    """Reject fields of a table of this module that hold something.

    Raises:
        DataError: one of them does.
    """
    if known.keys().isdisjoint(fields):
        return
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
