"""What the data says about one image or video: honoured, or rejected by name."""

import copy
import io

import av
import numpy as np
import PIL.Image
import pytest
from helpers import cases
from helpers.tiny_models import (
    FAMILIES,
    PLACEHOLDERS,
    film,
    find,
    media,
    molmo2_processor,
    photo,
    qwen3_vl_processor,
    write_video,
)
from treepack import errors, families
from treepack.sources.conversations import Conversations

OPENING = {"molmo2": "", "qwen3_vl": "<|im_start|>user\n"}


def shown(kind, value, **options):
    return Conversations([[("?", "!")]], [(kind, value, options)], key="k")


def pixels(tree):
    return next(iter(tree.media.values()))


def loaded(family, sample):
    """The tree, which costs what was measured."""
    tree = family.load(sample)
    assert tree.cost == family.measure(sample)
    return tree


def processed(family, frames, **settings):
    """Token ids and pixels that the processor makes of a video."""
    text = OPENING[family.name] + PLACEHOLDERS[family.name]["video"]
    made = family.processor(text=text, videos=[frames], return_tensors="pt", **settings)
    return made["input_ids"][0].tolist(), made["pixel_values_videos"].numpy()


def same(tree, made):
    return tree.tokens.tolist() == made[0] and np.array_equal(pixels(tree), made[1])


def decoded(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


# --- pixels


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"max_pixels": 512}, (256, 512)),
        ({"max_pixels": 128}, (128, 128)),
        ({"min_pixels": 768}, (768, 1024)),
        ({"min_pixels": 2048}, (2048, 2048)),
        ({"min_pixels": 4096, "max_pixels": 8192.0}, (4096, 8192)),
    ],
)
def test_bounds_of_an_image_are_those_that_the_processor_keeps_to(options, size):
    family = find("qwen3_vl")
    for rng in cases.cases(5, "bounds of an image"):
        image = photo(1, *rng.integers(8, 120, 2))
        tree = loaded(family, shown("image", image, **options))
        bounds = {"shortest_edge": size[0], "longest_edge": size[1]}
        made = family.processor.image_processor([image], size=bounds, return_tensors="np")
        assert np.array_equal(pixels(tree), made["pixel_values"])
        assert tree.media["image_grid_thw"].tolist() == made["image_grid_thw"].tolist()


def test_bounds_of_a_video_are_for_each_of_its_frames():
    family = find("qwen3_vl")
    video = film(1, 6, 48, 64)
    for options, size in (
        ({"max_pixels": 256}, (256, 4 * 256)),
        ({"max_pixels": 64}, (4 * 64, 4 * 64)),
        ({"max_pixels": 10**6}, (256, 2304)),
        ({"min_pixels": 2048}, (4 * 2048, 4 * 2048)),
        ({"min_pixels": 256, "max_pixels": 512}, (4 * 256, 4 * 512)),
    ):
        tree = loaded(family, shown("video", video, **options))
        bounds = {"shortest_edge": size[0], "longest_edge": size[1]}
        assert same(tree, processed(family, video, size=bounds)), options


@pytest.mark.parametrize("most", [64, 256, 400])
def test_bounds_hold_where_the_processor_caps_frames(most):
    processor = copy.deepcopy(qwen3_vl_processor())
    processor.video_processor.cap_pixels_per_frame = True
    family = families.find(processor)
    tree = loaded(family, shown("video", film(1, 6, 48, 64), max_pixels=most))
    _, height, width = tree.media["video_grid_thw"][0].tolist()
    assert height * width * 16 <= most
    with pytest.raises(errors.DataError, match="keeps to no min_pixels"):
        family.measure(shown("video", film(1), min_pixels=400))


def test_crops_of_an_image_of_molmo2():
    family = find("molmo2")
    image = photo(1, 100, 200)
    costs = {}
    for crops in (1, 2, 6):
        tree = loaded(family, shown("image", image, max_crops=crops))
        made = family.processor.image_processor([image], max_crops=crops, return_tensors="np")
        assert np.array_equal(pixels(tree), made["pixel_values"])
        costs[crops] = tree.costs["crops"]
    assert costs[1] == 2 < costs[2] < costs[6]


