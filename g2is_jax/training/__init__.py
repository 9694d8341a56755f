"""One loss and one loop, for the warm-up and for the fine-tune."""
