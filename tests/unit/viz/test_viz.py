"""Does a picture show the row that it is a picture of?"""

import io
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from helpers.pages.reading import Letters, Page, tree
from helpers.random_masks import random_forest
from PIL import Image
from treepack.errors import BatchError
from treepack.viz import PALETTE, mask_picture, pack_html, png, save_pack
from treepack.viz.colours import HUES
from treepack.viz.picture import DARK_PALETTE, node_of


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
        for palette in (PALETTE, DARK_PALETTE):
            with Image.open(io.BytesIO(png(indices, palette))) as image:
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[indices])


def test_exactly_the_answers_are_marked_as_trained(batch):
    page = Page(pack_html(batch, tokenizer=Letters))
    trained = [text for text in page.texts["b"] if text in ("a cat", "grey", "d")]
    assert trained == ["a cat", "grey", "d"]
    assert [text for text in page.texts["p"] if "?" in text] == [
        "what? a cat",
        "colour? grey",
        "c? d",
    ]


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
    assert [each["href"][:15] for each in page.all("image")] == ["data:image/jpeg"] * 2
    assert picture.size == (500, 300)


def test_saving_writes_the_same_page(batch, tmp_path):
    path = save_pack(batch, tmp_path / "row.html", tokenizer=Letters)
    assert path.read_text(encoding="utf-8") == pack_html(batch, tokenizer=Letters)


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
    assert '<p dir="auto" style="margin-left:1em"><b>yes</b></p>' in page
    assert page.count("<b>yes</b>") == 2
    assert '<p dir="auto">is it</p>' in page


def test_nothing_is_left_to_tell_of_branches_without_texts():
    row = tp.collate([tree("a", *[(f"{i}? ", "y") for i in range(40)])])
    assert " more" not in pack_html(row)


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
