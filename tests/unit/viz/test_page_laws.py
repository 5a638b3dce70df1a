"""What holds for both pages: by themselves, readable, safe, and true in every colour."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from itertools import pairwise

import numpy as np
import pytest
import treepack as tp
from helpers.pages.reading import Letters, Page, branch, tree
from helpers.random_masks import random_forest
from PIL import Image
from treepack.packing import mixture_sft
from treepack.viz import pack_html
from treepack.viz.simulation import simulation_html

EVIL = (
    "<script>alert(1)</script>",
    "</p></article></details>&amp;\"'",
    "画像/東京.png",
    "صورة\u202e",
    "👩‍👩‍👧 🐈",
    "\x00\x07\x1b[31m\x85\x7f\ud800",
    "x" * 400,
)


def row_of(trees, **options):
    return tp.collate(trees, bidirectional="image_tokens", budgets={"tokens": 9_000}, **options)


def evil_row():
    return row_of([tree(text, (text, text)) for text in EVIL], total=5_000)


def packs():
    nested = tp.MessageTree(Letters.encode("a"), children=[branch("b", "c"), branch("d", "e")])
    root = tp.MessageTree(Letters.encode("root"), children=[nested, nested], key="deep")
    picture = Image.new("L", (9, 7))
    text = tp.collate([tp.MessageTree(Letters.encode("plain " * 300))], total=2_000)
    return {
        "evil": pack_html(evil_row(), tokenizer=Letters, images={EVIL[0]: picture}, title=EVIL[0]),
        "nested": pack_html(tp.collate([root, tree("b", ("c", "d"))]), tokenizer=Letters),
        "text": pack_html(text, tokenizer=Letters),
        "bare": pack_html(tp.TreeMask.from_nodes([6, 4, 3, 9], [-1, 0, 0, -1])),
        "many": pack_html(row_of([tree(f"key {i}", ("q", "a")) for i in range(60)])),
    }


SETS = [{"tokens": tokens} for tokens in range(900, 2_000, 100)]
LENGTHS = {"tokens": np.random.default_rng(0).integers(20, 900, 400).tolist()}
SIMULATIONS = {
    "sft": tp.simulate(mixture_sft.generate("sft", 500), mixture_sft.BUDGETS, pool_sizes=[8, 48]),
    "sets": tp.simulate(LENGTHS, SETS, pool_sizes=[8, 16]),
}
PACKS = packs()
SOURCES = PACKS | {name: simulation_html(found, EVIL[1]) for name, found in SIMULATIONS.items()}
PAGES = {name: Page(source) for name, source in SOURCES.items()}
every_page = pytest.mark.parametrize("name", PAGES)


@every_page
def test_a_page_asks_for_nothing_outside_and_runs_nothing(name):
    page = PAGES[name]
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not any(attribute.startswith("on") for attribute in attrs), tag
        for attribute in ("src", "href", "srcset"):
            assert attrs.get(attribute, "#").startswith(("data:image/", "#"))
    assert "url(" not in page.texts["style"][0]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for attrs in page.all("use")} <= ids


@every_page
def test_a_page_can_be_read_aloud(name):
    page = PAGES[name]
    assert page.all("html") == [{"lang": "en"}]
    assert {"width=device-width, initial-scale=1"} <= {m.get("content") for m in page.all("meta")}
    assert len(page.texts["h1"]) == 1
    assert page.texts["title"][0] == page.texts["h1"][0] != ""
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert all(image["alt"] for image in page.all("img"))
    assert all(head["scope"] == "col" for head in page.all("th"))


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    low = channels <= 0.04045
    linear = np.where(low, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@every_page
def test_texts_and_strong_colours_stand_out_on_light_and_dark(name):
    light, dark = PAGES[name].themes
    assert light.keys() == dark.keys()
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.02
    for theme in (light, dark):
        words = [colour for each, colour in theme.items() if each.endswith("-word")]
        strong = [colour for each, colour in theme.items() if each.endswith("-strong")]
        assert len(words) == len(strong) == 8
        for paper in (theme["paper"], theme["card"]):
            assert min(contrast(theme[text], paper) for text in ("ink", "quiet")) >= 4.5
            assert min(contrast(colour, paper) for colour in [*strong, theme["fill"]]) >= 3
        assert min(contrast(colour, theme["paper"]) for colour in words) >= 4.5
    assert "color-scheme: light dark" in PAGES[name].texts["style"][0]


@every_page
def test_every_colour_is_one_of_the_page(name):
    page = PAGES[name]
    style, known = page.texts["style"][0], page.themes[0]
    outside = re.sub(r":root \{[^}]*\}", "", style)
    assert not re.findall(r"#[0-9a-f]{3,6}\b", outside)
    named = {f"h{n}-{s}" for n in range(8) for s in ("strong", "middle", "soft", "faint", "word")}
    assert named <= known.keys()
    used = set(re.findall(r"var\(--([\w-]+)\)", style))
    assert used <= known.keys() | {"strong", "middle", "soft", "faint", "word"}
    assert not any(key in attrs for _, attrs in page.tags for key in ("fill", "stroke", "bgcolor"))


def shades(page, tag, around):
    """Hues and shades of the elements inside of one with a class."""
    found = set()
    for attrs, outer in page.inside(tag, "class", around):
        classes = " ".join([*(each.get("class", "") for _, each in outer), attrs.get("class", "")])
        hue = [name for name in classes.split() if re.fullmatch(r"h\d", name)]
        shade = attrs["class"].split()[-1] if attrs.get("class") else ""
        found.add((hue[-1] if hue and shade != "padding" else "", shade))
    return found


def legends(page):
    """Of each legend the swatches, and of all the meanings."""
    places = [i for i, (tag, a) in enumerate(page.tags) if tag == "ul" and a["class"] == "legend"]
    for place in places:
        swatches = set()
        for (tag, attrs), outer in list(zip(page.tags, page.around, strict=True))[place + 1 :]:
            if ("ul", {"class": "legend"}) not in outer:
                break
            if tag == "i":
                names = attrs["class"].split()
                hue = names[0] if re.fullmatch(r"h\d", names[0]) else ""
                swatches.add((hue, names[-1] if names[-1] != "again" else names[-2]))
        yield swatches


def pictures(page):
    """The mask on light and on dark screens, as colours."""
    for attrs, name in ((page.all("img")[0], "src"), (page.all("source")[0], "srcset")):
        with Image.open(io.BytesIO(b64decode(attrs[name].split(",")[1]))) as image:
            yield {"#{:02x}{:02x}{:02x}".format(*c) for _, c in image.convert("RGB").getcolors()}


@pytest.mark.parametrize("name", PACKS)
def test_legends_show_what_is_drawn_in_the_colours_in_which_it_is(name):
    page = PAGES[name]
    row, mask = legends(page)
    drawn = shades(page, "rect", "trees")
    assert row <= drawn
    assert {shade for _, shade in row} == {shade for _, shade in drawn}
    for theme, colours in zip(page.themes, pictures(page), strict=True):
        assert {theme[f"{hue}-{shade}"] for hue, shade in mask} <= colours
        named = {c: n.split("-")[1] for n, c in theme.items() if re.match(r"h\d", n)}
        seen = {c for c in colours if c != theme["card"]}
        kinds = {shade for _, shade in mask}
        assert {named[colour] for colour in seen} <= kinds | {"word"}


@pytest.mark.parametrize("name", SIMULATIONS)
def test_every_line_of_a_chart_has_a_look_of_its_own(name):
    page = PAGES[name]
    found = 0
    for svg in re.findall(r"<svg.*?</svg>(?:<ul.*?</ul>)?", SOURCES[name], re.DOTALL):
        looks = re.findall(r'<polyline [^>]*class="([^"]*)"', svg)
        assert len(set(looks)) == len(looks)
        keys = re.findall(r'<i class="([^"]*)">', svg)
        assert [k.replace("strong", "line") for k in keys] == looks * (len(looks) > 1)
        found += len(looks)
    assert found >= len(list(page.all("svg"))) - 3


@pytest.mark.parametrize("name", ["bare", "text", "nested"])
def test_only_kinds_that_occur_are_explained(name):
    told = PAGES[name].texts["ul"][0]
    assert ("padding" in told) == (name == "text")
    assert ("reach" in told) == (name != "text")
    assert ("image" in told) == (name == "nested")


def test_what_people_write_stays_text():
    page = PAGES["evil"]
    names = page.texts["bdi"]
    assert names[:5] == list(EVIL[:5])
    assert names[6] == EVIL[6]
    assert page.texts["h1"] == [EVIL[0]]
    said = " ".join(page.texts["p"])
    assert all(text in said for text in EVIL[:5])
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", SOURCES["evil"])
    assert names[5] == "␀␇␛[31m\ufffd␡\ufffd"


def test_narrow_screens_get_the_same_row_with_readable_numbers():
    for name in PACKS:
        page = PAGES[name]
        trees = [svg for svg in page.all("svg") if svg.get("class") == "trees"]
        assert [svg["preserveaspectratio"] for svg in trees] == ["none"]
        assert "text" not in page.texts
        marks = page.inside("span", "class", "axis")
        assert 1 <= len(marks) <= 17
        assert all(0 <= float(m["style"].split(":")[1][:-1]) <= 100 for m, _ in marks)


@pytest.mark.parametrize("seed", range(12))
def test_the_lanes_hold_every_token_of_every_node(seed):
    rng = np.random.default_rng(seed)
    lengths, parents = random_forest(rng, most_nodes=30)[:2]
    # Beside a long node the others are too narrow to be drawn one by one.
    lengths[0] += int(rng.choice([0, 3_000, 30_000]))
    mask = tp.TreeMask.from_nodes(lengths + 1, parents)
    page = Page(pack_html(mask))
    bars = [attrs for attrs, _ in page.inside("rect", "class", "trees")]
    tops = sorted({float(bar["y"]) for bar in bars})
    scale = 1176 / mask.total
    for start, end, depth in zip(mask.node_start, mask.node_end, mask.node_depth, strict=True):
        lane = [bar for bar in bars if float(bar["y"]) == tops[depth] and bar["class"] == "middle"]
        assert any(
            float(bar["x"]) <= start * scale + 0.01
            and (end * scale) - float(bar["x"]) - float(bar["width"]) < 0.9
            for bar in lane
        )


def test_a_table_tells_its_columns_where_it_is_narrow():
    for name, found in SIMULATIONS.items():
        page = PAGES[name]
        heads = set(page.texts["th"])
        assert {cell["data-name"].replace(" ", "") for cell in page.all("td")} == heads
        assert len(page.texts["table"]) == 2 * len({str(o.budgets) for o in found.outcomes}) + bool(
            found.frontier
        )
