"""Families that cut images into tiles or crops of one size."""

from __future__ import annotations

import transformers as hf
from helpers.zoo.common import SIGLIP, SQUARE, model, template, text_config, token_ids, tokenizer

PINPOINTS = [[16, 16], [16, 32], [32, 16], [32, 32]]
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def internvl():
    made = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    built = hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(size=SQUARE, max_patches=4),
        tokenizer=made,
        video_processor=hf.InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>\n", "<video>\n"),
    )
    config = hf.InternVLConfig(
        text_config=text_config(made),
        vision_config={**TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
        image_seq_length=4,
        downsample_ratio=0.5,
        **token_ids(made, image_token_id="<IMG_CONTEXT>"),
    )
    return built, model("InternVLForConditionalGeneration", config)


def smol(name, **videos):
    """SmolVLM and Idefics 3."""
    places = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    made = tokenizer(
        ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places]
    )
    built = getattr(hf, f"{name}Processor")(
        image_processor=getattr(hf, f"{name}ImageProcessor")(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
        ),
        tokenizer=made,
        image_seq_len=4,
        chat_template=template("<image>", "<video>"),
        **videos,
    )
    made = built.tokenizer
    config = getattr(hf, f"{name}Config")(
        text_config=text_config(made, "llama"),
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        scale_factor=2,
        **token_ids(made, image_token_id="<image>", pad_token_id="<|endoftext|>"),
    )
    return built, model(f"{name}ForConditionalGeneration", config)


def smolvlm():
    video_processor = hf.SmolVLMVideoProcessor(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, fps=1, num_frames=3
    )
    return smol("SmolVLM", video_processor=video_processor)


def llava_model(kind, made, text, **more):
    """A model of the LLaVA line, with all features of its tower."""
    config = getattr(hf, f"{kind}Config")(
        text_config=text_config(made, text),
        vision_config=SIGLIP,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        **token_ids(made, image_token_index="<image>", image_token_id="<image>"),
        **more,
    )
    return model(f"{kind}ForConditionalGeneration", config)


def llava():
    made = tokenizer(["<image>"])
    built = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE),
        tokenizer=made,
        patch_size=4,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n"),
    )
    return built, llava_model("Llava", made, "llama", image_seq_length=16)


def llava_next():
    made = tokenizer(["<image>"])
    built = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessor(
            size={"shortest_edge": 16}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=made,
        patch_size=4,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n"),
    )
    return built, llava_model("LlavaNext", made, "llama", image_grid_pinpoints=PINPOINTS)


def llava_onevision():
    made = tokenizer(["<image>", "<video>"])
    built = hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(
            size=SQUARE, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=made,
        video_processor=hf.LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n", "<video>\n"),
    )
    videos = token_ids(made, video_token_index="<video>", video_token_id="<video>")
    pins = {"image_grid_pinpoints": PINPOINTS}
    return built, llava_model("LlavaOnevision", made, "qwen2", **pins, **videos)


def cohere2_vision():
    made = tokenizer(
        image_token="<|IMG_PATCH|>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    built = hf.Cohere2VisionProcessor(
        image_processor=hf.Cohere2VisionImageProcessor(size=SQUARE, max_patches=4, patch_size=2),
        tokenizer=made,
        chat_template=template("<|IMG_PATCH|>"),
    )
    layers = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    config = hf.Cohere2VisionConfig(
        text_config=text_config(made, "cohere2", **layers),
        vision_config=SIGLIP,
        downsample_factor=2,
        alignment_intermediate_size=16,
        **token_ids(made, image_token_id="<|IMG_PATCH|>"),
    )
    return built, model("Cohere2VisionForConditionalGeneration", config)


BUILDERS = {
    "internvl": internvl,
    "smolvlm": smolvlm,
    "idefics3": lambda: smol("Idefics3"),
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "cohere2_vision": cohere2_vision,
}
