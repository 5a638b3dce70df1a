"""Slow, readable twins of the fast routines: what the property tests compare them with.

Nothing here is called in training. Each function says in a few obvious lines what its fast twin
computes, and shares no code with it.
"""
