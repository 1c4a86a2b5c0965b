"""The one exception that means: the user gave something that cannot be used."""


class UserError(ValueError):
    """Bad input. The message says, in one line, what was expected, what came and what to do.

    The scripts print it as ``error: ...`` and exit with code 2, as they do what the system says of a file and Lightning
    says of an option; any other exception is a bug and keeps its traceback.
    """
