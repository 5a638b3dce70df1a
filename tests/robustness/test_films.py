"""Films whose header does not say what is true: frames as they are meant to be seen, and when."""

import copy
import struct

import av
import numpy as np
import pytest
import treepack as tp
from helpers import tiny_models
from helpers.tiny_models import both_reject, cut, film, record, write_video
from treepack.errors import DataError
from treepack.families import find
from treepack.sources import videos

FAMILIES = pytest.mark.parametrize("name", ["molmo2", "qwen3_vl"])


@pytest.fixture
def family(name):
    return find(getattr(tiny_models, f"{name}_processor")())


def example(kind, value):
    (found,) = tp.group_conversations([record(f"<{kind}>?", "!", id="coco/17", **{kind: value})])
    return found


def corner(shape=(48, 80)):
    """Frames that are black but for a white corner."""
    frames = np.zeros((6, *shape, 3), np.uint8)
    frames[:, :16, :24] = 255
    return frames


@pytest.mark.parametrize(("turn", "where"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_film_is_turned_upright(turn, where, suffix, tmp_path):
    path = write_video(tmp_path / f"phone.{suffix}", corner(), turn=turn)
    shape = (48, 80) if turn == 180 else (80, 48)
    clip = videos.video_clip(str(path), "x")
    assert (clip.height, clip.width) == shape
    frames = videos.load_frames(str(path), np.arange(6), "x")
    assert frames.shape == (6, *shape, 3)
    bright = frames.mean((0, 3)) > 128
    assert bright[where]
    assert bright.mean() < 0.15


def mirrored(path, matrix):
    """Write another display matrix into an MP4 file."""
    whole = path.read_bytes()
    place = whole.index(b"tkhd") + 44
    path.write_bytes(whole[:place] + struct.pack(">9i", *matrix) + whole[place + 36 :])
    return path


def test_a_film_in_a_mirror_is_turned_too(tmp_path):
    one, last = 1 << 16, 1 << 30
    for matrix, where in (
        ((-one, 0, 0, 0, one, 0, 0, 0, last), (0, -1)),
        ((one, 0, 0, 0, -one, 0, 0, 0, last), (-1, 0)),
        ((0, one, 0, one, 0, 0, 0, 0, last), (0, 0)),
    ):
        path = mirrored(write_video(tmp_path / "m.mp4", corner()), matrix)
        frames = videos.load_frames(str(path), np.arange(1), "x")
        assert frames[0][where].min() > 200
        assert videos.video_clip(str(path), "x")[2:4] == frames.shape[1:3]


@FAMILIES
def test_a_film_that_lies_askew_is_rejected(family, tmp_path):
    path = write_video(tmp_path / "askew.mp4", film(1), turn=45)
    both_reject(family, example("video", str(path)), "askew.mp4", "multiple of 90 degrees")


@FAMILIES
def test_a_turned_film_costs_what_is_measured(family, tmp_path):
    path = write_video(tmp_path / "phone.mp4", film(1, 12, 32, 96), turn=90)
    upright = write_video(tmp_path / "upright.mp4", film(1, 12, 96, 32))
    sample, other = example("video", str(path)), example("video", str(upright))
    assert family.load(sample).cost == family.measure(sample) == family.measure(other)


@pytest.mark.parametrize("rate", [30, 1000])
@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts"])
def test_a_rate_is_that_of_the_packets(rate, suffix, tmp_path):
    # Two frames a second, whatever the header says.
    times = [place * rate // 2 for place in range(10)]
    path = write_video(tmp_path / f"v.{suffix}", film(1, 10), fps=rate, times=times)
    clip = videos.video_clip(str(path), "x")
    assert (clip.frames, round(clip.fps, 3)) == (10, 2.0)
    assert len(videos.load_frames(str(path), np.arange(10), "x")) == 10
    family = find(tiny_models.qwen3_vl_processor())
    tree = family.load(example("video", str(path)))
    assert "<4.2 seconds>" in family.processor.tokenizer.decode(tree.tokens)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mov"])
@pytest.mark.parametrize("fps", [5, 24, 30])
def test_a_rate_that_is_true_is_kept_to_the_last_digit(suffix, fps, tmp_path):
    path = write_video(tmp_path / f"v.{suffix}", film(1, 17), fps=fps)
    clip = videos.video_clip(str(path), "x")
    assert clip.frames == 17
    assert clip.fps == pytest.approx(fps, rel=1e-3) if suffix == "ts" else clip.fps == fps


@FAMILIES
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_frames_that_were_cut_away_are_not_counted(family, suffix, tmp_path):
    # An edit list hides the first ten, which the header counts.
    path = write_video(tmp_path / f"v.{suffix}", film(1, 40), times=range(-10, 30))
    assert videos.video_clip(str(path), "x").frames == 30
    sample = example("video", str(path))
    assert family.load(sample).cost == family.measure(sample)


@FAMILIES
def test_a_film_that_was_cut_without_encoding_it_again(family, tmp_path):
    # It begins inside a group of pictures: the packets before the cut are decoded, not shown.
    whole = write_video(tmp_path / "whole.mp4", film(1, 40), fps=10)
    path = tmp_path / "part.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        for packet in source.demux(old):
            if packet.size:
                packet.pts -= int(0.5 / old.time_base)
                packet.dts -= int(0.5 / old.time_base)
                packet.stream = new
                target.mux(packet)
    assert videos.video_clip(str(path), "x")[:2] == (35, 10.0)
    theirs = videos.load_frames(str(whole), np.arange(5, 40), "x")
    assert np.array_equal(videos.load_frames(str(path), np.arange(35), "x"), theirs)
    sample = example("video", str(path))
    assert family.load(sample).cost == family.measure(sample)


def test_an_index_behind_the_last_frame_is_dropped(tmp_path):
    from transformers.video_utils import VideoMetadata

    processor = copy.deepcopy(tiny_models.molmo2_processor())
    processor.video_processor.num_frames = 64
    family = find(processor)
    path = write_video(tmp_path / "v.mp4", film(1, 115, 16, 16), fps=30)
    known = VideoMetadata(total_num_frames=115, fps=30.0, duration=115 / 30)
    indices = processor.video_processor.sample_frames(known, num_frames=64)
    assert indices[-1] == 115, "the processor names a frame that is not there"
    sample = example("video", str(path))
    tree = family.load(sample)
    assert tree.cost == family.measure(sample)
    assert tree.costs == {"crops": len(indices) - 1}
    assert family.measure(example("video", film(1, 115, 16, 16)))["crops"] < 115


@FAMILIES
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm"])
@pytest.mark.parametrize("keep", [0.4, 0.7])
def test_half_a_film_is_never_taken_for_a_whole_one(family, suffix, keep, tmp_path):
    codec = "libvpx" if suffix == "webm" else "mpeg4"
    path = write_video(tmp_path / f"cut.{suffix}", film(1, 40, 16, 24), codec=codec)
    sample = example("video", str(path))
    assert family.load(sample).cost == family.measure(sample)
    cut(path, keep)
    both_reject(family, sample, f"cut.{suffix}", "cannot be read")


def test_an_index_in_front_of_half_a_film_is_found_out(tmp_path):
    options = {"movflags": "faststart"}
    path = write_video(tmp_path / "cut.mp4", film(1, 40), options=options)
    cut(path, 0.6)
    with pytest.raises(DataError, match=r"x: video .*cut.mp4' ends before frame .* it is cut off"):
        videos.load_frames(str(path), np.arange(40), "x")
