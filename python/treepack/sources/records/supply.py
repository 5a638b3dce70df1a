"""The media of a record: what its fields and parts say, and which of them a text shows."""

from __future__ import annotations

import binascii
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treepack.errors import DataError
from treepack.options import MediumKind
from treepack.sources.records import unsupported
from treepack.sources.records.base import (
    IMAGE_OPTIONS,
    KINDS,
    VIDEO_OPTIONS,
    Medium,
    is_given,
    number_of,
    shown,
)

OPTION_NAMES = {
    "min_pixels": "min_pixels",
    "max_pixels": "max_pixels",
    "max_crops": "max_crops",
    "fps": "fps",
    **dict.fromkeys(("num_frames", "nframes"), "num_frames"),
    **dict.fromkeys(
        ("start", "video_start", "start_time", "clip_start", "start_sec", "start_seconds"), "start"
    ),
    **dict.fromkeys(("end", "video_end", "end_time", "clip_end", "end_sec", "end_seconds"), "end"),
}
"""How data calls the options of a medium."""

OF_RECORDS = frozenset(
    name for name, option in OPTION_NAMES.items() if option not in ("fps", "num_frames")
)
"""Options that a record may say of its media; its ``fps`` would rather describe the file."""

ONE = {"image": "an image", "video": "a video"}
SOURCES = ("path", "url", "image_url", "video_url", "file_name")
FRAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Endings of files that are images: a list of them is a video in frames."""


class Held(NamedTuple):
    """A medium, and the file that it was read from, if it was one."""

    medium: Medium
    file: str | None

    def with_options(self, options: Mapping[str, float]) -> Held:
        """The same with more options; its own go before them."""
        if not options:
            return self
        mine = self.medium.options or {}
        return Held(self.medium._replace(options={**options, **mine}), self.file)


class Supply:
    """The media of one record.

    Args:
        record: the record; its ``image``, ``images``, ``video`` and ``videos``, each one medium or
            a list of them.
        folder: where relative paths start.
        name: the record, for errors.

    Attributes:
        given: media by kind, in order.
        count: of all media.
        has_boxes: the record has boxes, for which tags in its texts may stand.

    Raises:
        DataError: what is no image or video, or one under a name that is not read.
    """

    def __init__(self, record: Mapping[str, Any], folder: str, name: str) -> None:
        self.has_boxes: bool = not unsupported.BOXES.isdisjoint(record) and any(
            is_given(record.get(field)) for field in unsupported.BOXES
        )
        self.folder = folder
        self.name = name
        self.given: dict[MediumKind, list[Held]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            if kind in record or kind + "s" in record:
                self.given[kind] = [self.hold(kind, v) for v in self._values(record, kind)]
        self.count: int = sum(map(len, self.given.values()))
        if self.count:
            if not OF_RECORDS.isdisjoint(record):
                self._take_options(record)
        else:
            self._reject_unread(record)

    def hold(self, kind: MediumKind, value: Any) -> Held:
        """A medium as the data says it.

        Args:
            kind: of `KINDS`.
            value: a path, bytes, an image, an array, a list of frames, or any of them in an object
                with options, such as ``{"path": "film.mp4", "start": 3}``.
        """
        if isinstance(value, (str, os.PathLike)):
            return self._file(kind, os.fspath(value))
        if isinstance(value, Mapping):
            return self._described(kind, value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return Held(Medium(kind, bytes(value)), None)
        if kind == "video" and isinstance(value, (list, tuple)):
            return self._frames(value)
        if _is_array(value):
            is_pil = hasattr(value, "getexif")
            return Held(Medium(kind, value if is_pil else np.asarray(value)), None)
        raise DataError(
            f"{self.name}: {kind} must be a path, the bytes of a file, a PIL image or a uint8 "
            f"array, got {type(value).__name__}: {shown(value)}"
        )

    def _values(self, record: Mapping[str, Any], kind: MediumKind) -> list[Any]:
        one, many = record.get(kind), record.get(kind + "s")
        if is_given(one) and is_given(many) and not _are_same(_listed(one), _listed(many)):
            raise DataError(
                f"{self.name}: has both {kind!r} and '{kind}s'; name all {kind}s in one of them"
            )
        value = one if is_given(one) else many
        if kind == "video" and _is_frames(value):
            return [value]
        return _listed(value)

    def _file(self, kind: MediumKind, path: str | bytes) -> Held:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if path.startswith(("data:", "file://")):
            if path.startswith("data:"):
                return Held(Medium(kind, self._decode(path)), None)
            path = path.removeprefix("file://")
        if not path or "://" in path:
            raise DataError(
                f"{self.name}: {kind} {shown(path)} is not the path of a file; nothing is "
                "downloaded while training, so fetch it beforehand and name the file"
            )
        joined = os.path.join(self.folder, path)  # noqa: PTH118 (four times faster, per record)
        return Held(Medium(kind, _plain(joined)), path)

    def _decode(self, uri: str) -> bytes:
        head, _, body = uri.partition(",")
        try:
            if head.endswith(";base64") and body:
                return binascii.a2b_base64(body)
        except (binascii.Error, ValueError):
            pass
        raise DataError(f"{self.name}: {shown(uri)} is not base64; write 'data:...;base64,...'")

    def _described(self, kind: MediumKind, value: Mapping[str, Any]) -> Held:
        unsupported.reject(value, unsupported.MEDIUM, ONE[kind], self.name)
        content, file = value.get("bytes"), None
        if not is_given(content):
            content = next((value[f] for f in (kind, *SOURCES) if is_given(value.get(f))), None)
        elif isinstance(value.get("path"), str):
            file = value["path"] or None
        if isinstance(content, Mapping):
            # OpenAI's {"image_url": {"url": ..., "detail": "auto"}}.
            unsupported.reject(content, unsupported.MEDIUM, ONE[kind], self.name)
            content = content.get("url")
        if not is_given(content) or isinstance(content, Mapping):
            raise DataError(
                f"{self.name}: {ONE[kind]} must have 'bytes' or 'path', got {shown(dict(value))}"
            )
        held = self.hold(kind, content)
        return Held(held.medium, held.file or file).with_options(self.options(kind, value))

    def _frames(self, value: list[Any] | tuple[Any, ...]) -> Held:
        frames = [self.hold("image", frame) for frame in value]
        if not frames or not all(type(frame.medium.value) is str for frame in frames):
            raise DataError(
                f"{self.name}: a video in frames must be a list of paths, got {shown(value)}"
            )
        file = f"{frames[0].file} ... {len(frames)} frames"
        return Held(Medium("video", [frame.medium.value for frame in frames]), file)

    def options(self, kind: MediumKind, fields: Mapping[str, Any]) -> dict[str, float]:
        """The options of a medium among these fields, by the names of `OPTIONS`."""
        found: dict[str, float] = {}
        for field, option in OPTION_NAMES.items():
            value = fields.get(field)
            if value is None:
                continue
            found_number = None if isinstance(value, (bool, np.bool_)) else number_of(value)
            if found_number is None or not (found_number or option == "start"):
                raise DataError(
                    f"{self.name}: {field!r} of {ONE[kind]} must be a number above 0, "
                    f"got {shown(value)}"
                )
            number = found_number if option in ("start", "end", "fps") else int(value)
            if found.setdefault(option, number) != number:
                raise DataError(f"{self.name}: {field!r} of {ONE[kind]} is said twice; say it once")
        self._check_options(kind, found)
        return found

    def _check_options(self, kind: MediumKind, options: Mapping[str, float]) -> None:
        known = IMAGE_OPTIONS if kind == "image" else VIDEO_OPTIONS
        for option in options:
            if option not in known:
                raise DataError(
                    f"{self.name}: {ONE[kind]} has {option!r}; it can have {', '.join(known)}"
                )
        for low, high in (("start", "end"), ("min_pixels", "max_pixels")):
            if options.get(low, 0) > options.get(high, math.inf):
                raise DataError(
                    f"{self.name}: {low} {options[low]} and {high} {options[high]} of "
                    f"{ONE[kind]} leave nothing; correct them"
                )

    def _take_options(self, record: Mapping[str, Any]) -> None:
        """What the record says of its media: sizes of each, times of its one video."""
        for kind, held in self.given.items():
            known = IMAGE_OPTIONS if kind == "image" else VIDEO_OPTIONS
            names = [n for n in OF_RECORDS if OPTION_NAMES[n] in known and n in record]
            options = self.options(kind, {n: record[n] for n in names}) if held else {}
            if len(held) > 1 and not options.keys().isdisjoint(("start", "end")):
                raise DataError(
                    f"{self.name}: one start or end for {len(held)} videos; say it of each: "
                    '{"path": ..., "start": ..., "end": ...}'
                )
            self.given[kind] = [one.with_options(options) for one in held]

    def _reject_unread(self, record: Mapping[Any, Any]) -> None:
        """A record that seems to have media, and none under a name that is read."""
        for field, value in record.items():
            if not isinstance(field, str) or not field.lower().startswith(NAMES_OF_MEDIA):
                continue
            first = value[0] if isinstance(value, (list, tuple)) and value else value
            if _is_like_media(first):
                raise DataError(
                    f"{self.name}: {field!r} is {shown(value)}, which is not read; name it in "
                    "'image' or 'video'"
                )


NAMES_OF_MEDIA = ("image", "img", "video", "picture", "photo")


class Shown:
    """The media that one conversation shows, handed out one for each placeholder.

    Attributes:
        taken: so far, in order.
        has_own: some of them are named by parts of messages.
    """

    def __init__(self, supply: Supply) -> None:
        self.supply = supply
        self.taken: list[Held] = []
        self.has_own: bool = False
        self.left: dict[MediumKind, Iterator[Held]] = {k: iter(v) for k, v in supply.given.items()}

    def take(self, kind: MediumKind) -> Medium:
        """The next medium of a kind."""
        given = self.supply.given
        # Video records are often written with the tag of an image.
        is_video = kind == "image" and given["video"] and not given["image"]
        held = next(self.left["video" if is_video else kind], None)
        if held is None:
            raise DataError(
                f"{self.supply.name}: more <{kind}> than the record has {kind}s "
                f"({len(given[kind])}); remove the placeholder or name the {kind} in {kind!r}"
            )
        self.taken.append(held)
        return held.medium

    def take_part(self, kind: MediumKind, part: Mapping[str, Any]) -> Medium:
        """The medium that a part of a message names, or the next one if it names none."""
        if any(is_given(part.get(field)) for field in (kind, "bytes", *SOURCES)):
            self.taken.append(self.supply.hold(kind, part))
            self.has_own = True
            return self.taken[-1].medium
        unsupported.reject(part, unsupported.MEDIUM, ONE[kind], self.supply.name)
        self.take(kind)
        options = self.supply.options(self.taken[-1].medium.kind, part)
        self.taken[-1] = self.taken[-1].with_options(options)
        return self.taken[-1].medium

    def take_all(self) -> list[Medium]:
        """All that the record has, images first."""
        self.taken += [held for kind in KINDS for held in self.left[kind]]
        return [held.medium for held in self.taken]

    def check_empty(self) -> None:
        """Reject media that no placeholder stands for."""
        if len(self.taken) == self.supply.count and not self.has_own:
            return
        for kind, values in self.supply.given.items():
            unused = sum(1 for _ in self.left[kind])
            if unused:
                raise DataError(
                    f"{self.supply.name}: {len(values)} {kind}s but {len(values) - unused} "
                    f"<{kind}> in its first question; write one <{kind}> for each"
                )

    @property
    def key(self) -> str | None:
        """The files, if all media are files, else ``None``."""
        files = [held.file for held in self.taken if held.file is not None]
        return " + ".join(files) if files and len(files) == len(self.taken) else None


def _listed(value: Any) -> list[Any]:
    if not is_given(value):
        return []
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [value for value in values if is_given(value) and not _is_null_media(value)]


def _are_same(these: list[Any], those: list[Any]) -> bool:
    """Whether two lists name the same files."""
    return all(isinstance(value, str) for value in (*these, *those)) and these == those


def _is_null_media(value: Any) -> bool:
    """An Arrow struct of an image that is not there: all its fields are null."""
    return isinstance(value, Mapping) and not any(map(is_given, value.values()))


def _is_frames(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(v, str) and v.lower().endswith(FRAMES) for v in value)
    )


def _is_array(value: Any) -> bool:
    # Of the type: asked for the attribute, an image of PIL decodes its pixels.
    return hasattr(type(value), "__array_interface__") and not isinstance(value, np.generic)


def _is_like_media(value: Any) -> bool:
    if isinstance(value, str):
        return "/" in value or value.lower().endswith((*FRAMES, ".gif", ".mp4", ".webm", ".mkv"))
    described = isinstance(value, Mapping) and bool(value) and not _is_null_media(value)
    return described or isinstance(value, bytes) or _is_array(value)


def _plain(path: str) -> str:
    """The path without ``./`` and doubled slashes, so that one file has one name."""
    return str(Path(path)) if "./" in path or "//" in path else path
