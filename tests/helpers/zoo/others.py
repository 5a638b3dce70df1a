"""Families with a way of their own."""

from __future__ import annotations

import transformers as hf
from helpers.tiny_models import molmo2_model, molmo2_processor
from helpers.zoo.common import SIGLIP, SQUARE, model, template, text_config, token_ids, tokenizer


def gemma3():
    made = tokenizer(
        ["<bos>"],
        bos="<bos>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    built = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size=SQUARE),
        tokenizer=made,
        image_seq_length=4,
        chat_template=template("<start_of_image>", bos="<bos>"),
    )
    layers = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    config = hf.Gemma3Config(
        text_config=text_config(made, "gemma3_text", query_pre_attn_scalar=8, **layers),
        vision_config=SIGLIP,
        mm_tokens_per_image=4,
        **token_ids(
            made,
            image_token_id="<image_soft_token>",
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
        ),
    )
    return built, model("Gemma3ForConditionalGeneration", config)


def gemma4_processor(kind):
    """The processor of Gemma 4, or of Gemma 4 Unified."""
    sizes = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2}
    return getattr(hf, f"{kind}Processor")(
        feature_extractor=getattr(hf, f"{kind}AudioFeatureExtractor")(),
        image_processor=getattr(hf, f"{kind}ImageProcessor")(**sizes),
        tokenizer=tokenizer(
            ["<bos>"],
            bos="<bos>",
            image_token="<|image|>",
            boi_token="<|image>",
            eoi_token="<image|>",
            audio_token="<|audio|>",
            boa_token="<|audio>",
            eoa_token="<audio|>",
        ),
        video_processor=getattr(hf, f"{kind}VideoProcessor")(**sizes, num_frames=3),
        image_seq_length=70,
        chat_template=template("<|image|>", "<|video|>", bos="<bos>"),
    )


def gemma4(sees_ahead=None, window=12):
    """Causal as E2B and E4B, or with ``"vision"`` as the default of the configuration."""
    built = gemma4_processor("Gemma4")
    made = built.tokenizer
    text = text_config(
        made,
        "gemma4_text",
        global_head_dim=8,
        sliding_window=window,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=len(made) + 4,
        use_bidirectional_attention=sees_ahead,
    )
    tower = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
        "position_embedding_size": 64,
    }
    config = hf.Gemma4Config(
        text_config=text,
        vision_config={**tower, "patch_size": 4, "pooling_kernel_size": 2},
        audio_config=None,
        **token_ids(
            made,
            image_token_id="<|image|>",
            video_token_id="<|video|>",
            boi_token_id="<|image>",
            eoi_token_id="<image|>",
            audio_token_id="<|audio|>",
        ),
    )
    return built, model("Gemma4ForConditionalGeneration", config)


def gemma4_unified(sees_ahead="vision", window=80):
    """Gemma 4 without towers; images see ahead in all layers."""
    built = gemma4_processor("Gemma4Unified")
    made = built.tokenizer
    text = text_config(
        made,
        "gemma4_unified_text",
        global_head_dim=8,
        sliding_window=window,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        use_bidirectional_attention=sees_ahead,
    )
    embedder = {"mm_embed_dim": 16, "mm_posemb_size": 128, "output_proj_dims": 16}
    config = hf.Gemma4UnifiedConfig(
        text_config=text,
        vision_config={"patch_size": 4, "pooling_kernel_size": 2, **embedder},
        audio_config=None,
        **token_ids(
            made,
            image_token_id="<|image|>",
            video_token_id="<|video|>",
            boi_token_id="<|image>",
            eoi_token_id="<image|>",
            audio_token_id="<|audio|>",
        ),
    )
    return built, model("Gemma4UnifiedForConditionalGeneration", config)


def gemma4_vision():
    return gemma4("vision")


def paligemma(text="gemma", **more):
    """PaliGemma, or with ``"gemma2"`` PaliGemma 2, which soft-caps its scores."""
    made = tokenizer(bos="<bos>", specials=["<bos>"], image_token="<image>")
    images = hf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    built = hf.PaliGemmaProcessor(image_processor=images, tokenizer=made)
    config = hf.PaliGemmaConfig(
        text_config=text_config(built.tokenizer, text, **more),
        vision_config=SIGLIP,
        projection_dim=16,
        vocab_size=len(built.tokenizer) + 4,
        **token_ids(built.tokenizer, image_token_index="<image>"),
    )
    return built, model("PaliGemmaForConditionalGeneration", config)


def perception_lm():
    made = tokenizer(image_token="<|image|>", video_token="<|video|>")
    built = hf.PerceptionLMProcessor(
        video_processor=hf.PerceptionLMVideoProcessor(size=SQUARE),
        image_processor=hf.PerceptionLMImageProcessor(tile_size=16, max_num_tiles=4),
        tokenizer=made,
        patch_size=4,
        pooling_ratio=2,
        chat_template=template("<|image|>", "<|video|>"),
    )
    tower = {
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "img_size": [16, 16],
        "patch_size": 4,
        "mlp_ratio": 2.0,
        "class_token": False,
        "global_pool": "avg",
    }
    config = hf.PerceptionLMConfig(
        text_config=text_config(made, "llama"),
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": tower,
        },
        projector_pooling_ratio=2,
        vision_use_cls_token=False,
        **token_ids(made, image_token_id="<|image|>", video_token_id="<|video|>"),
    )
    return built, model("PerceptionLMForConditionalGeneration", config)


def lfm2_vl():
    rows = [f"<|img_row_{i}_col_{j}|>" for i in range(1, 5) for j in range(1, 5)]
    marks = ["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", "<image>"]
    made = tokenizer([*marks, *rows])
    built = hf.Lfm2VlProcessor(
        image_processor=hf.Lfm2VlImageProcessor(
            encoder_patch_size=4,
            tile_size=16,
            min_image_tokens=4,
            max_image_tokens=8,
            max_tiles=4,
        ),
        tokenizer=made,
        chat_template=template("<image>"),
    )
    layers = {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    config = hf.Lfm2VlConfig(
        text_config=text_config(made, "lfm2", without=("head_dim",), **layers),
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "num_patches": 16,
            "vision_use_head": False,
        },
        downsample_factor=2,
        projector_hidden_size=24,
        **token_ids(made, image_token_id="<image>"),
    )
    return built, model("Lfm2VlForConditionalGeneration", config)


def minicpm_v():
    made = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        image_start_token="<image>",
        image_end_token="</image>",
        slice_start_token="<slice>",
        slice_end_token="</slice>",
        image_id_start_token="<image_id>",
        image_id_end_token="</image_id>",
    )
    built = hf.MiniCPMV4_6Processor(
        image_processor=hf.MiniCPMV4_6ImageProcessor(
            patch_size=4, scale_resolution=32, max_slice_nums=4
        ),
        video_processor=hf.MiniCPMV4_6VideoProcessor(patch_size=4, scale_resolution=32),
        tokenizer=made,
        chat_template=template("<|image_pad|>", "<|video_pad|>"),
    )
    config = hf.MiniCPMV4_6Config(
        text_config=text_config(made, "qwen2"),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "image_size": 64,
        },
        insert_layer_id=0,
        **token_ids(made, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    )
    return built, model("MiniCPMV4_6ForConditionalGeneration", config)


def molmo2():
    return molmo2_processor(), molmo2_model()


BUILDERS = {
    "lfm2_vl": lfm2_vl,
    "minicpm_v": minicpm_v,
    "molmo2": molmo2,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "gemma4_vision": gemma4_vision,
    "gemma4_unified": gemma4_unified,
    "paligemma": paligemma,
    "perception_lm": perception_lm,
}
