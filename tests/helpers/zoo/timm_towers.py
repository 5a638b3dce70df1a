"""Families whose vision tower is a convolutional network of timm."""

from __future__ import annotations

import transformers as hf
from helpers.zoo.common import model, template, text_config, token_ids, tokenizer

# Gemma 3n's MobileNet with a block for each stage.
STAGES = [
    ["er_r1_k3_s2_e2_c8"],
    ["uir_r1_a3_k5_s2_e2_c8"],
    ["uir_r1_a5_k5_s2_e2_c8", "mqa_r1_k3_h2_v2_s1_d4_c8", "uir_r1_a0_k0_s1_e2_c8"],
    ["uir_r1_a5_k5_s2_e2_c8", "mqa_r1_k3_h2_s1_d4_c8", "uir_r1_a0_k0_s1_e2_c8"],
]


def gemma3n():
    from timm.models._efficientnet_builder import decode_arch_def

    made = tokenizer(
        ["<bos>"],
        bos="<bos>",
        # In the order of its tables: those of text, of images, of sounds.
        boi_token="<start_of_image>",
        boa_token="<start_of_audio>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
        eoa_token="<end_of_audio>",
        audio_token="<audio_soft_token>",
    )
    built = hf.Gemma3nProcessor(
        feature_extractor=hf.Gemma3nAudioFeatureExtractor(),
        image_processor=hf.SiglipImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=made,
        image_seq_length=4,
        chat_template=template("<image_soft_token>", bos="<bos>"),
    )
    ids = token_ids(
        made,
        boi_token_id="<start_of_image>",
        boa_token_id="<start_of_audio>",
        eoi_token_id="<end_of_image>",
        image_token_id="<image_soft_token>",
        eoa_token_id="<end_of_audio>",
        audio_token_id="<audio_soft_token>",
    )
    text = text_config(
        made,
        "gemma3n_text",
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=12,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=ids["eoi_token_id"],
        laurel_rank=4,
        altup_num_inputs=2,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
    )
    config = hf.Gemma3nConfig(
        text_config=text,
        vision_config={
            "model_args": {
                "block_args": decode_arch_def(STAGES),
                "stem_size": 8,
                "msfa_output_resolution": 2,
            },
            "vocab_size": 2,
            "vocab_offset": ids["eoi_token_id"],
        },
        audio_config={
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "vocab_size": 2,
            "vocab_offset": ids["eoa_token_id"],
        },
        vision_soft_tokens_per_image=4,
        **ids,
    )
    return built, model("Gemma3nForConditionalGeneration", config)


def fast_vlm():
    made = tokenizer(["<image>"])
    built = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(
            size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128}
        ),
        tokenizer=made,
        patch_size=64,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n"),
    )
    config = hf.FastVlmConfig(
        text_config=text_config(made),
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": 64,
            "model_args": {
                "inference_mode": True,
                "layers": (1, 1, 1, 1, 1),
                "embed_dims": (4, 4, 8, 32, 32),
                "mlp_ratios": (2, 2, 2, 2, 2),
            },
        },
        image_seq_length=4,
        **token_ids(made, image_token_index="<image>"),
    )
    built_model = model("FastVlmForConditionalGeneration", config)
    # In training mode its batch norms take the statistics of all images of a row.
    built_model.model.vision_tower.eval()
    return built, built_model


BUILDERS = {"gemma3n": gemma3n, "fast_vlm": fast_vlm}
