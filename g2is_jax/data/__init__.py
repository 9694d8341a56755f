"""From instruction files to token arrays, and the built-in world."""