# --- settings of the processor, changed after the family was made


@pytest.mark.parametrize(
    "settings",
    [
        {"max_pixels": 512},
        {"min_pixels": 2048, "max_pixels": 4096},
        {"size": {"shortest_edge": 512, "longest_edge": 512}},
        {"merge_size": 1},
        {"do_resize": False},
    ],
)
@pytest.mark.filterwarnings("ignore:Passing `min_pixels`:FutureWarning")
def test_settings_of_qwens_image_processor_are_measured_as_set(settings):
    family = families.find(copy.deepcopy(qwen3_vl_processor()))
    for name, value in settings.items():
        setattr(family.processor.image_processor, name, value)
    image = photo(1, 96, 64)
    made = family.processor.image_processor([image], return_tensors="np")
    tree = loaded(family, media(image))
    assert np.array_equal(pixels(tree), made["pixel_values"])
    assert len(tree.tokens) > tree.costs["patches"] // 4


@pytest.mark.parametrize(
    "settings", [{"do_resize": False}, {"fps": 8}, {"max_frames": 4, "fps": 24}, {"size": None}]
)
def test_settings_of_qwens_video_processor_are_measured_as_set(settings):
    family = families.find(copy.deepcopy(qwen3_vl_processor()))
    for name, value in settings.items():
        bounds = {"shortest_edge": 64, "longest_edge": 1024}
        setattr(
            family.processor.video_processor, name, value or bounds if name == "size" else value
        )
    video = film(1, 12, 32, 48)
    assert same(loaded(family, media(video)), processed(family, video))


def test_an_image_that_cannot_stay_at_its_size_is_rejected():
    processor = copy.deepcopy(qwen3_vl_processor())
    processor.image_processor.do_resize = processor.video_processor.do_resize = False
    family = families.find(processor)
    for sample in (media(photo(1, 90, 64)), media(film(1, 6, 90, 64))):
        for step in (family.measure, family.load):
            with pytest.raises(errors.DataError, match="multiples of 8"):
                step(sample)
    with pytest.raises(errors.DataError, match="switched off"):
        family.measure(shown("image", photo(1, 96, 64), max_pixels=64))


def test_settings_of_molmo2s_processor_are_measured_as_set():
    family = families.find(copy.deepcopy(molmo2_processor()))
    processor = family.processor
    processor.use_single_crop_col_tokens = processor.use_single_crop_start_token = False
    processor.use_frame_special_tokens = processor.image_use_col_tokens = False
    processor.image_processor.max_crops = processor.video_processor.num_frames = 2
    for kind, value in (("image", photo(1)), ("video", film(1))):
        made = processor(text=PLACEHOLDERS["molmo2"][kind], **{f"{kind}s": [value]})
        assert loaded(family, media(value)).tokens.tolist() == made["input_ids"][0]


# --- clips


def test_a_clip_of_a_film_keeps_the_times_of_the_film(tmp_path):
    family = find("qwen3_vl")
    path = write_video(tmp_path / "v.mp4", film(1, 20, 32, 48), fps=5)
    tree = loaded(family, shown("video", str(path), start=1, end=3))
    text = family.processor.tokenizer.decode(tree.tokens)
    assert [f"<{t} seconds>" in text for t in ("1.3", "2.7")] == [True, True]
    # The clip has frames 5 to 15, and 4 of its 11 frames make 2 a second.
    chosen = [5, 8, 12, 15]
    known = {"total_num_frames": 20, "fps": 5.0, "frames_indices": chosen}
    settings = {"video_metadata": [known], "do_sample_frames": False}
    assert same(tree, processed(family, decoded(path)[chosen], **settings))


