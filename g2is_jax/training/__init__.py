"""The loss, the optimiser and the loop, the same for the warm-up and the fine-tune."""
