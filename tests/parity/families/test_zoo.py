"""Every family on its real processor and a tiny model: a row gives each path what it has alone."""

import copy
import functools
import pickle

import numpy as np
import PIL.Image
import pytest
import treepack as tp
from helpers import zoo
from helpers.cases import cases
from helpers.tiny_models import photo
from helpers.unrounded import unrounded
from helpers.zoo.examples import image, rows, said, text_tree, video
from treepack import families
from treepack.measuring.shapes import shape_of_outline, shape_of_tree
from treepack.sources.images import load_rgb

# The processors of GLM and PaliGemma make arrays of lists of tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Some processors take a first axis of 1 or 3 for channels.
EXTREME = [(1, 300), (300, 1), (500, 3), (3, 500), (7, 7), (1, 1)]

ROWS = [(name, kind) for name in zoo.BUILDERS for kind, _ in rows(name)]


@functools.cache
def make(name):
    processor, model = zoo.build(name)
    return families.find(processor), model


@pytest.fixture(autouse=True)
def _unrounded(request):
    make(request.getfixturevalue("name"))
    with unrounded():
        yield


@pytest.mark.parametrize(("name", "kind"), ROWS)
def test_every_path_gets_what_it_gets_alone(name, kind):
    family, model = make(name)
    report = tp.testing.check_exact(model, family, dict(rows(name))[kind])
    assert report.logits < 1e-12
    assert report.loss < 1e-12
    assert report.gradients < 1e-11


@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_also_with_gradient_checkpointing(name):
    family, model = make(name)
    model = copy.deepcopy(model)
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    found = dict(rows(name))
    report = tp.testing.check_exact(model, family, found.get("mixed", found["images"]))
    assert report.logits < 1e-12
    assert report.gradients < 1e-11


@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_branches_targets_and_pairs_are_measured_without_loading(name):
    family, _ = make(name)
    for example in (example for _, examples in rows(name) for example in examples):
        outline, tree = family.outline(example), family.load(example)
        row = tp.collate([tree], bidirectional=family.bidirectional)["treepack"]
        found = shape_of_outline(outline, family.bidirectional)
        stats = row.stats["branches"], row.stats["targets"], row.mask.area
        assert found == stats == shape_of_tree(tree, family.bidirectional)
        assert outline.costs == tree.cost


def cost(call, example):
    """What an example costs, or that it is rejected by its name."""
    try:
        found = call(example)
    except tp.errors.DataError as error:
        return "rejected" if repr(example.key) in str(error) else str(error)
    return getattr(found, "cost", found)


@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_what_is_measured_is_what_is_loaded(name):
    family, _ = make(name)
    for rng in cases(12, f"measured is loaded, {name}"):
        media = [image(int(rng.integers(99)), *rng.integers(12, 120, 2).tolist())]
        example = tp.Conversations(
            said(name)[: rng.integers(1, 4)], media, texts=["See: "], key="k"
        )
        measured = family.measure(example)
        assert tuple(measured) == family.costs
        assert family.load(example).cost == measured


@pytest.mark.parametrize("name", sorted(zoo.WITH_VIDEOS))
def test_what_is_measured_of_a_video_is_what_is_loaded(name):
    family, _ = make(name)
    for rng in cases(6, f"a measured video is loaded, {name}"):
        frames, *size = rng.integers([12, 12, 12], [20, 120, 120]).tolist()
        media = [video(int(rng.integers(99)), frames, *size)]
        example = tp.Conversations(
            said(name)[: rng.integers(1, 4)], media, texts=["See: "], key="k"
        )
        measured = family.measure(example)
        assert tuple(measured) == family.costs
        assert family.load(example).cost == measured


@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_measuring_rejects_what_loading_rejects(name):
    family, _ = make(name)
    taken = []
    for size in EXTREME:
        media = [image(1, *size)], [video(1, 14, *size)]
        for each in media[: 1 + (name in zoo.WITH_VIDEOS)]:
            example = tp.Conversations(said(name), each, key="extreme")
            measured = cost(family.measure, example)
            assert measured == "rejected" or tuple(measured) == family.costs
            assert cost(family.load, example) == measured, size
            taken.append(measured != "rejected")
    assert any(taken)


@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_a_family_can_be_sent_to_a_worker(name):
    family, _ = make(name)
    example = tp.Conversations(said(name), [image(1, 40, 60)], key="k")
    copied = pickle.loads(pickle.dumps(family)).load(example)
    assert np.array_equal(copied.tokens, family.load(example).tokens)


@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_a_row_without_images_can_run_the_tower(name):
    family, model = make(name)
    if not family.media_names:
        return
    fill = tuple(family.media_names)
    tree = text_tree(family)
    total = tree.n_tokens + family.fill_cost(fill)["tokens"] + 2
    plain = tp.collate([tree], family=family, total=total)
    filled = tp.collate([tree], family=family, total=total, vision_on_every_row=fill)
    packed = tp.hf.prepare(model)
    try:
        losses = [packed(**row.to("cpu", dtype=model.dtype)).loss for row in (plain, filled)]
        losses[1].backward()
        reached = [p.grad for n, p in model.named_parameters() if "vis" in n]
    finally:
        tp.hf.restore(model)
    assert losses[0].item() == losses[1].item()
    assert any(grad is not None for grad in reached)
    assert all(grad is None or not grad.any() for grad in reached)
    model.zero_grad()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("name", zoo.BUILDERS)
def test_pictures_of_any_mode_are_seen_in_colour(name, mode):
    family, _ = make(name)
    picture = PIL.Image.fromarray(photo(1, 70, 50)).convert(mode)
    plain = PIL.Image.fromarray(load_rgb(picture, "k"))
    examples = [
        tp.Conversations(said(name), [("image", each)], key="k") for each in (picture, plain)
    ]
    mine, theirs = (family.load(example).media for example in examples)
    assert family.measure(examples[0]) == family.load(examples[0]).cost
    for key in theirs:
        assert np.allclose(mine[key], theirs[key], atol=0.02)
