"""The gradient walk: its equations and the ways to walk."""
