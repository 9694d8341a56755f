"""The programs of a run, compiled for a slice of TPU chips on a computer that has none."""
