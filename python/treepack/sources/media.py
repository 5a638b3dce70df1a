"""Images and videos: their size without decoding a pixel, and their pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

UInt8 = npt.NDArray[np.uint8]

ORIENTATION_TAG = 0x0112
TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations in which height and width of the file are exchanged."""


class Clip(NamedTuple):
    """What is known of a video before a frame is decoded.

    Attributes:
        frames: how many it has.
        fps: frames a second, or ``None`` where nothing says so.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
    """

    frames: int
    fps: float | None
    height: int
    width: int


def image_size(value: Any, name: str) -> tuple[int, int]:
    """Height and width of an image upright, in pixels; of a file only the header is read.

    Args:
        value: path, PIL image, or uint8 array ``[H, W]`` or ``[H, W, C]``.
        name: the example, for errors.

    Raises:
        DataError: no such file, no image, or an array of another kind.
    """
    with _image(value, name) as image:
        size = (image.height, image.width)
        return size[::-1] if _orientation(image) in TRANSPOSED else size


def load_image(value: Any, name: str) -> Image:
    """The image with its pixels, upright; same arguments and errors as `image_size`."""
    from PIL import ImageOps

    with _image(value, name) as image:
        turns = _orientation(image) > 1
        image.load()
        return ImageOps.exif_transpose(image) if turns else image


@contextmanager
def _image(value: Any, name: str) -> Iterator[Image]:
    import PIL.Image

    with _reading("image", value, name):
        if isinstance(value, PIL.Image.Image):
            yield value
        elif isinstance(value, np.ndarray):
            _check_array("image", value, (2, 3), name)
            yield PIL.Image.fromarray(value[..., 0] if value.shape[2:] == (1,) else value)
        else:
            with PIL.Image.open(value) as image:
                yield image


def _orientation(image: Image) -> int:
    # Only a tag in the header counts: PNG may have it after the pixels, which measuring does not
    # read, and TIFF is turned by PIL itself.
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    return int(image.getexif().get(ORIENTATION_TAG, 1))


def video_clip(value: Any, name: str) -> Clip:
    """Length, rate and size of a video; no frame is decoded.

    Of a file only the header is read, or all packets where the header does not count the frames.

    Args:
        value: path, or uint8 array ``[T, H, W, 3]``, which has no rate.
        name: the example, for errors.

    Raises:
        DataError: no such file, no video, or an array of another kind.
    """
    if isinstance(value, np.ndarray):
        _check_array("video", value, (4,), name)
        frames, height, width, _ = value.shape
        return Clip(frames, None, height, width)
    with _video(value, name) as (container, stream):
        # Some containers do not count their frames; their packets are cheap to count.
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
        rate = stream.average_rate
        if not frames or not stream.height or not stream.width:
            raise ValueError("it has no frames")
        return Clip(frames, float(rate) if rate else None, stream.height, stream.width)


def load_frames(value: Any, indices: npt.NDArray[np.int64], name: str) -> UInt8:
    """Frames uint8 ``[n, H, W, 3]`` of a video.

    Args:
        value: as for `video_clip`.
        indices: int64 ``[n]``, which frames, in increasing order.
        name: the example, for errors.

    Raises:
        DataError: as `video_clip`, or a file that ends before its last frame.
    """
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value[indices])
    wanted, copies = np.unique(indices, return_counts=True)
    with _video(value, name) as (container, stream):
        frames = list(_pick(container.decode(stream), wanted.tolist()))
    if len(frames) < len(wanted):
        raise DataError(
            f"{name}: video {str(value)!r} ends before frame {wanted[len(frames)]}; "
            "it is cut off, so replace or remove it"
        )
    return np.repeat(np.stack(frames), copies, axis=0)


def _pick(frames: Iterator[Any], wanted: list[int]) -> Iterator[UInt8]:
    places = iter(wanted)
    place = next(places, None)
    for index, frame in enumerate(frames):
        if index == place:
            yield frame.to_ndarray(format="rgb24")
            place = next(places, None)
        if place is None:
            return


@contextmanager
def _video(value: Any, name: str) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{name}: reading video files needs PyAV: pip install 'treepack[video]'"
        ) from error
    with _reading("video", value, name), av.open(os.fspath(value)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        yield container, container.streams.video[0]


@contextmanager
def _reading(kind: str, value: Any, name: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{name}: {kind} {str(value)!r} does not exist; correct the path, or say where "
            "relative paths start"
        ) from error
    except Exception as error:
        # Decoders raise whatever they like for a broken file: OSError, SyntaxError, struct.error.
        raise DataError(
            f"{name}: {kind} {str(value)[:200]!r} cannot be read: {error}; replace or remove it"
        ) from error


def _check_array(kind: str, array: npt.NDArray[Any], axes: tuple[int, ...], name: str) -> None:
    channels = array.shape[-1] if array.ndim == axes[-1] else 1
    fits = array.ndim in axes and channels in ((1, 3, 4) if kind == "image" else (3,))
    if array.dtype != np.uint8 or not fits or not array.size:
        wanted = "[height, width, 3]" if kind == "image" else "[frames, height, width, 3]"
        raise DataError(
            f"{name}: {kind} array must be uint8 {wanted}, got {array.dtype} of shape {array.shape}"
        )
