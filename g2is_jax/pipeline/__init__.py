"""A config at work: its settings, its inputs, and one file for each stage."""
