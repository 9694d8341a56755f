"""The errors that end a run with one line, and no traceback."""

FAILED = 2  # exit status after an InputError


class InputError(ValueError):
    """Something in the user's files, settings or work folder is wrong: an argument for each thing.

    Each is a line that names the place (file, line, field) and the way out.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class NotFinished(InputError):
    """A stage that was only to be read is not finished."""


class StoreLost(RuntimeError):
    """A store cannot be reached: nobody's mistake, and the same command goes on later."""
