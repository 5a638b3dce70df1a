"""Images and videos in tokens, as the processor writes them, and what they cost."""

import copy

import pytest
import transformers
from helpers import cases
from helpers.tiny_models import (
    FAMILIES,
    PLACEHOLDERS,
    example,
    film,
    find,
    media,
    molmo2_processor,
    photo,
    qwen3_vl_processor,
    random_media,
    record,
)
from treepack import errors, families


@FAMILIES
def test_the_root_is_what_the_processor_writes(name):
    family = find(name)
    opening = "" if name == "molmo2" else "<|im_start|>user\n"
    for rng in cases.cases(30, "the root is what the processor writes"):
        values = random_media(rng, most=1)
        kind = "video" if values[0].ndim == 4 else "image"
        text = opening + PLACEHOLDERS[name][kind]
        made = family.processor(text=text, **{f"{kind}s": values})
        assert family.load(media(*values)).tokens.tolist() == made["input_ids"][0]


@pytest.mark.parametrize("columns", [None, True, False])
@pytest.mark.parametrize("start", [True, False])
def test_the_settings_of_molmo2s_processor_count(columns, start):
    processor = molmo2_processor(
        use_single_crop_col_tokens=columns,
        use_single_crop_start_token=start,
        video_use_col_tokens=bool(columns),
        use_frame_special_tokens=start,
    )
    family = families.find(processor)
    for kind, value in (("image", photo(1)), ("video", film(1))):
        made = processor(text=PLACEHOLDERS["molmo2"][kind], **{f"{kind}s": [value]})
        assert family.load(media(value)).tokens.tolist() == made["input_ids"][0]


@FAMILIES
def test_what_is_measured_is_what_is_loaded(name):
    family = find(name)
    for rng in cases.cases(60, f"measured is loaded, {name}"):
        sample = media(*random_media(rng))
        cost = family.measure(sample)
        assert tuple(cost) == family.costs
        assert family.load(sample).cost == cost


@pytest.mark.parametrize(
    ("size", "crops", "tokens"), [((378, 378), 2, 410), ((1080, 1920), 9, 1189)]
)
def test_the_published_counts_of_molmo2(size, crops, tokens):
    full = transformers.Molmo2Processor(
        image_processor=transformers.Molmo2ImageProcessor(),
        video_processor=transformers.Molmo2VideoProcessor(),
        tokenizer=molmo2_processor().tokenizer,
        use_single_crop_col_tokens=False,
    )
    visual = families.find(full).measure_image(*size)
    assert (visual.cost, len(visual.tokens)) == (crops, tokens)


@FAMILIES
def test_measuring_decodes_no_pixel(name, tmp_path):
    import PIL.Image

    family = find(name)
    path = tmp_path / "cut.png"
    PIL.Image.fromarray(photo(1, 60, 80)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    sample = example(record("<image>?", "!", image=str(path)))
    whole = example(record("<image>?", "!", image=photo(1, 60, 80)))
    assert family.measure(sample) == family.measure(whole)
    with pytest.raises(errors.DataError, match=r"cut.png"):
        family.load(sample)


def test_a_setting_that_is_not_measured_is_found_out():
    processor = copy.deepcopy(qwen3_vl_processor())
    processor.image_processor.get_number_of_image_patches = lambda *_: 400
    family = families.find(processor)
    with pytest.raises(errors.DataError, match=r"example 'k': image was measured with .* patches"):
        family.load(media(photo(1, 96, 96)))
