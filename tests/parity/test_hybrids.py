"""Hybrid models, prepared: ``model(**batch)`` gives every path what it gets alone."""

import copy
import functools
import itertools
import sys

import pytest
import torch
import torch.distributed as dist
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.cases import FACTOR, cases
from helpers.text_rows import distance, gradients, paths, random_trees
from helpers.unrounded import unrounded
from treepack.attention.formats import trl_tree_kwargs
from treepack.errors import AttentionError, BatchError, MissingPackageError
from treepack.hf import recurrent

tree_recurrence = pytest.importorskip("tree_recurrence")
pytestmark = pytest.mark.filterwarnings("ignore")

LOGITS = GRADIENTS = 1e-12
TEXT = {**tiny_models.TEXT, "vocab_size": 50, "pad_token_id": 0, "num_hidden_layers": 4}
PLAIN = {name: value for name, value in TEXT.items() if name != "head_dim"}
GATED = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
NEMOTRON = {
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 4,
    "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
}
MODELS = {
    "qwen3_5": lambda: hf.Qwen3_5ForCausalLM(hf.Qwen3_5TextConfig(**TEXT, **GATED)),
    "qwen3_next": lambda: hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**TEXT, **GATED, **EXPERTS)),
    "olmo_hybrid": lambda: hf.OlmoHybridForCausalLM(hf.OlmoHybridConfig(**PLAIN, **GATED)),
    "lfm2": lambda: hf.Lfm2ForCausalLM(
        hf.Lfm2Config(**PLAIN, layer_types=["conv", "full_attention"] * 2)
    ),
    "bamba": lambda: hf.BambaForCausalLM(
        hf.BambaConfig(**PLAIN, **MAMBA, mamba_expand=2, attn_layer_indices=[1, 3])
    ),
    "granite": lambda: hf.GraniteMoeHybridForCausalLM(
        hf.GraniteMoeHybridConfig(
            **PLAIN,
            **MAMBA,
            mamba_n_groups=1,
            num_local_experts=0,
            shared_intermediate_size=24,
            layer_types=["mamba", "attention"] * 2,
        )
    ),
    "nemotron_h": lambda: hf.NemotronHForCausalLM(
        hf.NemotronHConfig(
            **{n: v for n, v in TEXT.items() if n != "num_hidden_layers"}, **NEMOTRON
        )
    ),
}
CHECKED = ("qwen3_5", "lfm2", "bamba")
"""One model of each kind of recurrent layer."""


@functools.cache
def made(name):
    torch.manual_seed(0)
    model = tiny_models.randomised(MODELS[name]())
    # The other implementations of experts have no float64.
    model.set_experts_implementation("eager")
    return model


def pair(name):
    """The stock model, and the same one prepared."""
    return made(name), tp.hf.prepare(copy.deepcopy(made(name)))


@pytest.fixture(autouse=True)
def _unrounded():
    for name in MODELS:
        made(name)
    with unrounded():
        yield


def row(rng, padding=9):
    """A packed row, with more padding than tokens now and then."""
    trees = random_trees(rng, 3)
    return tp.collate(trees, total=sum(tree.n_tokens for tree in trees) + padding)


def compare(stock, ours, batch, weights):
    """Largest differences of logits and gradients between a row and its paths alone."""
    mask = batch["treepack"].mask
    found = ours(**every_position(batch)).logits[0]
    wanted, loss, far = torch.full_like(found, torch.nan), 0.0, 0.0
    for path in paths(mask):
        out = stock(batch["input_ids"][:, path], use_cache=False).logits[0]
        far = max(far, (found[path] - out).abs().max().item())
        new = wanted[path].isnan().any(-1)
        wanted[path[new]] = out.detach()[new]
        loss = loss + (out * weights[path])[new].sum()
    theirs = gradients(stock, loss)
    mine = gradients(ours, (found * weights)[: mask.used].sum())
    return far, distance(mine, theirs)


