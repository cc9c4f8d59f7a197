"""Compiles a program, and keeps the result by all that it depends on."""

import gzip
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import jax

from jen1_jax.planning.program import Program
from jen1_numpy.errors import Refusal
from jen1_numpy.files import whole_file


def compile_step(program: Program, where: str) -> dict[str, Any]:
    """`text` and `memory` (bytes by kind) of the step, compiled for the chips `where`.

    What was compiled before is read from the cache: the folder jen1-jax/plan in XDG_CACHE_HOME, or
    in ~/.cache. Raises `Refusal` for a step that does not fit into the chips' memory.
    """
    lowered = program.lower()
    key = [lowered.as_text(), where, os.environ.get("LIBTPU_INIT_ARGS", ""), versions()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = caches / "jen1-jax" / "plan" / f"{digest[:32]}.json.gz"
    if file.is_file():
        with gzip.open(file, "rt") as stored:
            return json.load(stored)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).split("RESOURCE_EXHAUSTED: ")[-1].splitlines()[0]
        raise Refusal(
            f"The step does not fit into the memory of {where}: {reason} Split the parameters over "
            "more chips (mesh.axes.fsdp), or the batch into more microbatches."
        ) from None
    fields = ("argument", "output", "alias", "temp", "generated_code")
    memory = compiled.memory_analysis()
    result = {
        "text": compiled.as_text(),
        "memory": {name: getattr(memory, f"{name}_size_in_bytes") for name in fields},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial, gzip.open(partial, "wt") as stored:
        json.dump(result, stored)
    return result


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
