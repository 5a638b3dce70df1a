"""Videos: length, rate and size from the header where it can be trusted, and their frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack._packages import needing
from treepack.errors import DataError
from treepack.sources.images import image_size, load_rgb
from treepack.sources.media import UInt8, check_array, opened, reading, show

DRIFT = 0.01
"""How far a rate may be from the times of the frames, as a part of it."""

LOST = 0.1
"""How much of its length a file may lack before it counts as cut off."""

HEADER_COUNTS = ("mov,mp4",)
"""Containers whose header counts their frames: the others are read through, packet by packet."""

HEADER_TIMES = ("matroska", "avi")
"""Containers, of those that are read through, whose header says how long the film is."""


class Clip(NamedTuple):
    """What is known of a video before its frames are decoded.

    Attributes:
        frames: how many it has.
        fps: frames a second, or ``None`` where nothing says so.
        height: of a frame, in pixels, upright.
        width: of a frame, in pixels, upright.
        is_sampled: somebody has chosen the frames before, so all of them are to be seen.
    """

    frames: int
    fps: float | None
    height: int
    width: int
    is_sampled: bool = False


def video_clip(value: Any, name: str) -> Clip:
    """Length, rate and size of a video.

    Of a file the header is read and one frame is decoded, which alone says how the film is turned.
    A header that contradicts itself, or does not count the frames, makes all packets be read; none
    of them is decoded. A rate that contradicts their times gives way to it.

    Args:
        value: path, bytes of a file, uint8 array ``[T, H, W, 3]``, or a list of images, one for
            each frame. Nobody knows the rate of arrays and lists.
        name: the example, for errors.

    Raises:
        DataError: no such file, no video, an array of another kind, frames of different sizes, or
            a file that is cut off.
    """
    if isinstance(value, np.ndarray):
        check_array("video", value, (4,), name)
        frames, height, width, _ = value.shape
        return Clip(frames, None, height, width)
    if isinstance(value, (list, tuple)):
        return _listed_clip(value, name)
    with _video(value, name) as (container, stream):
        timing = _Timing.of_header(container, stream)
        first = _first_alone(container, stream)
    if first is None:
        with _video(value, name) as (container, stream):
            first = next(container.decode(stream), None)
    if timing is None:
        with _video(value, name) as (container, stream):
            timing = _Timing.of_packets(container, stream)
    with reading("video", value, name):
        if first is None:
            raise ValueError("it has no frames")
        size = (first.height, first.width)
        height, width = size[::-1] if _Turn.of(first).is_transposed else size
        return Clip(timing.frames, timing.fps, height, width)


def load_frames(value: Any, indices: npt.NDArray[np.int64], name: str) -> UInt8:
    """Frames uint8 ``[n, H, W, 3]`` of a video, upright.

    Args:
        value: as for `video_clip`.
        indices: int ``[n]``, which frames, in increasing order.
        name: the example, for errors.

    Raises:
        DataError: as `video_clip`, or a file that ends before its last frame.
    """
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value[indices])
    wanted, copies = np.unique(indices, return_counts=True)
    if isinstance(value, (list, tuple)):
        frames = [load_rgb(value[index], name) for index in wanted]
    else:
        with _video(value, name) as (container, stream):
            frames = list(_pick(container.decode(stream), wanted.tolist()))
    if len(frames) < len(wanted):
        raise DataError(
            f"{name}: video {show(value)} ends before frame {wanted[len(frames)]}; "
            "it is cut off, so replace or remove it"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"{name}: video {show(value)} has frames of different sizes; cut it there")
    return np.repeat(np.stack(frames), copies, axis=0)


def _listed_clip(frames: list[Any] | tuple[Any, ...], name: str) -> Clip:
    sizes = {image_size(frame, name): place for place, frame in enumerate(frames)}
    if len(sizes) != 1:
        found = ", ".join(f"{h} x {w}" for h, w in list(sizes)[:3]) or "no frames"
        raise DataError(
            f"{name}: the frames of a video must be of one size, got {found}; resize them"
        )
    ((height, width),) = sizes
    return Clip(len(frames), None, height, width, is_sampled=True)


def _first_alone(container: Any, stream: Any) -> Any:
    """The first frame, if its own packet is all that the decoder needs, else ``None``.

    Decoding as usual waits for the packets of several frames, and starts threads for them: three
    times as slow.
    """
    stream.codec_context.thread_count = 1
    packet = next((packet for packet in container.demux(stream) if packet.size), None)
    if packet is None or packet.is_discard:
        return None
    return next(iter([*packet.decode(), *stream.decode(None)]), None)


def _pick(frames: Iterator[Any], wanted: list[int]) -> Iterator[UInt8]:
    places = iter(wanted)
    place = next(places, None)
    for index, frame in enumerate(frames):
        if index == place:
            yield _Turn.of(frame).upright(frame.to_ndarray(format="rgb24"))
            place = next(places, None)
        if place is None:
            return


class _Timing(NamedTuple):
    """How many frames a stream has, and at what rate."""

    frames: int
    fps: float | None

    @classmethod
    def of_header(cls, container: Any, stream: Any) -> _Timing | None:
        """What the header says, or ``None`` where it cannot be trusted.

        A film that was cut without encoding it again still counts the frames before the cut, and
        its length gives that away.
        """
        if not container.format.name.startswith(HEADER_COUNTS):
            return None
        frames, rate, length = stream.frames, stream.average_rate, stream.duration
        if not frames or not rate or not length:
            return None
        shown = float(length * stream.time_base * rate)
        return cls(frames, float(rate)) if abs(shown - frames) < 0.5 else None

    @classmethod
    def of_packets(cls, container: Any, stream: Any) -> _Timing:
        """What the packets say; the header's rate is kept where they agree with it."""
        seen = [p for p in container.demux(stream) if p.size and not p.is_discard]
        stamps = [p.dts if p.pts is None else p.pts for p in seen]
        times = [float(stamp * stream.time_base) for stamp in stamps if stamp is not None]
        fps = float(stream.average_rate) if stream.average_rate else None
        span = max(times) - min(times) if times else 0.0
        tick = float(stream.time_base)
        if span > 0 and (not fps or abs(span - (len(times) - 1) / fps) > DRIFT * span + 2 * tick):
            fps = (len(times) - 1) / span
        _check_end(container, stream, max(map(_end, seen), default=0.0), 1 / fps if fps else 0.0)
        return cls(len(seen), fps)


