"""Tables of the choices that a configuration can name."""

from collections.abc import Mapping

from jen1_numpy.errors import Refusal


class Registry(dict):
    """The choices of one `kind` by name; an unknown name raises `Refusal` with all known names."""

    def __init__(self, kind: str, choices: Mapping):
        super().__init__(choices)
        self.kind = kind

    def __missing__(self, name):
        raise Refusal(f"Unknown {self.kind} {name!r}: choose one of {', '.join(self)}.")
