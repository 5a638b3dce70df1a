"""Broken, missing and unusual media: a clear error that names the example, or the right tree."""

import json

import av
import numpy as np
import PIL.Image
import pytest
import treepack as tp
from helpers import tiny_models
from helpers.tiny_models import both_reject, cut, film, photo, record, write_video
from treepack.errors import DataError
from treepack.families import find
from treepack.sources import images, videos
from treepack.sources.conversations import Conversations

FAMILIES = pytest.mark.parametrize("name", ["molmo2", "qwen3_vl"])


@pytest.fixture
def family(name):
    return find(getattr(tiny_models, f"{name}_processor")())


def example(kind, value):
    (found,) = tp.group_conversations([record(f"<{kind}>?", "!", id="coco/17", **{kind: value})])
    return found


# --- what cannot be read


@FAMILIES
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_file_that_is_not_there(family, kind, tmp_path):
    path = str(tmp_path / "none.bin")
    both_reject(family, example(kind, path), path, "does not exist")


@FAMILIES
@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("content", ["", "no picture", "GIF89a", "ÿØÿà", "RIFF...."])
def test_a_file_that_is_no_image_or_video(family, kind, content, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content.encode("latin-1"))
    both_reject(family, example(kind, str(path)), "bad.jpg", "cannot be read")


@FAMILIES
@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_folder_instead_of_a_file(family, kind, tmp_path):
    both_reject(family, example(kind, str(tmp_path)), "cannot be read")


@FAMILIES
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_image_that_is_cut_off_is_named_when_it_is_loaded(family, suffix, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    PIL.Image.fromarray(photo(1, 90, 90)).save(path)
    sample = example("image", str(cut(path, 0.6)))
    with pytest.raises(DataError, match=rf"cut.{suffix}"):
        family.load(sample)


@FAMILIES
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_image(family, array):
    both_reject(family, example("image", array), "uint8 [height, width, 3]", str(array.shape))


@FAMILIES
@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((4, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_video(family, array):
    both_reject(family, example("video", array), "uint8 [frames, height, width, 3]")


@pytest.mark.parametrize("name", ["qwen3_vl"])
def test_what_the_processor_does_not_take(family):
    both_reject(family, example("image", photo(1, 4, 900)), "aspect ratio")
    both_reject(family, example("video", film(1, frames=1)), "temporal_factor")


@FAMILIES
def test_a_video_that_is_cut_off(family, tmp_path):
    path = write_video(tmp_path / "cut.avi", film(1, 40))
    sample = example("video", str(cut(path, 0.5)))
    with pytest.raises(DataError, match=r"cut.avi"):
        family.load(sample)


@FAMILIES
def test_a_file_without_a_picture_stream(family, tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    both_reject(family, example("video", str(path)), "no video stream")


# --- what is unusual, and right


@FAMILIES
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel(family, mode, tmp_path):
    path = tmp_path / "image.tif"
    picture = PIL.Image.fromarray(photo(1, 50, 70))
    picture = PIL.Image.new(mode, (70, 50)) if mode == "I;16" else picture.convert(mode)
    picture.save(path)
    for value in (str(path), picture):
        sample = example("image", value)
        assert family.load(sample).cost == family.measure(sample)


@FAMILIES
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (3, 3), (400, 3), (16, 16)])
def test_images_of_any_size(family, size):
    if family.name == "qwen3_vl" and max(size) / min(size) > 100:
        size = (100, 1)
    sample = example("image", photo(1, *size))
    assert family.load(sample).cost == family.measure(sample)


@FAMILIES
@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 4)])
def test_arrays_of_one_three_and_four_channels(family, shape):
    grey = np.full(shape, 200, np.uint8)
    if shape[2:] == (4,):
        grey[..., 3] = 255
    plain = family.load(example("image", np.full((30, 40, 3), 200, np.uint8)))
    assert np.array_equal(
        family.load(example("image", grey)).media["pixel_values"], plain.media["pixel_values"]
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_photograph_is_turned_upright(orientation, suffix, tmp_path):
    upright = PIL.Image.new("RGB", (48, 32))
    upright.paste((255, 255, 255), (0, 0, 12, 12))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = PIL.Image.Exif()
    exif[images.ORIENTATION_TAG] = orientation
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif)
    assert images.image_size(str(path), "x") == (32, 48)
    pixels = np.asarray(images.load_image(str(path), "x").convert("L"))
    assert pixels.shape == (32, 48)
    assert pixels[:8, :8].min() > 200
    assert pixels[16:, 16:].max() < 50


