"""The built-in world of procedural instructions, and its small base model."""
