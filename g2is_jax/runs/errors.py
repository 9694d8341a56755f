"""The errors that end a run with one line, and no traceback."""

FAILED = 2  # exit status after an InputError


class InputError(ValueError):
    """Something in the user's files, settings or work folder is wrong: one line for each thing.

    The message names the place (file, line, field) and the way out.
    """


class StoreLost(RuntimeError):
    """A store cannot be reached: nobody's mistake, and the same command goes on later."""
