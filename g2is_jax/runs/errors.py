"""The errors that end in one line."""

FAILED = 2  # exit status after it


class InputError(ValueError):
    """Something in the user's files, settings or work folder is wrong; the message is one line.

    The message names the place (file, line, field) and the way out.
    """


class StoreLost(RuntimeError):
    """A store cannot be reached: nobody's mistake, and the same command goes on later."""
