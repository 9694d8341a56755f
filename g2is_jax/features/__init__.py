"""Per-example gradient features and the store that holds them."""
