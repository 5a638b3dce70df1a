"""Slow, readable reference implementations: what the property tests compare the fast routines with.

Nothing here is called in training. Each function says in a few obvious lines what its fast
counterpart computes, and shares no code with it.
"""