def test_times_of_a_clip_count_from_its_start_where_the_model_learnt_them_so(tmp_path):
    family = find("molmo2")
    path = write_video(tmp_path / "v.mp4", film(1, 20, 32, 48), fps=5)
    tree = loaded(family, shown("video", str(path), start=1, end=3))
    known = {"total_num_frames": 11, "fps": 5.0, "duration": 2.2}
    assert same(tree, processed(family, decoded(path)[5:16], video_metadata=[known]))
    assert family.processor.tokenizer.decode(tree.tokens).startswith("<|im_end|>0.0 <frame_start>")


@FAMILIES
def test_clips_of_a_film_hold_no_frame_outside(name, tmp_path):
    family = find(name)
    frames = np.stack([np.full((32, 48, 3), 12 * i, np.uint8) for i in range(20)])
    path = str(write_video(tmp_path / "v.mp4", frames, fps=10))
    whole = loaded(family, shown("video", path))
    assert loaded(family, shown("video", path, start=0, end=9)).tokens.tolist() == (
        whole.tokens.tolist()
    )
    for rng in cases.cases(20, f"clips, {name}"):
        start, end = np.sort(rng.integers(0, 20, 2)) / 10
        if end - start < 0.1:
            continue
        tree = loaded(family, shown("video", path, start=start, end=end))
        values = pixels(tree)
        # Molmo2's video processor leaves pixels as they are.
        numbers = (values if values.dtype == np.uint8 else (values * 0.5 + 0.5) * 255) / 12
        assert numbers.min() > start * 10 - 0.6
        assert numbers.max() < end * 10 + 0.6


@FAMILIES
def test_a_clip_without_a_frame_is_rejected(name, tmp_path):
    family = find(name)
    path = str(write_video(tmp_path / "v.mp4", film(1, 10), fps=10))
    for options, message in (
        ({"start": 5}, "lasts 1.0 seconds"),
        ({"start": 0.41, "end": 0.49}, "no frame between"),
        ({"start": 0.8, "end": 0.2}, "'start' is 0.8, more than 'end'"),
    ):
        with pytest.raises(errors.DataError, match=rf"example 'k'.*{message}"):
            family.measure(shown("video", path, **options))
    with pytest.raises(errors.DataError, match="nothing says the rate"):
        family.measure(shown("video", film(1), end=1))


@FAMILIES
@pytest.mark.parametrize("options", [{"fps": 1}, {"fps": 8.0}, {"num_frames": 4}])
def test_how_many_frames_are_seen(name, options, tmp_path):
    processor = copy.deepcopy({"molmo2": molmo2_processor, "qwen3_vl": qwen3_vl_processor}[name]())
    processor.video_processor.max_fps = None
    family = families.find(processor)
    path = write_video(tmp_path / "v.mp4", film(1, 20, 32, 48), fps=10)
    known = {"total_num_frames": 20, "fps": 10.0, "duration": 2.0}
    none = {"fps": None, "num_frames": None}
    made = processed(family, decoded(path), video_metadata=[known], **{**none, **options})
    assert same(loaded(family, shown("video", str(path), **options)), made)


@FAMILIES
def test_no_more_frames_are_seen_than_there_are(name):
    tree = loaded(find(name), shown("video", film(1, 4), num_frames=50))
    assert tree.cost == loaded(find(name), shown("video", film(1, 4), num_frames=4)).cost


# --- what cannot be honoured


@FAMILIES
@pytest.mark.parametrize("kind", ["image", "video"])
def test_an_unknown_option_is_rejected_by_name(name, kind):
    family = find(name)
    value = photo(1) if kind == "image" else film(1)
    for option in ("resized_height", "detail", "x" * 5000):
        for step in (family.measure, family.load):
            with pytest.raises(errors.DataError) as caught:
                step(shown(kind, value, **{option: 1}))
            message = str(caught.value)
            assert f"example 'k': {kind} has the option '{option[:20]}" in message
            assert f"family '{name}' cannot honour; it takes" in message
            assert len(message) < 500
    assert family.measure(shown(kind, value, detail=None)) == family.measure(shown(kind, value))


