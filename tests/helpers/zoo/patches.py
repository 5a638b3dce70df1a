"""Families that see images at their own size, in patches on a grid."""

from __future__ import annotations

import transformers as hf
from helpers.tiny_models import QWEN_TOKENS, TEXT, qwen3_vl_model, qwen3_vl_processor
from helpers.zoo.common import THETA, model, template, text_config, token_ids, tokenizer

QWEN_TEMPLATE = template(
    "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
)
QWEN_IDS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
GLM_IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
SIZE = {"shortest_edge": 256, "longest_edge": 1024}
FILM_SIZE = {"shortest_edge": 256, "longest_edge": 6 * 1024}
TOWER = {"hidden_size": 16, "num_heads": 2, "depth": 2, "patch_size": 4}
THREE_AXES = {**THETA, "mrope_section": [2, 1, 1]}


def qwen(name, processor, config, **tower):
    """Qwen2-VL and Qwen2.5-VL."""
    made = tokenizer(QWEN_TOKENS)
    built = getattr(hf, processor)(
        image_processor=hf.Qwen2VLImageProcessor(patch_size=4, size=SIZE),
        video_processor=hf.Qwen2VLVideoProcessor(patch_size=4, size=FILM_SIZE),
        tokenizer=made,
        chat_template=QWEN_TEMPLATE,
    )
    configured = getattr(hf, config)(
        text_config=text_config(made, without=("model_type",), rope_parameters=THREE_AXES),
        vision_config={**TOWER, **tower},
        **token_ids(made, **QWEN_IDS),
    )
    return built, model(name, configured)


def qwen2_vl():
    tower = {"embed_dim": 16, "mlp_ratio": 2}
    return qwen("Qwen2VLForConditionalGeneration", "Qwen2VLProcessor", "Qwen2VLConfig", **tower)


def qwen2_5_vl():
    tower = {"intermediate_size": 16, "out_hidden_size": 16, "window_size": 16}
    return qwen(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLProcessor",
        "Qwen2_5_VLConfig",
        **tower,
        fullatt_block_indexes=[1],
        tokens_per_second=2,
    )


def qwen3_vl_moe():
    # One of its own: it is given a template.
    built = qwen3_vl_processor.__wrapped__()
    built.chat_template = QWEN_TEMPLATE
    made = built.tokenizer
    rope = {**THREE_AXES, "mrope_interleaved": True}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    tower = {"intermediate_size": 16, "out_hidden_size": 16, "num_position_embeddings": 36}
    config = hf.Qwen3VLMoeConfig(
        text_config={**TEXT, "vocab_size": len(made), **experts, "rope_parameters": rope},
        vision_config={**TOWER, **tower, "deepstack_visual_indexes": [0]},
        **token_ids(made, **QWEN_IDS),
    )
    built_model = model("Qwen3VLMoeForConditionalGeneration", config)
    built_model.set_experts_implementation("eager")
    return built, built_model


def glm(name):
    """GLM-4.1V and 4.6V."""
    made = tokenizer(GLM_IDS.values())
    built = getattr(hf, f"{name}Processor")(
        image_processor=getattr(hf, f"{name}ImageProcessor")(
            patch_size=4, size={"shortest_edge": 512, "longest_edge": 2048}
        ),
        video_processor=getattr(hf, f"{name}VideoProcessor")(patch_size=4, size=FILM_SIZE),
        tokenizer=made,
        chat_template=template(
            "<|begin_of_image|><|image|><|end_of_image|>",
            "<|begin_of_video|><|video|><|end_of_video|>",
        ),
    )
    config = getattr(hf, f"{name}Config")(
        text_config=text_config(
            made, "glm4v_text", rope_parameters=THREE_AXES, partial_rotary_factor=1.0
        ),
        vision_config={**TOWER, "out_hidden_size": 16, "intermediate_size": 16, "image_size": 32},
        **token_ids(made, **GLM_IDS),
    )
    return built, model(f"{name}ForConditionalGeneration", config)