def every_position(batch):
    """The batch with a target at every position."""
    total = batch["input_ids"].shape[1]
    return {
        **batch,
        "logits_to_keep": torch.arange(total),
        "targets": batch["input_ids"],
        "loss_weights": torch.ones(1, total),
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_path_is_as_if_alone(name):
    stock, ours = pair(name)
    for rng in cases(3, "hybrids"):
        batch = row(rng, padding=int(rng.integers(0, 200)))
        weights = torch.from_numpy(rng.standard_normal((batch["treepack"].mask.total, 50)))
        logits, grads = compare(stock, ours, batch, weights)
        assert logits < LOGITS
        assert grads < GRADIENTS
    tp.hf.restore(ours)


@pytest.mark.parametrize("name", CHECKED)
def test_the_keyword_arguments_of_trl_say_the_same_tree(name):
    stock, ours = pair(name)
    (batch,) = (every_position(row(rng, 2)) for rng in cases(1, "hybrids by TRL's arguments"))
    wanted = ours(**batch).logits[0]
    mask, inputs = batch["treepack"].mask, [batch[n] for n in ("input_ids", "position_ids")]
    kwargs = {name: torch.from_numpy(value) for name, value in trl_tree_kwargs(mask).items()}
    longest = kwargs.pop("tree_max_seqlens").tolist()
    kwargs |= {"tree_max_seqlen_q": longest[0], "tree_max_seqlen_k": longest[1]}
    model = copy.deepcopy(stock)
    tp.hf.register()
    model.set_attn_implementation("treepack")

    def difference(**more):
        ids, positions = inputs
        out = model(ids, position_ids=positions, use_cache=False, treepack=mask, **more)
        return (out.logits[0] - wanted)[: mask.used].abs().max()

    # Without them the recurrent layers run on from one branch into the next.
    assert difference() > 0.1
    assert tree_recurrence.install(model).mode == "tree"
    assert difference(**kwargs) < LOGITS
    tree_recurrence.uninstall(model)


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(name, reentrant):
    _, ours = pair(name)
    checkpointed = tp.hf.prepare(copy.deepcopy(made(name)))
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    used = [
        any(getattr(m, "gradient_checkpointing", False) for m in x.modules())
        for x in (ours, checkpointed)
    ]
    assert used == [False, True]
    for rng in cases(2, "checkpointed hybrids"):
        batch = row(rng)
        plain, again = (gradients(m, m(**batch).loss) for m in (ours, checkpointed))
        assert distance(again, plain) == 0


@pytest.mark.parametrize("name", CHECKED)
def test_autocast_keeps_paths_apart(name):
    stock, ours = (model.float().eval() for model in map(copy.deepcopy, pair(name)))
    (batch,) = (every_position(row(rng)) for rng in cases(1, "autocast hybrids"))
    mask, ids = batch["treepack"].mask, batch["input_ids"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = ours(**batch).logits[0]
        alone = [stock(ids[:, path], use_cache=False).logits[0] for path in paths(mask)]
        flat = stock(ids[:, : mask.used], use_cache=False).logits[0]
    far = [
        max((logits[path] - one).abs().mean() for path, one in zip(paths(mask), alone, strict=True))
        for logits in (found, flat)
    ]
    assert far[0] < 0.05 < far[1] / 5


@pytest.mark.parametrize("name", CHECKED)
def test_a_distributed_wrapper_changes_nothing(name):
    _, ours = pair(name)
    (batch,) = (row(rng) for rng in cases(1, "distributed hybrids"))
    plain = gradients(ours, ours(**batch).loss)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(ours)
        wrapped(**batch).loss.backward()
    finally:
        dist.destroy_process_group()
    assert distance({n: p.grad for n, p in ours.named_parameters()}, plain) == 0


@pytest.mark.parametrize("name", CHECKED)
def test_attention_and_mlp_compile_whole(name):
    torch._dynamo.reset()
    _, ours = pair(name)
    traced = copy.deepcopy(ours)
    compiled = 0
    for layer in traced.get_decoder().layers:
        for part in ("self_attn", "mlp", "feed_forward"):
            if hasattr(layer, part):
                getattr(layer, part).compile(backend="eager", fullgraph=True)
                compiled += 1
    assert compiled == 6
    for rng in cases(2, "compiled hybrids"):
        batch = row(rng)
        plain, again = (gradients(m, m(**batch).loss) for m in (ours, traced))
        assert distance(again, plain) < GRADIENTS
    torch._dynamo.reset()


@pytest.mark.skipif(FACTOR < 10, reason="takes a minute; TREEPACK_CASES=10 runs it")
@pytest.mark.parametrize("name", CHECKED)
def test_a_compiled_model_gives_the_same(name):
    torch._dynamo.reset()
    _, ours = pair(name)
    graph = torch.compile(ours, backend="eager")
    for rng in itertools.islice(cases(1, "compiled hybrids"), 1):
        batch = row(rng)
        plain, traced = (gradients(ours, m(**batch).loss) for m in (ours, graph))
        assert distance(traced, plain) < GRADIENTS
    torch._dynamo.reset()


class Peft(torch.nn.Module):
    """Calls the forward of the model, past its hooks, as PEFT does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def get_base_model(self):
        return self.model

    def forward(self, **inputs):
        return self.model.forward(**inputs)


def test_a_wrapper_that_calls_forward_changes_nothing():
    stock, ours = pair("qwen3_5")
    wrapped = tp.hf.prepare(Peft(copy.deepcopy(stock)))
    (batch,) = (row(rng) for rng in cases(1, "wrapped hybrids"))
    assert torch.equal(wrapped(**batch).loss, ours(**batch).loss)


@pytest.mark.parametrize("name", MODELS)
def test_a_restored_model_is_as_never_prepared(name):
    stock, ours = pair(name)
    (batch,) = (row(rng) for rng in cases(1, "restored hybrids"))
    ids = batch["input_ids"][:, :6]
    before = ours(**batch).loss
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in stock.modules()]
    plain = stock(ids).logits
    for _ in range(2):
        with tp.hf.restore(ours):
            assert not recurrent.follows(ours)
            assert torch.equal(ours(ids).logits, plain)
            written = [
                m.eval().generate(ids, max_new_tokens=3, do_sample=False) for m in (ours, stock)
            ]
            assert torch.equal(*written)
        assert torch.equal(ours.train()(**batch).loss, before)
    tp.hf.restore(ours)
    stock.train()
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in ours.modules()] == hooks
    assert torch.equal(ours(ids).logits, plain)


def test_a_copy_follows_when_the_original_no_longer_does():
    _, ours = pair("qwen3_5")
    (batch,) = (row(rng) for rng in cases(1, "copied hybrids"))
    wanted = ours(**batch).loss
    copied = copy.deepcopy(ours)
    tp.hf.restore(ours)
    assert torch.equal(copied(**batch).loss, wanted)
    tp.hf.restore(copied)
    assert not recurrent.follows(copied)


def test_layers_that_stopped_following_are_an_error():
    _, ours = pair("qwen3_5")
    (batch,) = (row(rng) for rng in cases(1, "lost hybrids"))
    tree_recurrence.uninstall()
    with pytest.raises(AttentionError, match=r"ran on from one branch into the next.*prepare"):
        ours(**batch)
    tp.hf.prepare(ours)
    ours(**batch)


def test_what_recurrent_layers_cannot_follow_is_rejected():
    _, ours = pair("qwen3_5")
    ids = torch.arange(4)[None]
    seeing = tp.TreeMask.from_nodes([4], [-1], image_runs=[(0, 1, 3)], bidirectional="within_image")
    with pytest.raises(BatchError, match=r"from left to right.*bidirectional=\"none\""):
        ours(input_ids=ids, treepack=seeing, use_cache=False)
    plan = tp.collate([tp.MessageTree([1, 2, 3])])["treepack"].plan
    with pytest.raises(AttentionError, match=r"a TreePlan does not.*batch\['treepack'\]"):
        ours(input_ids=ids, treepack=plan, use_cache=False)
    with pytest.raises(AttentionError, match=r"prepared for packed batches.*tp\.hf\.restore"):
        ours(input_ids=ids, use_cache=False)


def test_a_hybrid_without_the_package_is_rejected(monkeypatch):
    model = copy.deepcopy(made("qwen3_5"))
    monkeypatch.setitem(sys.modules, "tree_recurrence", None)
    with pytest.raises(MissingPackageError, match=r"recurrent layers.*treepack\[hybrid\]"):
        tp.hf.prepare(model)
    assert model.config._attn_implementation == "sdpa"
    assert not recurrent.follows(model)


def test_recurrent_layers_that_the_package_does_not_know_are_rejected():
    sizes = {**PLAIN, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8}
    model = hf.FalconH1ForCausalLM(hf.FalconH1Config(**sizes))
    with pytest.raises(
        AttentionError, match=r"tree-recurrence .* cannot make follow a tree: falcon"
    ):
        tp.hf.prepare(model)
    assert model.config._attn_implementation == "sdpa"


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "depth": 2,
    "patch_size": 4,
    "out_hidden_size": 16,
    "num_position_embeddings": 36,
}


def qwen3_5_vl():
    tokenizer = tiny_models.qwen3_vl_processor().tokenizer
    names = ("vision_start", "vision_end", "image", "video")
    ids = tokenizer.convert_tokens_to_ids(tiny_models.QWEN_TOKENS)
    rope = {"mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 1.0}
    config = hf.Qwen3_5Config(
        text_config={
            **TEXT,
            **GATED,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 8.0, **rope},
        },
        vision_config=VISION,
        **{f"{name}_token_id": token for name, token in zip(names, ids, strict=True)},
    )
    return tiny_models.randomised(hf.Qwen3_5ForConditionalGeneration(config))


def shown(family, rows):
    """Trees that train every token of their branches, and the media of each path alone."""
    for records in rows:
        (example,) = tp.group_conversations(records)
        tree = family.load(example)
        for node in tree.children:
            node.labels = node.tokens.copy()
        images = [medium.value for medium in example.media]
        yield tree, family.processor.image_processor(images, return_tensors="pt")


def test_a_vision_language_hybrid_sees_images_as_each_path_alone():
    one, two = tiny_models.photo(1), tiny_models.photo(2, 64, 30)
    texts = [("What is it?", "A cat."), ("And how many?", "1"), ("Where?", "On a mat.")]
    rows = [
        [tiny_models.record(f"<image>\n{q}", a, image=one) for q, a in texts],
        [tiny_models.record(f"<image><image>\n{q}", a, image=[two, one]) for q, a in texts[:2]],
    ]
    family = tp.families.find(tiny_models.qwen3_vl_processor())
    stock = qwen3_5_vl()
    ours = tp.hf.prepare(copy.deepcopy(stock))
    examples = list(shown(family, rows))
    trees = [tree for tree, _ in examples]
    batch = tp.collate(trees, family=family, total=sum(tree.n_tokens for tree in trees) + 9)
    alone, loss = [], 0.0
    for tree, media in examples:
        for node in tree.children:
            tokens = [*tree.tokens.tolist(), *node.tokens.tolist()]
            types = family.processor.create_mm_token_type_ids([tokens])
            ids = torch.tensor([tokens])
            out = stock(ids, mm_token_type_ids=torch.tensor(types), use_cache=False, **media)
            alone.append(out.logits[0, len(tree.tokens) - 1 :])
    logits = torch.cat(alone)
    loss = torch.nn.functional.cross_entropy(logits, batch["targets"][0])
    out = ours(**batch)
    assert (out.logits[0] - logits).abs().max() < LOGITS
    assert distance(gradients(ours, out.loss), gradients(stock, loss)) < GRADIENTS