def _end(packet: Any) -> float:
    """When what a packet holds has been shown, in seconds."""
    stamp = packet.dts if packet.pts is None else packet.pts
    return float(((stamp or 0) + (packet.duration or 0)) * packet.time_base)


def _check_end(container: Any, stream: Any, last: float, interval: float) -> None:
    """Reject a file that ends long before its header says."""
    if not container.format.name.startswith(HEADER_TIMES):
        return
    # Without its index, a film that counts its frames has a length that is only estimated.
    counted = float(stream.frames / stream.average_rate) if stream.average_rate else 0.0
    length = max(counted, (container.duration or 0) / 1e6)
    allowed = max(LOST * length, 2 * interval)
    if length - last > allowed:
        # Sound may go on after the last picture.
        container.seek(0)
        last = max([last, *(_end(packet) for packet in container.demux() if packet.size)])
    if length - last > allowed:
        raise ValueError(f"it is cut off: of {length:.1f} seconds it holds {last:.1f}")


class _Turn(NamedTuple):
    """How a stored frame becomes upright: exchange the axes, then flip rows or columns."""

    is_transposed: bool
    flips_rows: bool
    flips_columns: bool

    @classmethod
    def of(cls, frame: Any) -> _Turn:
        """From the display matrix of a decoded frame: ``x' = a x + c y``, ``y' = b x + d y``."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls(False, False, False)
        values = np.frombuffer(bytes(matrix), np.int32)[:5]
        a, b, _, c, d = np.round(values / (1 << 16), 2).tolist()
        if (a or d) and (b or c):
            raise ValueError(
                "its display matrix turns it by no multiple of 90 degrees; encode it upright"
            )
        is_transposed = bool(b or c)
        return cls(is_transposed, (b if is_transposed else d) < 0, (c if is_transposed else a) < 0)

    def upright(self, pixels: UInt8) -> UInt8:
        """Pixels ``[H, W, 3]`` as they are meant to be seen."""
        if self.is_transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


@contextmanager
def _video(value: Any, name: str) -> Iterator[tuple[Any, Any]]:
    with needing("video", f"{name}: reading video files"):
        import av
    with reading("video", value, name), av.open(opened(value)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        yield container, container.streams.video[0]
