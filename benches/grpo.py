"""Log-probabilities of a group of responses, forward and backward: what a policy update computes.

    python benches/grpo.py                  # scaled down: a minute on one core
    python benches/grpo.py --rounds 9

Ours, `tp.rl.padded_logprobs`, beside two rivals of TRL 1.16 in the same run: the padded batch of
its ``GRPOTrainer``, in which each response repeats its prompt, and the rows of its asynchronous
trainer, which share prompts and gather the keys and values of each path (here with one call of
torch's attention for each segment, as their kernel needs a GPU). Results are compared first. The
last line is a prompt with an image, whose vision tower runs in the step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import treepack as tp
from common import machine
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

CASES = [(8, 512, 32), (16, 512, 32), (8, 192, 192), (16, 192, 192), (8, 96, 192), (16, 96, 192)]
"""Responses of a group, tokens of the prompt, tokens of each response."""

VOCABULARY = 8_192


def build_model() -> nn.Module:
    """A small Qwen3 with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=1_216,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
    )
    return Qwen3ForCausalLM(config)


def group(size: int, prompt: int, response: int) -> tuple[Tensor, int]:
    """A batch of one prompt with several responses, ``[B, P + C]``, and ``C``."""
    shared = torch.randint(0, VOCABULARY, (1, prompt)).expand(size, -1)
    return torch.cat([shared, torch.randint(0, VOCABULARY, (size, response))], 1), response


def padded(model: nn.Module, ids: Tensor, keep: int, **media: Tensor) -> Tensor:
    """Each response with its prompt, in a batch."""
    model.set_attn_implementation("sdpa")
    logits = model(input_ids=ids, logits_to_keep=keep + 1, use_cache=False, **media).logits
    return tp.hf.token_logprobs(logits[:, :-1], ids[:, -keep:])


def trees(model: nn.Module, ids: Tensor, keep: int) -> Tensor:
    """The prompt once."""
    tp.hf.prepare(model)
    return tp.rl.padded_logprobs(model, ids, torch.ones_like(ids), keep).logprobs


def gathered_row(ids: Tensor, keep: int) -> dict[str, Any]:
    """A row of TRL's asynchronous trainer; its time is not counted."""
    from trl.experimental.async_grpo.packing import TreeRow

    row, trained = TreeRow(), torch.ones(ids.shape[1], dtype=torch.long)
    trained[:-keep] = 0
    for sample in ids:
        numbers = {"old_log_probs": torch.zeros(len(sample)), "advantage": 0.0, "group_id": 0}
        row.add({"input_ids": sample, "completion_mask": trained, **numbers})
    return row.pack()


def gathered(model: nn.Module, row: dict[str, Any], size: int) -> Tensor:
    """The prompt once, its keys and values gathered for each response."""
    model.set_attn_implementation("gathered")
    hidden = model.model(
        input_ids=row["input_ids"][None],
        position_ids=row["position_ids"][None],
        use_cache=False,
        row=row,
    ).last_hidden_state[0]
    index = row["token_index"]
    logits = model.lm_head(hidden[index])
    return tp.hf.token_logprobs(logits, row["shift_labels"][index]).view(size, -1)


