"""The one error that a user can act on."""

FAILED = 2  # exit status after it


class InputError(ValueError):
    """Something in the user's files, settings or work folder is wrong; the message is one line.

    The message names the place (file, line, field) and the way out.
    """
