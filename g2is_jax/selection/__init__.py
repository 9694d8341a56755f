"""The method and its rivals, in numpy and jax alone: no neural network is needed to read or test it."""
