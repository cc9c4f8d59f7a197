"""Loads configurations from presets and files, applies overrides, and converts them to JSON.

Unknown fields and values of a wrong type raise `Refusal`.
"""

import ast
import importlib
import importlib.util
import math
import pkgutil
from collections.abc import Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jen1_numpy.errors import Refusal

# Fields with the names of tasks as keys. A configuration file may add tasks, so these keys are not
# checked here; `jen1_jax.tasks` refuses unknown ones.
FREE_KEYS = (".tasks.ratios", ".tasks.weights")


def load_config(name: str, overrides: Mapping[str, str] = {}) -> ConfigDict:
    """The configuration `name`: a preset such as `jen1`, or a Python file with `get_config()`.

    `overrides` maps dotted keys to literals. Raises `Refusal` if there is no such configuration, or
    if it has missing or unknown fields or values of a wrong type.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise Refusal(
                f"There is no configuration file {name}; give a path to one or a preset: "
                f"{', '.join(presets())}."
            )
        module = run_file(name)
    elif name in presets():
        module = importlib.import_module(f"configs.{name}")
    else:
        raise Refusal(
            f"There is no preset {name!r}; the presets are {', '.join(presets())}, and a file ends "
            "in .py."
        )
    if not hasattr(module, "get_config"):
        raise Refusal(f"{name} has no get_config(); start from configs/jen1.py.")
    try:
        config = module.get_config()
    except (AttributeError, KeyError) as error:  # from a locked ConfigDict
        raise Refusal(f"{name} cannot be used: {str(error).strip().splitlines()[0]}") from None
    _check_keys(to_plain(config), _all_fields(), name)
    for key, value in overrides.items():
        override(config, key, value)
    _check_types(to_plain(config), _all_fields(), name)
    return config.lock()


def run_file(name: str) -> ModuleType:
    """Executes a Python file as a module; what it registers can then be used by name."""
    if not Path(name).is_file():
        raise Refusal(f"There is no file {name}; give the path of a Python file.")
    loader = SourceFileLoader(Path(name).stem, name)
    module = importlib.util.module_from_spec(ModuleSpec(loader.name, loader, origin=name))
    loader.exec_module(module)
    return module


def _all_fields() -> dict[str, Any]:
    """All fields of a configuration, with the values of the paper."""
    return to_plain(importlib.import_module("configs.jen1").get_config())


def _check_keys(values: Any, known: dict, where: str) -> None:
    """Checks that `values` has the same fields as `known`; `where` names it in messages."""
    if not isinstance(values, dict):
        raise Refusal(
            f"{where} is a section with the fields {', '.join(known)}; {values!r} is not one."
        )
    for key in values.keys() ^ known.keys():
        place = f"{where}.{key}"
        if key in values:
            raise Refusal(
                f"{place} is not a field of any configuration; the fields of {where} are: "
                f"{', '.join(known)}."
            )
        raise Refusal(
            f"{place} is missing; start from configs/jen1.py, which has every field. A run of "
            "another version must be trained again in another --workdir."
        )
    for key, value in known.items():
        if isinstance(value, dict) and not f"{where}.{key}".endswith(FREE_KEYS):
            _check_keys(values[key], value, f"{where}.{key}")


def _check_types(value: Any, known: Any, where: str) -> None:
    """Checks that `value` has the type of `known` and that numbers are finite.

    Lists may be longer or shorter than in `known`.
    """
    if isinstance(known, dict) and isinstance(value, dict):
        for key, entry in value.items():
            example = 1.0 if where.endswith(FREE_KEYS) else known[key]
            _check_types(entry, example, f"{where}.{key}")
    elif isinstance(known, list) and isinstance(value, list):
        for index, entry in enumerate(value):
            # The lists that are empty in `known` are lists of names.
            example = known[min(index, len(known) - 1)] if known else ""
            _check_types(entry, example, where)
    elif value is None and where.endswith("mesh.rules"):
        pass  # a rule may leave out an axis
    else:
        fits = type(value) is type(known) or (type(value), type(known)) == (int, float)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise Refusal(
                f"{where} holds a {type(known).__name__} like {known!r}; {value!r} is not one."
            )


def presets() -> list[str]:
    """The names of the configurations in the package."""
    import configs

    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets the field at the dotted `key` to the literal `text`.

    A field keeps its type; an integer is converted for a float. Raises `Refusal` otherwise.
    """
    *sections, name = key.split(".")
    node = config
    for section in sections:
        node = node[section] if isinstance(node, ConfigDict) and section in node else None
    if not isinstance(node, ConfigDict) or name not in node or isinstance(node[name], ConfigDict):
        section = node if isinstance(node, ConfigDict) else config
        known = ", ".join(section.keys())
        raise Refusal(
            f"The configuration has no field {key!r}; the fields at that level are: {known}."
        )
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
    """The inverse of `to_plain`; `where` names the `values` in messages.

    Missing fields get no defaults, since a run stores its whole configuration. The values may have
    been edited by hand: raises `Refusal` for a field that is missing, unknown or of another type
    than in configs/jen1.py.
    """
    _check_keys(values, _all_fields(), where)
    _check_types(values, _all_fields(), where)

    def restore(value):
        if isinstance(value, Mapping):
            return ConfigDict({key: restore(item) for key, item in value.items()})
        return tuple(restore(item) for item in value) if isinstance(value, list) else value

    return restore(values).lock()
