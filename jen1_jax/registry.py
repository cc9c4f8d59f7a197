"""Choices that a configuration makes by name."""

from collections.abc import Mapping

from jen1_jax.errors import Refusal


class Registry(dict):
    """The choices of one kind by name; looking up an unknown name is refused with the known ones listed."""

    def __init__(self, kind: str, choices: Mapping):
        super().__init__(choices)
        self.kind = kind

    def __missing__(self, name):
        raise Refusal(f"Unknown {self.kind} {name!r}: choose one of {', '.join(self)}.")
