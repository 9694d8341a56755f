"""The method and its rivals, in numpy and jax alone: to be read and tested without a network."""
