"""The way of an example from its source into a pack, for one virtual shard."""
