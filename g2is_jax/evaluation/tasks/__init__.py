"""The benchmark tasks: how a question is put, how its answer is read, and when it is right."""
