"""Does a picture show the row that it is a picture of?"""

import io
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from helpers.random_masks import random_forest
from PIL import Image
from treepack.errors import BatchError
from treepack.viz import PALETTE, mask_picture, pack_html, png, save_pack
from treepack.viz.contents import Contents
from treepack.viz.picture import HUES, node_of


class Page(HTMLParser):
    """Tags, their attributes and the texts inside each kind of tag."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], [], {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


class Letters:
    """A tokenizer with one token for each character."""

    @staticmethod
    def encode(text):
        return [ord(letter) for letter in text]

    @staticmethod
    def decode(ids):
        return "".join(map(chr, ids))


def branch(question, answer):
    ids = Letters.encode(question + answer)
    return tp.MessageTree(ids, labels=[-100] * len(question) + ids[len(question) :], end_target=0)


def tree(key, *pairs, image=8):
    root = [1] * image + Letters.encode("look")
    children = [branch(*pair) for pair in pairs]
    runs = [[0, image, 0]] if image else None
    return tp.MessageTree(root, children=children, key=key, image_runs=runs)


@pytest.fixture
def batch():
    trees = [tree("cat.png", ("what? ", "a cat"), ("colour? ", "grey")), tree("b", ("c? ", "d"))]
    return tp.collate(trees, total=80, bidirectional="image_tokens", budgets={"tokens": 80})


def random_mask(rng):
    return tp.TreeMask.from_nodes(*random_forest(rng))


def test_a_picture_of_a_short_row_is_its_mask():
    for rng in cases(300, "short picture"):
        mask = random_mask(rng)
        picture = mask_picture(mask)
        np.testing.assert_array_equal(picture > 0, mask.to_dense())


def test_a_picture_of_a_long_row_is_a_sample_of_its_mask():
    for rng in cases(100, "long picture"):
        mask = random_mask(rng)
        side = int(rng.integers(1, mask.total + 1))
        rows = ((np.arange(side) + 0.5) * (mask.total / side)).astype(int)
        picture = mask_picture(mask, side)
        np.testing.assert_array_equal(picture > 0, mask.to_dense()[np.ix_(rows, rows)])


def test_colours_say_example_and_kind():
    for rng in cases(200, "colours"):
        mask = random_mask(rng)
        picture = mask_picture(mask).astype(int)
        starts, ends = mask.node_start, mask.node_end
        owner = {r: n for n in range(len(starts)) for r in range(starts[n], ends[n])}
        for q, k in zip(*np.nonzero(picture), strict=True):
            hue, kind = divmod(picture[q, k] - 1, 3)
            assert hue == mask.node_example[owner[q]] % len(HUES)
            assert kind == (2 if k > q else owner[q] != owner[k])


def test_each_token_belongs_to_the_node_that_holds_it():
    for rng in cases(200, "node of"):
        mask = random_mask(rng)
        rows = np.arange(mask.used)
        node = node_of(mask, rows)
        assert (mask.node_start[node] <= rows).all()
        assert (rows < mask.node_end[node]).all()


def test_png_decodes_to_the_colours_of_the_palette():
    for rng in cases(20, "png"):
        shape = rng.integers(1, 40, 2)
        indices = rng.integers(0, len(PALETTE), shape).astype(np.uint8)
        with Image.open(io.BytesIO(png(indices))) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), PALETTE[indices])


def test_the_page_is_well_formed_and_asks_for_nothing_outside(batch):
    page = Page(pack_html(batch, tokenizer=Letters, images={"b": Image.new("L", (9, 7))}))
    assert page.open == []
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    links = [attrs[a] for _, attrs in page.tags for a in ("src", "href") if a in attrs]
    assert len(links) == 2
    assert all(link.startswith("data:image/") for link in links)


def test_exactly_the_answers_are_marked_as_trained(batch):
    page = Page(pack_html(batch, tokenizer=Letters))
    trained = [text for text in page.texts["b"] if text in ("a cat", "grey", "d")]
    assert trained == ["a cat", "grey", "d"]
    assert [text for text in page.texts["p"] if "?" in text] == [
        "what?  a cat",
        "colour?  grey",
        "c?  d",
    ]


def test_every_node_has_its_bar(batch):
    mask = batch["treepack"].mask
    bars = {
        (attrs["x"], attrs["y"])
        for attrs in Page(pack_html(batch)).all("rect")
        if attrs["height"] == "24"
    }
    scale = 1176 / mask.total
    for start, depth in zip(mask.node_start, mask.node_depth, strict=True):
        assert (f"{start * scale:.2f}", str(depth * 26)) in bars


@pytest.mark.parametrize("mode", ["none", "image_tokens"])
def test_image_tokens_are_found(mode):
    row = tp.collate([tree("a", ("q ", "r")), tree("b", image=0)], bidirectional=mode)
    found = Contents(row).images
    assert found[:8].all()
    assert not found[8:].any()


def test_what_people_write_is_never_markup(batch):
    evil = "<script>alert(1)</script>"
    row = tp.collate([tree(evil, (evil, f"<b>{evil}"))])
    page = Page(pack_html(row, tokenizer=Letters, title=evil))
    assert "script" not in page.texts
    assert evil in page.texts["h1"]
    assert any(evil in text for text in page.texts["h3"])


def test_more_is_shown_the_more_is_known(batch):
    bare = Page(pack_html(batch["treepack"].mask))
    row = Page(pack_html(batch["treepack"]))
    full = Page(pack_html(batch, tokenizer=Letters))
    assert "example 0" in bare.texts["h3"][0]
    assert "cat.png" in row.texts["h3"][0]
    assert len(bare.texts["p"]) < len(full.texts["p"])
    assert not any("full" in text for text in bare.texts["span"])
    assert any("full" in text for text in row.texts["span"])


def test_thumbnails_come_from_files_and_images(batch, tmp_path):
    path = tmp_path / "cat.png"
    Image.new("RGB", (600, 400), "red").save(path)
    picture = Image.new("RGBA", (500, 300))
    page = Page(pack_html(batch, images={"cat.png": path, "b": picture, "c": "missing.png"}))
    assert len(page.all("img")) == 2
    assert picture.size == (500, 300)


def test_saving_writes_the_same_page(batch, tmp_path):
    path = save_pack(batch, tmp_path / "row.html", tokenizer=Letters)
    assert path.read_text(encoding="utf-8") == pack_html(batch, tokenizer=Letters)


def test_many_branches_are_counted_not_listed():
    row = tp.collate([tree("a", *[(f"{i}? ", "y") for i in range(40)])])
    page = Page(pack_html(row, tokenizer=Letters))
    assert "and 28 more" in page.texts["p"]


def letters(text, trained=True):
    ids = [ord(letter) for letter in text]
    return {"tokens": ids, "labels": ids if trained else None}


def test_branches_of_nested_trees_are_paths_and_their_first_letters_are_trained():
    answers = [tp.MessageTree(**letters(text), end_target=1) for text in ("yes", "no")]
    question = tp.MessageTree(**letters("is it", trained=False), children=answers)
    root = tp.MessageTree(**letters("see", trained=False), children=[question, answers[0]])
    page = pack_html(tp.collate([root]), tokenizer=Letters)
    assert "<b>3</b> branches" in page
    assert "; 3 branches" in page
    assert '<p style="margin-left:1em"><b>yes</b></p>' in page
    assert page.count("<b>yes</b>") == 2
    assert "<p>is it</p>" in page


def test_nothing_is_left_to_tell_of_branches_without_texts():
    row = tp.collate([tree("a", *[(f"{i}? ", "y") for i in range(40)])])
    assert "more</p>" not in pack_html(row)


def test_a_long_row_stays_cheap():
    lengths = [150_000, *[400] * 100, 9_000]
    mask = tp.TreeMask.from_nodes(lengths, [-1, *[0] * 100, -1], total=200_000)
    tracemalloc.start()
    page = pack_html(mask)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6
    assert len(page) < 200_000


@pytest.mark.parametrize("wrong", [None, {}, {"input_ids": [1]}, SimpleNamespace(mask=3), 7])
def test_what_is_no_row_is_rejected(wrong):
    with pytest.raises(BatchError, match="TreeMask, got"):
        pack_html(wrong)


def test_pictures_need_no_torch():
    code = (
        "import sys, treepack as tp\n"
        "tp.viz.pack_html(tp.TreeMask.from_nodes([2], [-1]))\n"
        "assert not {'torch', 'PIL', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
