"""Real architectures and processors of transformers, tiny, with random weights, built offline."""

from __future__ import annotations

import functools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
import treepack as tp
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from treepack import families
from treepack.errors import DataError
from treepack.sources.conversations import Conversations

CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MOLMO2_TOKENS = [
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
]
QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def byte_tokenizer(specials=(), chat=CHAT_TOKENS, **settings):
    """One token a byte, the special tokens of ChatML, then the given ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*chat, *specials])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **settings}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@functools.cache
def molmo2_processor(**settings):
    from transformers import Molmo2ImageProcessor, Molmo2Processor, Molmo2VideoProcessor

    size = {"height": 56, "width": 56}
    return Molmo2Processor(
        image_processor=Molmo2ImageProcessor(size=size, overlap_margins=[1, 1], max_crops=4),
        video_processor=Molmo2VideoProcessor(size=size, num_frames=3),
        tokenizer=byte_tokenizer(MOLMO2_TOKENS, bos_token="<|im_end|>"),
        **settings,
    )


@functools.cache
def qwen3_vl_processor():
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=4, size={"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
        ),
        video_processor=Qwen3VLVideoProcessor(
            patch_size=4,
            size={"shortest_edge": 16 * 16, "longest_edge": 6 * 16 * 24},
            cap_pixels_per_frame=False,
        ),
        tokenizer=byte_tokenizer(QWEN_TOKENS),
    )


def molmo2_model(seed=0):
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    tokenizer = molmo2_processor().tokenizer
    size = len(tokenizer) - len(MOLMO2_TOKENS)
    tower = {"hidden_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6}
    names = ("image_start", "low_res_image_start", "image_end", "frame_start", "frame_end")
    tokens = ("<im_start>", "<low_res_im_start>", "<im_end>", "<frame_start>", "<frame_end>")
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    config = Molmo2Config(
        text_config={**TEXT, "vocab_size": size, "additional_vocab_size": 16, **_rope(8)},
        vision_config={
            **tower,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "image_size": [56, 56],
        },
        adapter_config={
            **tower,
            "intermediate_size": 16,
            "vision_feature_layer": [1, 0],
            "text_hidden_size": TEXT["hidden_size"],
        },
        image_patch_id=tokenizer.convert_tokens_to_ids("<im_patch>"),
        **{f"{name}_token_id": token for name, token in zip(names, ids, strict=True)},
    )
    return randomised(Molmo2ForConditionalGeneration(config), seed)


def qwen3_vl_model(seed=0):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = qwen3_vl_processor().tokenizer
    names = ("vision_start", "vision_end", "image", "video")
    ids = tokenizer.convert_tokens_to_ids(QWEN_TOKENS)
    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            **_rope(8, mrope_section=[2, 1, 1], mrope_interleaved=True),
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "depth": 2,
            "patch_size": 4,
            "out_hidden_size": TEXT["hidden_size"],
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0],
        },
        **{f"{name}_token_id": token for name, token in zip(names, ids, strict=True)},
    )
    return randomised(Qwen3VLForConditionalGeneration(config), seed)


def _rope(theta, **more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": float(theta), **more}}


@functools.cache
def wide_norm(kind):
    """A class of RMS norms that computes in the dtype of its input.

    Those of transformers round to float32: a difference of 1e-16 then shows as 1e-7 or not at all,
    as the processor has it.
    """

    def forward(self, x):
        eps = self.variance_epsilon
        return self.weight * (x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt())

    return type(kind.__name__, (kind,), {"forward": forward})


def randomised(model, seed=0):
    """The model in float64 with weights so large that attention is not flat: errors show then."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().train()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.__class__ = wide_norm(type(module))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                scale = weight[0].numel() ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * 1.5 * scale)
            else:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def photo(seed, height=40, width=60):
    """A picture with structure at several scales, uint8 ``[height, width, 3]``."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (height // 10 + 1, width // 10 + 1, 3))
    fine = rng.integers(0, 56, (height, width, 3))
    return (np.kron(coarse, np.ones((10, 10, 1)))[:height, :width] + fine).astype(np.uint8)


def film(seed, frames=6, height=24, width=32):
    """Frames that differ, uint8 ``[frames, height, width, 3]``."""
    return np.stack([photo(seed * 100 + i, height, width) for i in range(frames)])


def write_video(path, frames, fps=10, codec="mpeg4", times=None, turn=0, options=None):
    """A file of frames uint8 ``[T, H, W, 3]``.

    Args:
        times: when each frame is shown, in ticks of ``1 / fps``; by default one after the other.
        turn: what its display matrix says, in degrees.
        options: of the container.
    """
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for place, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[place], Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def record(question, answer, **fields):
    """A LLaVA record of one turn, or of several when both are lists."""
    questions, answers = ([x] if isinstance(x, str) else x for x in (question, answer))
    turns = []
    for q, a in zip(questions, answers, strict=True):
        turns += [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    return {**fields, "conversations": turns}


def write_photographs(folder, count, answers):
    """Write ``images/`` and ``train.jsonl``: photographs, and a record for each question."""
    (folder / "images").mkdir()
    records = []
    for number in range(count):
        Image.fromarray(photo(number)).save(folder / f"images/{number}.png")
        records += [
            record(f"<image>\n{question}", answer, image=f"{number}.png")
            for question, answer in answers.items()
        ]
    (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))


PROCESSORS = {"molmo2": molmo2_processor, "qwen3_vl": qwen3_vl_processor}
FAMILIES = pytest.mark.parametrize("name", PROCESSORS)
PLACEHOLDERS = {
    "molmo2": {"image": "<|image|>", "video": "<|video|>"},
    "qwen3_vl": {
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    },
}


def find(name):
    return families.find(PROCESSORS[name]())


def example(*rows):
    (found,) = tp.group_conversations(rows)
    return found


def media(*values, text="?"):
    """An example that shows images (3 axes) and videos (4 axes) in order."""
    kinds = ["video" if value.ndim == 4 else "image" for value in values]
    return Conversations([[(text, "!")]], list(zip(kinds, values, strict=True)), key="k")


def random_media(rng, most=3):
    def one():
        height, width = (int(n) for n in rng.integers(8, 120, 2))
        if rng.random() < 0.3:
            return film(int(rng.integers(100)), int(rng.integers(2, 9)), height, width)
        return photo(int(rng.integers(100)), height, width)

    return [one() for _ in range(rng.integers(1, most + 1))]


def cut(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return path


def both_reject(family, sample, *messages):
    """Measuring rejects the example, and so does loading; both say which and why."""
    for step in (family.measure, family.load):
        with pytest.raises(DataError) as caught:
            step(sample)
        for message in (repr(sample.key), *messages):
            assert message in str(caught.value)
