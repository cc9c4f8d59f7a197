"""Configurations: from a preset or a file, overridden by `--config.a.b=v`, refused where a key is unknown, kept as JSON."""

import ast
import importlib
import importlib.util
import math
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jen1_jax.errors import Refusal

FREE = (
    ".tasks.ratios",
    ".tasks.weights",
)  # name tasks; a configuration file may add some, and unknown ones are refused later


def load_config(name: str, overrides: Mapping[str, str] = {}) -> ConfigDict:
    """The configuration of a packaged preset (`jen1`) or of a Python file with `get_config()`, with overrides by dotted key."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise Refusal(
                f"There is no configuration file {name}; give a path to one or a preset: {', '.join(presets())}."
            )
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    elif name in presets():
        module = importlib.import_module(f"configs.{name}")
    else:
        raise Refusal(
            f"There is no preset {name!r}; the presets are {', '.join(presets())}, and a file ends in .py."
        )
    if not hasattr(module, "get_config"):
        raise Refusal(f"{name} has no get_config(); start from configs/jen1.py.")
    try:
        config = module.get_config()
    except (AttributeError, KeyError) as error:  # a locked ConfigDict says so itself
        raise Refusal(f"{name} cannot be used: {str(error).strip().splitlines()[0]}") from None
    _check_keys(to_plain(config), _all_fields(), name)
    for key, value in overrides.items():
        override(config, key, value)
    _check_types(to_plain(config), _all_fields(), name)
    return config.lock()


def _all_fields() -> dict[str, Any]:
    """Every field there is, with the paper's value."""
    return to_plain(importlib.import_module("configs.jen1").get_config())


def _check_keys(values: Any, known: dict, where: str) -> None:
    """Every field of a configuration stands in configs/jen1.py, and the other way round."""
    if not isinstance(values, dict):
        raise Refusal(
            f"{where} is a section with the fields {', '.join(known)}; {values!r} is not one."
        )
    for key in values.keys() ^ known.keys():
        place = f"{where}.{key}"
        if key in values:
            raise Refusal(
                f"{place} is not a field of any configuration; at that place there are: {', '.join(known)}."
            )
        raise Refusal(
            f"{place} is missing; start from configs/jen1.py, which has every field. A run of another version must be trained "
            "anew in another --workdir."
        )
    for key, value in known.items():
        if isinstance(value, dict) and not f"{where}.{key}".endswith(FREE):
            _check_keys(values[key], value, f"{where}.{key}")


def _check_types(value: Any, known: Any, where: str) -> None:
    """A value is of the type that it has in configs/jen1.py, a number finite. Lists may be longer or shorter than there."""
    if isinstance(known, dict) and isinstance(value, dict):
        for key in value:
            _check_types(value[key], 1.0 if where.endswith(FREE) else known[key], f"{where}.{key}")
    elif isinstance(known, list) and isinstance(value, list):
        for place, entry in enumerate(value):
            like = known[min(place, len(known) - 1)] if known else ""  # an empty list is of names
            _check_types(entry, like, where)
    elif not (value is None and where.endswith("mesh.rules")):  # an axis may be left out there
        fits = type(value) is type(known) or (type(value), type(known)) == (int, float)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise Refusal(
                f"{where} holds a {type(known).__name__} like {known!r}; {value!r} is not one."
            )


def presets() -> list[str]:
    """Names of the configurations that ship with the package."""
    import configs

    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets the field at the dotted `key` to the literal `text`; a value keeps its field's type (an integer may fill a float)."""
    *sections, name = key.split(".")
    node = config
    for section in sections:
        node = node[section] if isinstance(node, ConfigDict) and section in node else None
    if not isinstance(node, ConfigDict) or name not in node or isinstance(node[name], ConfigDict):
        where = node if isinstance(node, ConfigDict) else config
        known = ", ".join(where.keys())
        raise Refusal(f"The configuration has no field {key!r}; at that place there are: {known}.")
    old = node[name]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, str):
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(old):
        raise Refusal(
            f"The field {key} holds a {type(old).__name__} like {old!r}; {text!r} is not one."
        )
    node[name] = value


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON types: tuples become lists."""

    def plain(value):
        if isinstance(value, ConfigDict | dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    return plain(config)


def from_plain(values: Mapping[str, Any], where: str) -> ConfigDict:
    """The inverse of `to_plain`, of values that may have been edited by hand; `where` names them.

    What is missing takes no default: a run's configuration is complete. Raises `Refusal` for a field that is missing, unknown or
    of another type than in configs/jen1.py.
    """
    _check_keys(values, _all_fields(), where)
    _check_types(values, _all_fields(), where)

    def restore(value):
        if isinstance(value, Mapping):
            return ConfigDict({key: restore(item) for key, item in value.items()})
        return tuple(restore(item) for item in value) if isinstance(value, list) else value

    return restore(values).lock()
