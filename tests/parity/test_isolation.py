"""Through a whole text model, nobody hears of a sibling, of another example, or of padding."""

import copy

import numpy as np
import pytest
import torch
from helpers.cases import cases
from helpers.text_rows import (
    MODELS,
    VOCABULARY,
    distance,
    gradients,
    language_model,
    paths,
    random_row,
)
from helpers.unrounded import unrounded

STATES = GRADIENTS = 1e-12


@pytest.fixture(params=MODELS)
def model(request):
    # Only Molmo2 attends both ways among image tokens; the mask says so, not the model.
    made = language_model(request.param)
    with unrounded():
        yield made


def hidden(model, inputs, **changes):
    return model(**{**inputs, **changes}).last_hidden_state[0]


def embedded(model, inputs):
    """The same inputs as embeddings, of which gradients can be had."""
    embeds = model.embed_tokens(inputs["input_ids"]).detach()
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    return {**rest, "inputs_embeds": embeds}


def enable_checkpointing(model):
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_a_changed_node_moves_nothing_but_its_own_subtree(model):
    for rng in cases(10, "perturbed"):
        mask, inputs = random_row(rng)
        with torch.no_grad():
            before = hidden(model, inputs)
            for node in np.flatnonzero(mask.node_end > mask.node_start):
                start, end = int(mask.node_start[node]), int(mask.subtree_end[node])
                ids = inputs["input_ids"].clone()
                ids[0, start] = (ids[0, start] + 1) % VOCABULARY
                moved = (hidden(model, inputs, input_ids=ids) != before).any(-1)
                assert moved[start]
                moved[start:end] = False
                assert not moved.any()


def test_a_loss_on_one_node_reaches_its_path_alone(model):
    for rng in cases(5, "gradient paths"):
        mask, inputs = random_row(rng)
        inputs = embedded(model, inputs)
        for node in np.flatnonzero(mask.node_end > mask.node_start):
            x = inputs["inputs_embeds"].clone().requires_grad_()
            rows = slice(int(mask.node_start[node]), int(mask.node_end[node]))
            hidden(model, inputs, inputs_embeds=x)[rows].square().sum().backward()
            reached = x.grad[0].abs().sum(-1) > 0
            sees = torch.from_numpy(mask.to_dense()[rows].any(0))
            assert torch.equal(reached, sees)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_nan_in_every_padding_row_changes_no_token(model, checkpointed):
    if checkpointed:
        enable_checkpointing(model)
    for rng in cases(5, "nan padding"):
        mask, inputs = random_row(rng)
        inputs = embedded(model, inputs)
        outcomes = []
        for filling in (0.5, torch.nan):
            x = inputs["inputs_embeds"].clone()
            x[0, mask.used :] = filling
            x.requires_grad_()
            out = hidden(model, inputs, inputs_embeds=x)[: mask.used]
            out.square().sum().backward()
            outcomes.append((out.detach(), x.grad[0, : mask.used]))
        (clean, clean_grad), (dirty, dirty_grad) = outcomes
        assert clean.isfinite().all()
        assert torch.equal(clean, dirty)
        assert torch.equal(clean_grad, dirty_grad)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_tokens_in_the_padding_train_nothing(model, checkpointed):
    if checkpointed:
        enable_checkpointing(model)
    for rng in cases(5, "garbage padding"):
        mask, inputs = random_row(rng)
        found = []
        for token in (0, 7):
            ids = inputs["input_ids"].clone()
            ids[0, mask.used :] = token
            loss = hidden(model, inputs, input_ids=ids)[: mask.used].square().sum()
            found.append((loss.item(), gradients(model, loss)))
        assert found[0][0] == found[1][0]
        assert distance(found[1][1], found[0][1]) == 0


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_every_path_has_the_states_and_gradients_of_stock_attention_alone(model, checkpointed):
    stock = copy.deepcopy(model)
    stock.set_attn_implementation("sdpa")
    if checkpointed:
        enable_checkpointing(model)
    for rng in cases(5, "paths alone"):
        mask, inputs = random_row(rng)
        states = hidden(model, inputs)
        dense, covered = torch.from_numpy(mask.to_dense()), torch.zeros(mask.total, dtype=bool)
        weights = torch.from_numpy(rng.standard_normal(states.shape))
        loss = 0.0
        for path in paths(mask):
            # Positions count from 0 along the path, as they do by default.
            own = {"input_ids": inputs["input_ids"][:, path], "use_cache": False}
            found = hidden(stock, own, attention_mask=dense[path][:, path][None, None])
            assert (found - states[path]).abs().max() < STATES
            loss = loss + (found * weights[path])[~covered[path]].sum()
            covered[path] = True
        assert covered.sum() == mask.used
        wanted = gradients(stock, loss)
        assert distance(gradients(model, (states * weights)[covered].sum()), wanted) < GRADIENTS
