"""A page as its reader finds it, and rows to draw."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import treepack as tp

VOID = ("meta", "img", "source", "br")


class Page(HTMLParser):
    """Elements with their attributes and those around them, and the texts inside each kind."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts, self.around = [], [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.around.append(list(self.open))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for tag, _ in self.open:
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def inside(self, tag, name, value):
        """Elements of a kind inside of one whose attribute starts with a value."""
        return [
            (attrs, outer)
            for (own, attrs), outer in zip(self.tags, self.around, strict=True)
            if own == tag and any(each.get(name, "").startswith(value) for _, each in outer)
        ]

    @property
    def themes(self):
        """CSS variables on light and on dark screens."""
        light, dark = re.findall(r":root \{([^}]*)\}", self.texts["style"][0])
        return [dict(re.findall(r"--([\w-]+): (#\w{6});", theme)) for theme in (light, dark)]


class Letters:
    """A tokenizer with one token for each character."""

    @staticmethod
    def encode(text):
        return [ord(letter) for letter in text]

    @staticmethod
    def decode(ids):
        return "".join(map(chr, ids))


def branch(question, answer, **options):
    ids = Letters.encode(question + answer)
    labels = [-100] * len(question) + ids[len(question) :]
    return tp.MessageTree(ids, labels=labels, end_target=0, **options)


def tree(key, *pairs, image=8, text="look"):
    root = [1] * image + Letters.encode(text)
    children = [branch(*pair) for pair in pairs]
    runs = [[0, image, 0]] if image else None
    return tp.MessageTree(root, children=children, key=key, image_runs=runs)
