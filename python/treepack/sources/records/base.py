"""What every format of records is read into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

KINDS = ("image", "video")


class Medium(NamedTuple):
    """An image or a video of an example.

    Attributes:
        kind: ``"image"`` or ``"video"``.
        value: path of the file, a PIL image, or a uint8 array ``[H, W, C]`` (``[T, H, W, 3]``).
        options: what the data says about it by name, such as ``{"max_pixels": 65536}`` or the
            ``start`` and ``end`` of a clip in seconds; ``None`` if nothing.
    """

    kind: str
    value: Any
    options: Mapping[str, float] | None = None


class Turn(NamedTuple):
    """What the user says and what the model should answer.

    Attributes:
        question: text.
        answer: text.
        weight: loss weight of the answer and of the end of turn after it; 0 is not trained on.
    """

    question: str
    answer: str
    weight: float = 1.0


class Record(NamedTuple):
    """A record that has been read and found sound.

    Attributes:
        key: what the example is called, or ``None``.
        media: in the order in which the model sees them.
        texts: what stands before each of the media in the first question.
        turns: the conversation; the first question is what stands behind the media.
        system: instruction that precedes everything.
    """

    key: str | None
    media: tuple[Medium, ...]
    texts: tuple[str, ...]
    turns: tuple[Turn, ...]
    system: str

    @property
    def group(self) -> Any:
        """What records of one tree have in common."""
        return self.system, tuple((m.kind, _identity(m.value)) for m in self.media)


def _identity(value: Any) -> Any:
    return value if isinstance(value, str) else id(value)
