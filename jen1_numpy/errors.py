"""The exception whose message is written for the user."""


class Refusal(ValueError):
    """Bad input; the message is one sentence that names the thing and how to correct it.

    The command line prints the message and exits with status 3.
    """
