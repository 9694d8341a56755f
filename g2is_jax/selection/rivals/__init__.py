"""The selectors that the walk is compared with, one file for each family."""
