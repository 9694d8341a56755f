"""The mixed gradient graph to look at, count and export."""
