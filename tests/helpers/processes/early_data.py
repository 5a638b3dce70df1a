"""A script's module: its dataset is built when it is imported, before any process group."""

from helpers.tree_sources import dataset

EARLY = dataset(n=40)