def test_an_option_of_the_other_family_is_rejected_by_name():
    with pytest.raises(errors.DataError, match=r"option 'max_pixels', which family 'molmo2'"):
        find("molmo2").measure(shown("image", photo(1), max_pixels=256))
    with pytest.raises(errors.DataError, match=r"option 'max_crops', which family 'qwen3_vl'"):
        find("qwen3_vl").measure(shown("image", photo(1), max_crops=2))
    with pytest.raises(errors.DataError, match=r"option 'start', which family"):
        find("qwen3_vl").measure(shown("image", photo(1), start=2))


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), "256", True, [256]])
def test_a_value_that_makes_no_sense_is_rejected(value):
    with pytest.raises(errors.DataError, match=r"'max_pixels' must be a whole number above 0, got"):
        find("qwen3_vl").measure(shown("image", photo(1), max_pixels=value))
    with pytest.raises(errors.DataError, match="'min_pixels' is 512, more than 'max_pixels', 64"):
        find("qwen3_vl").measure(shown("image", photo(1), max_pixels=64, min_pixels=512))


# --- values


@FAMILIES
def test_bytes_of_a_file_are_read_like_the_file(name, tmp_path):
    family = find(name)
    PIL.Image.fromarray(photo(1)).save(tmp_path / "i.png")
    write_video(tmp_path / "v.mp4", film(1, 17, 32, 48), fps=5)
    for kind, path in (("image", tmp_path / "i.png"), ("video", tmp_path / "v.mp4")):
        theirs = family.load(shown(kind, str(path)))
        for value in (path, path.read_bytes(), memoryview(path.read_bytes())):
            mine = loaded(family, shown(kind, value))
            assert mine.tokens.tolist() == theirs.tokens.tolist()
            assert np.array_equal(pixels(mine), pixels(theirs))


@FAMILIES
def test_a_list_of_frames_is_a_video_of_which_all_are_seen(name, tmp_path):
    family = find(name)
    frames = film(1, 7, 32, 48)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path, frame in zip(paths, frames, strict=True):
        PIL.Image.fromarray(frame).save(path)
    known = {"total_num_frames": 7, "fps": 2.0, "frames_indices": list(range(7))}
    made = processed(family, frames, video_metadata=[known], do_sample_frames=False)
    for value in (
        [str(path) for path in paths],
        tuple(paths),
        [path.read_bytes() for path in paths],
        list(frames),
        [PIL.Image.fromarray(frame) for frame in frames],
    ):
        assert same(loaded(family, shown("video", value)), made)


@FAMILIES
def test_the_rate_of_listed_frames_and_a_clip_of_them(name):
    family = find(name)
    frames = film(1, 9, 32, 48)
    known = {"total_num_frames": 9, "fps": 4.0, "frames_indices": list(range(9))}
    made = processed(family, frames, video_metadata=[known], do_sample_frames=False)
    assert same(loaded(family, shown("video", list(frames), fps=4)), made)
    chosen = list(range(2, 7))
    times = [i - 2 * family.clip_counts_from_zero for i in chosen]
    known = {"total_num_frames": 9, "fps": 4.0, "frames_indices": times}
    made = processed(family, frames[chosen], video_metadata=[known], do_sample_frames=False)
    assert same(loaded(family, shown("video", list(frames), fps=4, start=0.5, end=1.5)), made)
    with pytest.raises(errors.DataError, match="option 'num_frames'"):
        family.measure(shown("video", list(frames), num_frames=2))


@FAMILIES
@pytest.mark.parametrize("frames", [[], [photo(1, 32, 48), photo(1, 32, 40)]])
def test_listed_frames_must_be_of_one_size(name, frames):
    family = find(name)
    for step in (family.measure, family.load):
        with pytest.raises(errors.DataError, match=r"example 'k'.*of one size"):
            step(shown("video", frames))


def test_transparent_frames_lie_on_white_as_images_do():
    clear = np.zeros((32, 48, 4), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(clear).save(buffer, "PNG")
    for kind, value in (("image", buffer.getvalue()), ("video", [buffer.getvalue()] * 2)):
        assert pixels(find("qwen3_vl").load(shown(kind, value))).min() > 0.99
