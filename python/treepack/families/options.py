"""What the data may ask of an image or a video: options by name, and a stretch of a film."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError
from treepack.sources.media import cut
from treepack.sources.records.base import Medium
from treepack.sources.videos import Clip

Options = Mapping[str, float]

NO_OPTIONS: Options = MappingProxyType({})

WHOLE = ("max_crops", "max_pixels", "min_pixels", "num_frames")
"""Options that are integers."""

PAIRS = (("min_pixels", "max_pixels"), ("start", "end"))
"""Options of which the first must not exceed the second."""

ROUNDING = 1e-6
"""Frames by which a time in seconds may miss the frame that it means: 0.1 * 30 is above 3."""


def checked_options(medium: Medium, known: Sequence[str], name: str, family: str) -> Options:
    """The options of a medium, numbers all of them; one without a value counts as absent.

    Args:
        medium: an image or a video.
        known: what the family honours.
        name: the example, for errors.
        family: its name, for errors.

    Raises:
        DataError: an option that the family cannot honour, or a value that makes no sense.
    """
    given = {k: v for k, v in (medium.options or {}).items() if v is not None}
    unknown = [option for option in given if option not in known]
    if unknown:
        raise DataError(
            f"{name}: {medium.kind} has the option {cut(repr(unknown[0]))}, which family "
            f"{family!r} cannot honour; it takes {', '.join(known) or 'none'}. Remove the option, "
            f"or prepare the {medium.kind} beforehand"
        )
    options = {option: _number(option, value, name) for option, value in given.items()}
    for low, high in PAIRS:
        if options.get(low, 0) > options.get(high, math.inf):
            raise DataError(
                f"{name}: {medium.kind} option {low!r} is {options[low]}, more than {high!r}, "
                f"{options[high]}; exchange them"
            )
    return options


def _number(option: str, value: Any, name: str) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    fits = is_number and (value > 0 or (value == 0 and option == "start"))
    if not fits or (option in WHOLE and value != int(value)):
        kind = "a whole number" if option in WHOLE else "a number"
        least = "of 0 or more" if option == "start" else "above 0"
        raise DataError(f"{name}: {option!r} must be {kind} {least}, got {cut(repr(value))}")
    return int(value) if option in WHOLE else float(value)


def cut_clip(clip: Clip, options: Options, name: str) -> tuple[Clip, int]:
    """The stretch of a film from ``start`` to ``end``, both included, and its first frame.

    Raises:
        DataError: a film whose rate nobody knows, or no frame between the two.
    """
    if "start" not in options and "end" not in options:
        return clip, 0
    if clip.fps is None:
        raise DataError(
            f"{name}: 'start' and 'end' are in seconds, and nothing says the rate of this video; "
            "cut it beforehand, or give a list of frames and their 'fps'"
        )
    start, end = options.get("start", 0.0), options.get("end", math.inf)
    first = math.ceil(start * clip.fps - ROUNDING)
    last = math.floor(min(end * clip.fps + ROUNDING, clip.frames - 1))
    if first > last:
        raise DataError(
            f"{name}: no frame between 'start' and 'end', {start} and {end} seconds; the video has "
            f"{clip.frames} frames and lasts {clip.frames / clip.fps:.1f} seconds"
        )
    return clip._replace(frames=last - first + 1), first


def sample_frames(video_processor: Any, clip: Clip, options: Options) -> npt.NDArray[np.int64]:
    """Which frames of a clip are seen, int64 ``[T]``: what the video processor chooses.

    ``fps`` and ``num_frames`` of the options take the place of its settings.
    """
    from transformers.video_utils import VideoMetadata

    asked = {name: options[name] for name in ("num_frames", "fps") if name in options}
    if clip.is_sampled or not (video_processor.do_sample_frames or asked):
        return np.arange(clip.frames)
    settings = {
        name: getattr(video_processor, name)
        for name in ("num_frames", "fps", "max_fps")
        if hasattr(video_processor, name)
    }
    if asked:
        settings |= {"num_frames": None, "fps": None} | asked
    if settings.get("num_frames"):
        settings["num_frames"] = min(settings["num_frames"], clip.frames)
    metadata = VideoMetadata(
        total_num_frames=clip.frames,
        fps=clip.fps,
        duration=clip.frames / clip.fps if clip.fps else None,
        height=clip.height,
        width=clip.width,
    )
    frames = np.asarray(video_processor.sample_frames(metadata, **settings), np.int64)
    # Rounding lets some processors name the frame behind the last one.
    return frames[frames < clip.frames]