def mistral3(window=None):
    made = tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    built = hf.PixtralProcessor(
        image_processor=hf.PixtralImageProcessor(
            size={"longest_edge": 32}, patch_size={"height": 4, "width": 4}
        ),
        tokenizer=made,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=template("[IMG]"),
    )
    config = hf.Mistral3Config(
        text_config=text_config(made, "mistral", sliding_window=window),
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "head_dim": 8,
        },
        spatial_merge_size=2,
        vision_feature_layer=-1,
        **token_ids(made, image_token_index="[IMG]", image_token_id="[IMG]"),
    )
    return built, model("Mistral3ForConditionalGeneration", config)


def kimi_k25():
    marks = ["<|media_begin|>", "<|media_content|>", "<|media_end|>"]
    image, video = "<|media_pad|>", "<|kimi_k25_video_placeholder|>"
    made = tokenizer([*marks, image, video])
    sizes = {"patch_size": 4, "max_patches": 64}
    built = hf.Kimi_K25Processor(
        image_processor=hf.Kimi_K25ImageProcessor(**sizes),
        tokenizer=made,
        video_processor=hf.Kimi_K25VideoProcessor(**sizes, temporal_patch_size=2),
        chat_template=template(f"<|media_begin|>image<|media_content|>{image}<|media_end|>", video),
    )
    latent = {"q_lora_rank": 12, "kv_lora_rank": 10, "qk_rope_head_dim": 8}
    latent |= {"qk_nope_head_dim": 16, "v_head_dim": 12, "num_key_value_heads": 2}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    experts |= {"first_k_dense_replace": 1, "moe_intermediate_size": 8}
    config = hf.Kimi_K25Config(
        text_config=text_config(made, "deepseek_v3", ("head_dim",), **latent, **experts),
        vision_config={
            "patch_size": 4,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
        projection_hidden_size=16,
        tie_word_embeddings=False,
        **token_ids(
            made,
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id="<|media_begin|>",
            vision_end_token_id="<|media_end|>",
        ),
    )
    built_model = model("Kimi_K25ForConditionalGeneration", config)
    # The other implementations of experts have no float64.
    built_model.set_experts_implementation("eager")
    return built, built_model


def qwen3_vl():
    return qwen3_vl_processor(), qwen3_vl_model()


def qwen3_5():
    built = qwen3_vl_processor()
    made = built.tokenizer
    rope = {**THREE_AXES, "mrope_interleaved": True, "partial_rotary_factor": 1.0}
    linear = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    tower = {"intermediate_size": 16, "out_hidden_size": 16, "num_position_embeddings": 36}
    config = hf.Qwen3_5Config(
        text_config={**TEXT, "vocab_size": len(made), **linear, "rope_parameters": rope},
        vision_config={**TOWER, **tower},
        **token_ids(made, **QWEN_IDS),
    )
    return built, model("Qwen3_5ForConditionalGeneration", config)


def ernie4_5_vl():
    names = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    }
    made = tokenizer(**names)
    built = hf.Ernie4_5_VLMoeProcessor(
        image_processor=hf.Ernie4_5_VLMoeImageProcessor(patch_size=4, size=SIZE),
        tokenizer=made,
        # Times are drawn with a font that comes with the checkpoint.
        video_processor=hf.Ernie4_5_VLMoeVideoProcessor(
            patch_size=4, size=SIZE, min_frames=2, draw_on_frames=False
        ),
        chat_template=template(
            "Picture:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
            "Video:<|VIDEO_START|><|VIDEO_PLACEHOLDER|><|VIDEO_END|>",
        ),
    )
    config = hf.Ernie4_5_VLMoeConfig(
        text_config=text_config(
            made,
            "ernie4_5_vl_moe_text",
            rope_parameters={**THETA, "mrope_section": [1, 1, 2]},
            moe_intermediate_size=[12, 8],
            moe_num_experts=4,
            moe_k=2,
        ),
        vision_config={**TOWER, "intermediate_size": 16},
        **token_ids(made, **{f"{name}_id": token for name, token in names.items()}),
    )
    built_model = model("Ernie4_5_VLMoeForConditionalGeneration", config)
    built_model.set_experts_implementation("eager")
    return built, built_model


BUILDERS = {
    "ernie4_5_vl": ernie4_5_vl,
    "kimi_k25": kimi_k25,
    "qwen3_5": qwen3_5,
    "qwen3_vl": qwen3_vl,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "glm4v": lambda: glm("Glm4v"),
    "glm46v": lambda: glm("Glm46V"),
    "mistral3": mistral3,
    "mistral3_sliding": lambda: mistral3(9),
}
