"""A language-model head by itself, whose logits may be deferred."""

from __future__ import annotations

import torch
from torch import nn
from treepack.hf.head import hooks, rows, slices


class Headed(nn.Module):
    """What a model of transformers is to its head: soft caps, scales, and an index of positions."""

    def __init__(self, head, after=lambda logits: logits):
        super().__init__()
        self.head, self.after = head, after

    def get_output_embeddings(self):
        return self.head

    def forward(self, hidden):
        return {"logits": self.after(self.head(hidden))}


class Stacked(nn.Module):
    """A head that is more than one matrix."""

    def __init__(self, hidden, vocabulary):
        super().__init__()
        self.first, self.second = nn.Linear(hidden, 3), nn.Linear(3, vocabulary)

    def forward(self, hidden):
        return self.second(self.first(hidden).tanh())


class Low(nn.Linear):
    """A linear head with a forward of its own, as quantised ones and LoRA have."""

    def forward(self, hidden):
        return 0.5 * super().forward(hidden) + hidden @ self.weight.T


def deferred(head, after=lambda logits: logits):
    model = Headed(head, after)
    hooks.defer(model)
    return model


def cut_finely(monkeypatch, elements, least=1):
    """Let so many logits exist at a time."""
    monkeypatch.setattr(slices, "ELEMENTS", elements)
    monkeypatch.setattr(slices, "LEAST", least)
    monkeypatch.setattr(rows, "ELEMENTS", elements)


def leaf(rng, *shape, scale=1.0, dtype=torch.float64):
    value = torch.from_numpy(rng.standard_normal(shape) * scale).to(dtype)
    return value.requires_grad_()
