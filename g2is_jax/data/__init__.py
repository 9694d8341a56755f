"""Turns instruction files into token arrays."""
