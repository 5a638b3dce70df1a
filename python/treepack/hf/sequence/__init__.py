"""Sequence parallelism: one packed row over several ranks, all-to-all over heads (Ulysses)."""
