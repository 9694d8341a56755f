"""The one error that a user can act on."""


class InputError(ValueError):
    """Something in the user's files, settings or work folder is wrong; the message is one line.

    The message names the place (file, line, field) and the way out.
    """
