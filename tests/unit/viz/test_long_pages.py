"""Do long rows stay short pages from which nothing is missing, and text rows rows of text?"""

from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pytest
import treepack as tp
from helpers.pages.reading import Letters, Page, branch, tree
from PIL import Image
from treepack.viz import pack_html
from treepack.viz.cards import MOST_BRANCHES, MOST_EXAMPLES
from treepack.viz.contents import Contents

SPACES = "a" + " " * 40 + "======\n\n\n\n\n\n\n\n"
MODES = ["none", "image_tokens", "within_image", "within_image_sliding"]


def folded(page, tag):
    """How many elements of a kind are seen, and how many are folded away."""
    outer = [
        [name for name, _ in around]
        for (own, _), around in zip(page.tags, page.around, strict=True)
        if own == tag
    ]
    hidden = sum("details" in names for names in outer)
    return len(outer) - hidden, hidden


def test_branches_are_folded_and_all_there():
    row = tp.collate([tree("a", *[(f"{i}? ", "y") for i in range(400)])])
    page = Page(pack_html(row, tokenizer=Letters))
    asked = [text for text in page.texts["p"] if "? y" in text]
    assert asked == [f"{i}? y" for i in range(400)]
    assert page.texts["summary"] == [f"and {400 - MOST_BRANCHES} more"]
    assert folded(page, "p")[1] == 400 - MOST_BRANCHES


def test_examples_are_folded_and_all_there():
    row = tp.collate([tree(f"key {i}", ("q? ", f"{i}")) for i in range(400)])
    page = Page(pack_html(row, tokenizer=Letters))
    assert page.texts["bdi"] == [f"key {i}" for i in range(400)]
    assert folded(page, "article") == (MOST_EXAMPLES, 400 - MOST_EXAMPLES)
    assert not page.texts.get("figcaption")


@pytest.mark.parametrize("trained", [False, True])
def test_long_texts_are_folded_and_all_there(trained):
    text = "".join(f"{i} and " for i in range(1_000))
    ids = Letters.encode(text)
    row = tp.collate([tp.MessageTree(ids, labels=ids if trained else None)])
    page = Page(pack_html(row, tokenizer=Letters))
    seen, hidden = (page.texts["p"][i].removesuffix(" …").split() for i in (-2, -1))
    assert "".join(seen + hidden) == text.replace(" ", "")
    assert len("".join(seen)) < 1_000


def test_what_is_trained_on_in_part_is_not_torn():
    ids = Letters.encode("def main")
    page = pack_html(tp.collate([tp.MessageTree(ids, labels=ids)]), tokenizer=Letters)
    assert "d<b>ef main</b>" in page


class Stripping(Letters):
    """A tokenizer that leaves out the space with which a text begins."""

    @staticmethod
    def decode(ids):
        return Letters.decode(ids).lstrip(" ")


def test_pieces_stay_apart_where_a_tokenizer_leaves_out_spaces():
    root = tp.MessageTree([65], children=[branch("what?", " a cat")])
    assert "what? <b>a cat </b>" in pack_html(tp.collate([root]), tokenizer=Stripping)


def many(n, key="key"):
    trees = [tree(f"{key} {i}", *[("q? ", "ab")] * (6 + i % 2)) for i in range(n)]
    return tp.collate(trees, bidirectional="image_tokens")


def test_many_examples_have_a_small_page_and_no_slivers():
    row = many(400)
    assert row["treepack"].mask.n_nodes == 3_000
    assert len(pack_html(row, tokenizer=Letters)) < 550_000
    images = dict.fromkeys([f"key {i}" for i in range(400)], Image.new("RGB", (160, 120)))
    page = Page(pack_html(row, images=images))
    assert len(page.all("image")) == len(page.all("use")) == 400
    assert max(int(image["width"]) for image in page.all("image")) <= 112
    assert not page.all("figure")


def test_one_more_is_not_folded():
    for n in range(MOST_BRANCHES - 1, MOST_BRANCHES + 4):
        row = tp.collate([tree("a", *[(f"{i}? ", "y") for i in range(n)])])
        hidden = folded(Page(pack_html(row, tokenizer=Letters)), "p")[1]
        assert hidden == (0 if n <= MOST_BRANCHES + 1 else n - MOST_BRANCHES)


def test_pictures_are_upright_and_what_is_transparent_is_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 320), "red").save(tmp_path / "turned.jpg", exif=exif)
    images = {"turned": tmp_path / "turned.jpg", "clear": Image.new("RGBA", (40, 40))}
    row = tp.collate([tree(key, ("q? ", "a")) for key in images])
    turned, clear = Page(pack_html(row, images=images)).all("image")
    assert (turned["width"], turned["height"]) == ("120", "240")
    with Image.open(io.BytesIO(b64decode(clear["href"].split(",")[1]))) as image:
        assert image.getpixel((20, 20)) == (255, 255, 255)


