"""Captions after the user's own templates, such as "{genre} in {key}, {bpm} BPM".

A template names fields and nothing else: the file may come from anyone, and Python's `str.format`
would give it the attributes of objects.
"""

import os
import re
from dataclasses import dataclass
from typing import Any

from data_pipeline.sidecars import read_text
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

FIELD = re.compile(r"\{(\w[\w .:-]*)\}")
LONGEST = 600  # characters of a value; with a longer one the template is not used


@dataclass(frozen=True)
class Template:
    """A line in which `{name}` stands for the field `name`."""

    text: str

    def filled(self, fields: dict[str, Any]) -> str | None:
        """The line with the values of its fields; None unless each is a text, texts or a number."""
        values = {name: _value(fields.get(name)) for name in FIELD.findall(self.text)}
        if not all(values.values()):
            return None
        return FIELD.sub(lambda match: values[match[1]], self.text)


def read_templates(path: str | os.PathLike) -> tuple[Template, ...]:
    """The templates of a text file in UTF-8, one a line; empty lines and lines with # are none.

    Raises:
        Refusal: the file cannot be read, has no template, or a line has a brace that is not part of
            a `{name}`, or no field.
    """
    try:
        text = read_text(local(path))
    except ValueError as error:
        raise Refusal(f"Cannot read the templates {path}: {error}.") from None
    if text is None:
        raise Refusal(f"There are no templates in {path}: no such file.")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = " ".join(line.split())
        if not line or line.startswith("#"):
            continue
        if re.search("[{}]", FIELD.sub("", line)) or not FIELD.search(line):
            raise Refusal(
                f"{path}, line {number}, is no template: write the names of fields in braces, as "
                "in {genre} in {key}, and no other braces."
            )
        found.append(Template(line))
    if not found:
        raise Refusal(f"{path} has no template; write one on each line.")
    return tuple(found)


def number_text(value: Any) -> Any:
    """A number of a sensible size as a text; another value as it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.12g}" if number and abs(value) < 1e15 else value


def _value(value: Any) -> str:
    """A text, several with commas, or a number as a text; "" for anything else."""
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        value = ", ".join(filter(None, map(str.strip, value)))
    value = number_text(value)
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if len(text) <= LONGEST else ""
