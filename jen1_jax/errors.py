"""The one exception that a person is meant to read."""


class Refusal(ValueError):
    """Bad input, said in one sentence that names the thing and the way out; the command line prints it and exits with 1."""
