"""GRPO on trees trains as TRL's own trainer does: equal weights after some steps."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from datasets import Dataset
from helpers import zoo
from helpers.text_rows import stock_model
from helpers.tiny_models import photo
from helpers.zoo.patches import QWEN_TEMPLATE
from treepack import errors, rl
from treepack.rl import grpo

trl = pytest.importorskip("trl")
PIL = pytest.importorskip("PIL.Image")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Seeded:
    """Both trainers draw alike: samples from the step, and groups in the same order."""

    def _generate_and_score_completions(self, inputs):
        torch.manual_seed(100 + self._step)
        return super()._generate_and_score_completions(inputs)


class StockTrainer(Seeded, trl.GRPOTrainer):
    """TRL's, but that groups stay together when samples are shuffled, as ours does it."""

    _prepare_inputs = grpo.TreeGRPO._prepare_inputs


class OurTrainer(Seeded, rl.GRPOTrainer):
    """Ours."""


def distinct(completion_ids, **_):
    """A reward: how many different tokens there are."""
    return [float(len(set(ids))) for ids in completion_ids]


@functools.cache
def tokenizer():
    processor, _ = zoo.build("qwen3_vl")
    return processor.tokenizer


def prompts():
    texts = ("What is it?", "Why?", "Name three of them, please.", "Where is it then?")
    return Dataset.from_dict({"prompt": [texts[n % 4] + str(n) for n in range(8)]})


def far(a, b):
    return float((a - b).detach().abs().max())


def saved(model, folder):
    """The model as one that was downloaded: TRL loads the reference model by the same path."""
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def trained(kind, model, folder, dataset, processing_class, **options):
    settings = {
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
        "max_completion_length": 6,
        "max_steps": 4,
        "learning_rate": 0.5,
        "optim": "sgd",
        "loss_type": "dr_grpo",
        **options,
    }
    peft = settings.pop("peft_config", None)
    args = trl.GRPOConfig(
        str(folder), report_to=[], use_cpu=True, bf16=False, save_strategy="no", seed=3, **settings
    )
    trainer = kind(
        model=copy.deepcopy(model),
        reward_funcs=distinct,
        args=args,
        train_dataset=dataset,
        processing_class=processing_class,
        peft_config=peft,
    )
    trainer.train()
    return trainer


def compare(tmp_path, model, dataset, processing_class, tolerance, **options):
    found = [
        trained(kind, model, tmp_path, dataset, processing_class, **options)
        for kind in (StockTrainer, OurTrainer)
    ]
    stock, ours = (dict(each.model.named_parameters()) for each in found)
    before = dict(model.named_parameters())
    # The second matrix of an adapter is 0 before it is trained.
    moved = [far(p, before.get(n, 0 * p)) for n, p in stock.items() if n in before or "_B" in n]
    assert max(moved) > 20 * tolerance
    assert max(far(p, ours[name]) for name, p in stock.items()) < tolerance
    logs = [[log["loss"] for log in each.state.log_history if "loss" in log] for each in found]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.04, "num_iterations": 2},
        {"gradient_checkpointing": True, "loss_type": "grpo", "temperature": 0.7},
        {"gradient_accumulation_steps": 1, "steps_per_generation": 4, "num_iterations": 2},
    ],
)
def test_text(tmp_path, options):
    model = saved(stock_model("qwen3", vocab_size=len(tokenizer())).float(), tmp_path / "model")
    options = {"gradient_checkpointing": False, **options}
    compare(tmp_path, model, prompts(), tokenizer(), 1e-4, **options)


def test_an_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    model = saved(stock_model("qwen3", vocab_size=len(tokenizer())).float(), tmp_path / "model")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    compare(
        tmp_path,
        model,
        prompts(),
        tokenizer(),
        1e-4,
        peft_config=config,
        beta=0.1,
        gradient_checkpointing=False,
    )


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "internvl"])
def test_prompts_with_images(tmp_path, name):
    processor, model = copy.deepcopy(zoo.build(name))
    processor.chat_template = processor.chat_template or QWEN_TEMPLATE
    images = [PIL.fromarray(photo(n, 56, 64)) for n in range(8)]
    said = [[{"role": "user", "content": "What is it?"}] for _ in images]
    dataset = Dataset.from_dict({"prompt": said, "image": images})
    model = saved(model.float(), tmp_path / "model")
    compare(tmp_path, model, dataset, processor, 1e-4, gradient_checkpointing=False)


def test_a_group_that_would_be_split_is_named(tmp_path):
    model = stock_model("qwen3", vocab_size=len(tokenizer())).float()
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    options |= {"steps_per_generation": 4}
    with pytest.raises(errors.BatchError, match="a group would be split"):
        trained(OurTrainer, model, tmp_path, prompts(), tokenizer(), **options)
