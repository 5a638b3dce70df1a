"""Deferred logits: hidden states of a language-model head until somebody looks at the logits."""
