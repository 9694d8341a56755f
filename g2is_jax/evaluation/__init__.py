"""Scores of a tuned model on test files, and intervals of their differences."""
