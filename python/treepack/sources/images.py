"""Images: their size without decoding a pixel, and their pixels, upright and with 8 bits."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from treepack._packages import needing
from treepack.sources.media import UInt8, check_array, opened, reading

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION_TAG = 0x0112
TRANSPOSED = (5, 6, 7, 8)
"""Orientations that a camera writes down when height and width of the file are exchanged."""

SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""File formats whose pixels are 0 to 65535 where PIL calls them 32-bit integers."""


def image_size(value: Any, name: str) -> tuple[int, int]:
    """Height and width of an image as it is meant to be seen; files are read up to their header.

    Args:
        value: path, bytes of a file, PIL image, or uint8 array ``[H, W]`` or ``[H, W, C]``.
        name: the example, for errors.

    Raises:
        DataError: no such file, no image, an array of another kind, or pixels whose range nobody
            knows: floats, and integers of 32 bits.
    """
    with _image(value, name) as image:
        size = (image.height, image.width)
        return size[::-1] if _orientation(image) in TRANSPOSED else size


@functools.cache
def _pillow() -> Any:
    with needing("hf", "reading images"):
        import PIL.Image
        import PIL.ImageOps
    return PIL


def load_image(value: Any, name: str) -> Image:
    """The image with its pixels, upright; same arguments and errors as `image_size`.

    Pixels of 16 bits become 8, 65535 as white; all other kinds stay as they are.
    """
    with _image(value, name) as image:
        turns = _orientation(image) > 1
        image.load()
        return _eight_bits(_pillow().ImageOps.exif_transpose(image) if turns else image)


def load_rgb(value: Any, name: str) -> UInt8:
    """Pixels uint8 ``[H, W, 3]`` of an image; what is transparent becomes white."""
    image = load_image(value, name)
    if "A" in image.getbands() or "transparency" in image.info:
        above = image.convert("RGBA")
        white = _pillow().Image.new("RGBA", above.size, (255, 255, 255, 255))
        image = _pillow().Image.alpha_composite(white, above)
    return np.asarray(image.convert("RGB"))


@contextmanager
def _image(value: Any, name: str) -> Iterator[Image]:
    PIL = _pillow()
    with reading("image", value, name):
        if isinstance(value, PIL.Image.Image):
            _check_range(value)
            yield value
        elif isinstance(value, np.ndarray):
            check_array("image", value, (2, 3), name)
            yield PIL.Image.fromarray(value[..., 0] if value.shape[2:] == (1,) else value)
        else:
            with PIL.Image.open(opened(value)) as image:
                _check_range(image)
                yield image


def _check_range(image: Image) -> None:
    is_sixteen = image.mode == "I" and image.format in SIXTEEN_BIT_FORMATS
    if image.mode in ("F", "I") and not is_sixteen:
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise ValueError(
            f"its pixels are {kind}, and nothing says which are black and white; convert it to "
            "8 or 16 bits"
        )


def _eight_bits(image: Image) -> Image:
    if not image.mode.startswith("I"):
        return image
    # PIL itself would make white of everything above 255.
    pixels = np.asarray(image).astype(np.uint32)
    scaled = ((pixels * 255 + 32767) // 65535).astype(np.uint8)
    return cast("Image", _pillow().Image.fromarray(scaled))


def _orientation(image: Image) -> int:
    # Only what the header holds counts: PNG may carry the tag behind its pixels, where measuring
    # does not look, and TIFF is turned by PIL itself.
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    return int(image.getexif().get(ORIENTATION_TAG, 1))
