"""The cost of a run, estimated before anything is run."""