def attend_gathered(
    _module: nn.Module, q: Tensor, k: Tensor, v: Tensor, _mask: None, row: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """Attention of each segment over the gathered keys and values of its path."""
    index, starts, paths = (row[f"tree_{n}"] for n in ("kv_index", "cu_seqlens_q", "cu_seqlens_k"))
    k, v = k[0].index_select(1, index), v[0].index_select(1, index)
    parts = []
    for n in range(len(starts) - 1):
        own, path = slice(*starts[n : n + 2].tolist()), slice(*paths[n : n + 2].tolist())
        length, whole = own.stop - own.start, path.stop - path.start
        sees = torch.ones(length, whole, dtype=torch.bool).tril(whole - length)
        parts.append(
            scaled_dot_product_attention(
                q[0, :, own], k[:, path], v[:, path], attn_mask=sees, enable_gqa=True
            )
        )
    return torch.cat(parts, 1).transpose(0, 1)[None], None


def seconds(
    model: nn.Module, steps: dict[str, Callable[[], Tensor]], rounds: int
) -> dict[str, float]:
    """The median time of each, forward and backward, one after the other in each round."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step().sum().backward()
            found[name].append(time.process_time() - start)
            model.zero_grad()
    return {name: statistics.median(each[1:]) for name, each in found.items()}


def report(name: str, tokens: dict[str, int], times: dict[str, float]) -> None:
    """A line of the table."""
    ours, rivals = times.pop("ours"), times
    cells = [f"{tokens['ours']:,} of {tokens['padded']:,}", f"{ours:.2f}"]
    cells += [
        f"{rivals[rival] / ours:.1f}x" if rival in rivals else "-"
        for rival in ("padded", "gathered")
    ]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def text_lines(rounds: int) -> None:
    """Groups of text."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register("gathered", attend_gathered)
    AttentionMaskInterface.register("gathered", lambda **_: None)
    model = build_model()
    for size, prompt, response in CASES:
        ids, keep = group(size, prompt, response)
        row = gathered_row(ids, keep)
        steps = {
            "ours": lambda ids=ids, keep=keep: trees(model, ids, keep),
            "padded": lambda ids=ids, keep=keep: padded(model, ids, keep),
            "gathered": lambda row=row, size=size: gathered(model, row, size),
        }
        found = {name: step().detach() for name, step in steps.items()}
        for rival in ("padded", "gathered"):
            torch.testing.assert_close(found["ours"], found[rival], rtol=0, atol=1e-4)
        tokens = {"ours": prompt + size * response, "padded": ids.numel()}
        name = f"{size} x {response} tokens, prompt {prompt}"
        report(name, tokens, seconds(model, steps, rounds))


def image_line(rounds: int) -> None:
    """A prompt with an image, and eight responses."""
    from helpers import tiny_models
    from helpers.tiny_models import photo

    processor, model = tiny_models.qwen3_vl_processor(), tiny_models.qwen3_vl_model().float()
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 128 * 128}
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    image = photo(1, 448, 448)
    made = dict(processor(text=[f"{mark}What is it?"], images=[image], return_tensors="pt"))
    prompt, size, keep = made.pop("input_ids"), 8, 32
    made.pop("attention_mask")
    ids = torch.cat([prompt.expand(size, -1), torch.randint(0, 200, (size, keep))], 1)
    family = tp.families.find(processor)
    media = {name: value for name, value in made.items() if not name.endswith("type_ids")}
    types = torch.zeros_like(ids)
    types[:, : prompt.shape[1]] = made["mm_token_type_ids"]
    several = {name: torch.cat([value] * size) for name, value in media.items()}

    def ours() -> Tensor:
        tp.hf.prepare(model)
        every = torch.ones_like(ids)
        found = tp.rl.padded_logprobs(model, ids, every, keep, media=[media] * size, family=family)
        return found.logprobs

    def theirs() -> Tensor:
        return padded(model, ids, keep, mm_token_type_ids=types, **several)

    torch.testing.assert_close(ours().detach(), theirs().detach(), rtol=0, atol=1e-4)
    tokens = {"ours": prompt.shape[1] + size * keep, "padded": ids.numel()}
    times = seconds(model, {"ours": ours, "padded": theirs}, rounds)
    report(f"{size} x {keep} tokens, prompt {prompt.shape[1]} with an image", tokens, times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image", action="store_true", help="the last line alone")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine.describe())
    print(
        "| group | tokens, ours of padded | seconds, ours | padded | gathered |\n"
        "|---|---|---|---|---|"
    )
    if not arguments.image:
        text_lines(rounds)
    image_line(rounds)


if __name__ == "__main__":
    main()