@FAMILIES
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_a_video_file_is_what_the_processor_makes_of_its_frames(family, suffix, tmp_path):
    path = write_video(tmp_path / f"v.{suffix}", film(1, 17, 32, 48), fps=5)
    with av.open(str(path)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    tree = family.load(example("video", str(path)))
    assert tree.cost == family.measure(example("video", str(path)))
    text = {
        "molmo2": "<|video|>",
        "qwen3_vl": "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>",
    }[family.name]
    known = {"total_num_frames": 17, "fps": 5.0, "duration": 3.4}
    made = family.processor(text=text, videos=[frames], video_metadata=[known], return_tensors="pt")
    assert tree.tokens.tolist() == made["input_ids"][0].tolist()
    pixels = next(iter(tree.media.values()))
    assert np.array_equal(pixels, made["pixel_values_videos"].numpy())


def test_frames_may_repeat():
    frames = film(1, 5)
    assert np.array_equal(videos.load_frames(frames, np.array([0, 0, 4]), "x"), frames[[0, 0, 4]])


# --- pixels of other depths


@FAMILIES
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_become_eight(family, suffix, tmp_path):
    grey = photo(1)[..., 0]
    path = tmp_path / f"deep.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 60 40 65535\n" + (grey.astype(">u2") * 257).tobytes())
    else:
        PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    sample = example("image", str(path))
    tree, plain = family.load(sample), family.load(example("image", grey))
    assert tree.cost == family.measure(sample)
    assert np.array_equal(tree.media["pixel_values"], plain.media["pixel_values"])


@FAMILIES
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_whose_range_nobody_knows_are_rejected(family, dtype, tmp_path):
    picture = PIL.Image.fromarray(photo(1)[..., 0].astype(dtype))
    path = tmp_path / "deep.tif"
    picture.save(path)
    kind = "floats" if dtype == np.float32 else "integers of 32 bits"
    both_reject(family, example("image", str(path)), "deep.tif", kind, "convert it to 8 or 16 bits")
    both_reject(family, example("image", picture), kind)


# --- what errors say


@FAMILIES
@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(
    "value",
    [
        "data:image/png;base64," + "A" * 2_000_000,
        "https://example.com/" + "a" * 5000 + ".jpg",
        "x" * 3000,
        b"\x00" * 100_000,
        "null\x00byte",
    ],
    ids=["data", "url", "path", "bytes", "null"],
)
def test_errors_show_no_more_of_a_value_than_helps(family, kind, value):
    sample = Conversations([[("?", "!")]], [(kind, value)], key="k" * 5000)
    for step in (family.measure, family.load):
        with pytest.raises(DataError) as caught:
            step(sample)
        message = str(caught.value)
        assert len(message) < 800
        assert "cannot be read" in message or "does not exist" in message
        if isinstance(value, str) and ":" in value:
            assert "it is a URL, and only files are read; download it first" in message


# --- in a stream


def stream_of(tmp_path, on_error):
    PIL.Image.fromarray(photo(1, 50, 50)).save(tmp_path / "good.png")
    PIL.Image.fromarray(photo(2, 50, 50)).save(tmp_path / "cut.png")
    cut(tmp_path / "cut.png", 0.5)
    records = [record("<image>?", "!", image=f"{name}.png") for name in ("good", "none", "cut")]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, [*records, record("Hi", "Ho", id="text")])))
    return tp.PackedDataset(
        tp.group_conversations(path),
        processor=tiny_models.molmo2_processor(),
        budgets={"tokens": 300, "crops": 8},
        pool_size=4,
        shuffle=False,
        on_error=on_error,
    )


def test_a_stream_skips_and_counts_what_cannot_be_read(tmp_path):
    batches = list(stream_of(tmp_path, "skip"))
    assert sorted(k for b in batches for k in b["treepack"].keys) == ["good.png", "text"]
    assert batches[-1]["treepack"].stats["skipped"] == 2


def test_a_stream_raises_for_it_and_can_go_on(tmp_path):
    stream = iter(stream_of(tmp_path, "raise"))
    keys, messages = [], []
    while True:
        try:
            keys += next(stream)["treepack"].keys
        except StopIteration:
            break
        except DataError as error:
            messages.append(str(error))
    assert sorted(keys) == ["good.png", "text"]
    assert ["none.png" in m or "cut.png" in m for m in messages] == [True, True]
