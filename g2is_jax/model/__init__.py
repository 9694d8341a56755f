"""The decoder, its weights and its adapter: the only room that imports flax."""