def test_pictures_stand_over_wide_examples_and_in_all_cards():
    wide, narrow = tree("wide", ("q? ", "a" * 2_000)), tree("narrow", ("q? ", "a"))
    images = {name: Image.new("RGB", (640, 480)) for name in ("wide", "narrow")}
    page = Page(pack_html(tp.collate([wide, narrow]), images=images))
    assert page.texts["figcaption"] == ["wide"]
    assert [use["href"] for use in page.all("use")] == ["#t0", "#t0", "#t1"]
    widths = [int(image["width"]) for image in page.all("image")]
    assert widths == [240, 112]


@pytest.mark.parametrize("what", ["batch", "row", "mask"])
def test_a_row_of_text_says_nothing_of_images(what):
    texts = [Letters.encode(SPACES * 3), Letters.encode(" " * 100)]
    trees = [tp.MessageTree(text, children=[branch(SPACES, SPACES)]) for text in texts]
    batch = tp.collate(trees, total=900)
    row = {"batch": batch, "row": batch["treepack"], "mask": batch["treepack"].mask}[what]
    page = pack_html(row, tokenizer=Letters)
    assert "image tokens" not in page
    assert " of them" not in page
    assert 'class="strong" x' not in page


class Named(Letters):
    """A tokenizer that says what stands for an image."""

    image_token_id = 1


@pytest.mark.parametrize("mode", [*MODES, "prefix"])
@pytest.mark.parametrize("tokenizer", [None, Letters, Named])
def test_repeated_text_beside_images_is_text(mode, tokenizer):
    trees = [tree("a", ("q " + SPACES, "r"), text=SPACES, image=50), tree("b", image=0)]
    row = tp.collate(trees, bidirectional=mode)
    expected = np.zeros(row["treepack"].mask.total, bool)
    expected[:50] = True
    found = Contents(row, tokenizer)
    np.testing.assert_array_equal(found.media > 0, expected)
    is_told = mode in MODES[1:] or tokenizer is Named
    assert found.is_guess != is_told
    assert ("guessed" in pack_html(row, tokenizer=tokenizer)) != is_told


def test_types_of_tokens_count_more_than_anything_else():
    trees = [tree("a", ("q ", "r"), text="x" * 9, image=8)]
    row = tp.collate(trees)
    types = np.zeros(row["treepack"].mask.total, int)
    types[2:5], types[5:8] = 2, 1
    page = pack_html({**row, "mm_token_type_ids": types[None]}, tokenizer=Letters)
    assert "image and video tokens" in page
    assert "3 of them image, 3 of them video" in page
    assert "guessed" not in page


def test_a_guess_of_videos_says_videos_and_special_tokens_count_alone():
    root = [1] * 9 + Letters.encode(" " * 99)
    row = tp.collate([tp.MessageTree(root, media={"pixel_values_videos": np.ones((1, 3))})])

    class Special(Letters):
        added_tokens_decoder = {1: "<image>"}  # noqa: RUF012

    assert "9 of them video" in pack_html(row, tokenizer=Special)
    row = tp.collate([tp.MessageTree(root[9:], media={"pixel_values": np.ones((1, 3))})])
    assert "of them" not in pack_html(row, tokenizer=Special)


def test_a_prompt_that_sees_ahead_is_no_image():
    root = tp.MessageTree(Letters.encode("a prompt"), children=[branch("", "answer")])
    page = pack_html(tp.collate([root], bidirectional="prefix"), tokenizer=Letters)
    assert "tokens of a prompt that look ahead" in page
    assert "image tokens" not in page


def test_roles_and_responses_are_told():
    children = [branch("", "yes", role="chosen"), branch("", "no", response_id="<7>")]
    children.append(branch("", "so", response_id=45))
    page = Page(pack_html(tp.collate([tp.MessageTree([65], children=children)]), tokenizer=Letters))
    assert {"chosen", "<7>"} <= set(page.texts["span"])
    # Branches are numbered by themselves.
    assert "45" not in page.texts["span"]


@pytest.mark.parametrize(
    ("filled", "text"), [(997, "99.7% full"), (2, "0.2% full"), (0, "0% full")]
)
def test_budgets_are_full_only_if_they_are(filled, text):
    trees = [tp.MessageTree([1, 2], costs={"crops": filled})]
    row = tp.collate(trees, budgets={"tokens": 2, "crops": 1_000})
    spans = Page(pack_html(row)).texts["span"]
    assert {"100% full", text} <= set(spans)
