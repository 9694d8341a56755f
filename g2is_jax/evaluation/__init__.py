"""Scores of a tuned model on test files, and the report."""
