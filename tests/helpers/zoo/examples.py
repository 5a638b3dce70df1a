"""Examples that cannot be misread: text between images, images of several shapes, many branches."""

from __future__ import annotations

import treepack as tp
from helpers.tiny_models import film, photo
from helpers.zoo import WITH_VIDEOS

A = [[("What is it?", "A cat.")], [("Its colour?", "Black."), ("Sure?", "Yes.")], [("Many?", "1")]]
ONE_QUESTION = [[("What is it?", "A cat.")], [("What is it?", "Black.")], [("What is it?", "")]]
B = [[("Which?", "The 2nd.")], [("left or right", "ok")]]
TEXT = tp.Conversations([[("Hi", "Ho"), ("And?", "So.")]], key="text")


def said(name):
    """Conversations that a family can hold about one image."""
    return ONE_QUESTION if name == "paligemma" else A


def text_tree(family):
    """An example without an image."""
    if family.name == "paligemma":
        return tp.MessageTree([1, 2], children=[tp.MessageTree([3, 4], labels=[3, 4])])
    return family.load(TEXT)


def image(seed, height, width):
    return "image", photo(seed, height, width)


def video(seed, frames, height, width):
    return "video", film(seed, frames, height, width)


def pair(name):
    """Two images with text between."""
    # PerceptionLM's processor takes several images of an example only with equally many tiles.
    second = (64, 30) if name == "perception_lm" else (40, 44)
    media = [image(2, 64, 30), image(3, *second)]
    return tp.Conversations(B, media, texts=["", "and [this] "], key="pair", system="Be brief.")


def rows(name):
    """The rows of a family: what is in them, and their examples."""
    if name == "paligemma":
        one = tp.Conversations(ONE_QUESTION, [image(1, 40, 60)], key="one")
        media = [image(2, 64, 30), image(3, 40, 44)]
        two = tp.Conversations(ONE_QUESTION[1:], media, texts=["", "and [this] "], key="two")
        yield "images", [one, two]
        return
    one = tp.Conversations(A, [image(1, 40, 60)], key="one")
    yield "images", [one, TEXT, pair(name)]
    if name in WITH_VIDEOS:
        frames = 4 if name == "llava_onevision" else 7
        films = [
            tp.Conversations(A, [video(1, 4, 24, 32)], key="film"),
            tp.Conversations(B, [video(2, frames, 40, 24)], key="long"),
        ]
        yield "videos", films
        yield "mixed", [films[0], one, TEXT, films[1]]
