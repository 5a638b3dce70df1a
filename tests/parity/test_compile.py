"""One compiled graph for every pack, without a break, with the results of eager."""

import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.text_rows import (
    causal_model,
    compiled,
    distance,
    gradients,
    language_model,
    loss_of,
    random_row,
    random_trees,
)

# Norms and the rotary embedding compute in float32 whatever the model's dtype.
GRADIENTS = 1e-6
DTYPES = {"llama": torch.float32, "qwen3": torch.float32, "molmo2": torch.float64}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "dtype"), DTYPES.items())
def test_one_graph_fits_rows_of_one_length_and_two_fit_all(name, dtype):
    model = language_model(name, dtype)
    graph, counter = compiled(model)
    plan_sizes = set()
    for graphs, total in ((1, 90), (2, None)):
        for rng in cases(10, f"compiled at {total}"):
            mask, inputs = random_row(rng, total, longest=4, most_nodes=6)
            plan_sizes.add(inputs["treepack"].plan.entries.numel())
            eager, traced = (loss_of(m, mask, inputs) for m in (model, graph))
            assert eager.item() == traced.item()
            assert distance(gradients(model, traced), gradients(model, eager)) == 0
        # Where the row length varies too, the second length makes it symbolic.
        assert counter.frame_count == graphs
    assert len(plan_sizes) > 3


def test_a_step_compiles_whole_from_batch_to_loss():
    model = causal_model()
    graph, counter = compiled(model)
    for rng in cases(6, "whole step"):
        batch = tp.collate(random_trees(rng, int(rng.integers(1, 4))))
        eager, traced = (m(**batch).loss for m in (model, graph))
        assert abs(eager.item() - traced.item()) < GRADIENTS
        assert distance(gradients(model, traced), gradients(model, eager)) < GRADIENTS
    assert counter.frame_count <= 2


def test_autocast_is_part_of_the_graph():
    model = causal_model(num_hidden_layers=1).model.float()
    graph, counter = compiled(model)
    for rng in cases(3, "autocast compiled"):
        mask, inputs = random_row(rng)
        with torch.autocast("cpu", torch.bfloat16):
            eager, traced = (loss_of(m, mask, inputs) for m in (model, graph))
        assert eager.item() == traced.item()
        assert distance(gradients(model, traced), gradients(model, eager)) == 0
    assert counter.frame_count <= 2


def test_inductor_computes_the_same():
    def attend(q, k, v, row):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return tp.attention.tree_attention(q, k, v, row)

    (rng,) = cases(1, "inductor")
    mask, inputs = random_row(rng)
    tensors = [torch.randn(heads, mask.total, 8, requires_grad=True) for heads in (4, 2, 2)]
    results = []
    for function in (attend, torch.compile(attend, fullgraph=True)):
        out = function(*tensors, inputs["treepack"])
        results.append((out, *torch.autograd.grad(out.square().sum(), tensors)))
    for eager, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, eager)
