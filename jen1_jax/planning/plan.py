"""What a training will need on given chips: memory, arithmetic, traffic, time and cost.

The real step is compiled by the TPU compiler (`program`), its text is read (`hlo`, `costs`), and
the figures are put against what a chip can do (`chips`). Times are bounds: a step takes as long as
the slowest of arithmetic, memory and network where these overlap (`overlapped`), and as long as all
of them together where they do not (`summed`).
"""

import math
import os
from collections import Counter
from typing import Any

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.chips import chip, network_rate
from jen1_jax.planning.compiled import compile_step, versions
from jen1_jax.planning.costs import Collective, costs
from jen1_jax.planning.hlo import parse
from jen1_jax.planning.program import Program, make_program, model_flops, topology


def plan(config: ConfigDict, part: str, name: str, slices: int = 1, price: float = 0.0) -> dict:
    """The figures of a training of `part` on `slices` TPU slices `name`, like v5e:4x4.

    `price` is in dollars per chip and hour; 0 leaves the cost out. Bytes, FLOPs and seconds are
    those of one step on one chip. Raises `Refusal` for chips or a mesh that do not fit.
    """
    kind, devices = chip(name), topology(name, slices)
    program = make_program(config, part, devices)
    compiled = compile_step(program, f"{name} x {slices}")
    found = costs(parse(compiled["text"]))
    placed = list(program.mesh.devices.flat)
    rate = lambda each: network_rate(kind, placed, each.members)
    collectives = sorted(found.collectives, key=lambda each: -each.received_bytes)
    model, moved = model_flops(config, part) / len(devices), found.traffic.total()
    seconds = {
        "arithmetic": found.flops / kind.flops,
        "memory": moved / kind.hbm_rate,
        "network": sum(each.received_bytes / rate(each) for each in collectives),
    }
    bounds = {"overlapped": max(seconds.values()), "summed": sum(seconds.values())}
    hours = {key: program.training.steps * bound / 3600 for key, bound in bounds.items()}
    memory = _memory(program, compiled["memory"])
    return {
        "part": part,
        "topology": name,
        "slices": slices,
        "chips": len(devices),
        "mesh": dict(program.mesh.shape),
        "batch_size": program.training.batch_size,
        "versions": versions(),
        "flags": os.environ.get("LIBTPU_INIT_ARGS", ""),
        "memory": memory | {"available": kind.hbm},
        "fits": memory["total"] <= kind.hbm,
        "flops": {"model": model, "compiled": found.flops, "ratio": found.flops / model},
        "hbm_bytes": moved,
        "traffic": dict(found.traffic.most_common()),
        "collectives": _by_operand(collectives, rate),
        "kernels_without_flops": sorted(found.unknown_kernels),
        "seconds": seconds,
        "bound_by": max(seconds, key=lambda key: seconds[key]),
        "step_seconds": bounds,
        "share_of_peak": {key: model / kind.flops / bound for key, bound in bounds.items()},
        "steps": program.training.steps,
        "hours": hours,
        "chip_hours": {key: len(devices) * each for key, each in hours.items()},
        "cost": {key: price * len(devices) * each for key, each in hours.items()},
    }


def _memory(program: Program, compiled: dict[str, int]) -> dict[str, int]:
    """Bytes on a chip by kind; results that take the place of arguments do not count again."""
    state = program.state
    kinds = {
        "parameters": _shard_bytes(state.params),
        "optimiser": _shard_bytes(state.optimizer),
        "EMA": _shard_bytes(state.ema),
    }
    kinds["batch"] = max(compiled["argument"] - sum(kinds.values()), 0)
    kinds["temporaries"] = compiled["temp"]
    kinds["outputs"] = compiled["output"] - compiled["alias"]
    kinds["program"] = compiled["generated_code"]
    return kinds | {"total": sum(kinds.values())}


def _shard_bytes(tree: PyTree) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _by_operand(collectives: list[Collective], rate) -> list[dict[str, Any]]:
    """Collectives of the same kind over as many chips, with the same largest operand, together."""
    rows: dict[tuple, Counter] = {}
    for each in collectives:
        operand = max(each.operands, key=lambda part: part.plain_bytes)
        name = f"{operand.dtype}[{','.join(map(str, operand.shape))}]"
        row = rows.setdefault((each.kind, each.size, name), Counter())
        row["times"] += each.times
        row["operand_bytes"] += each.operand_bytes
        row["received_bytes"] += round(each.received_bytes)
        row["seconds"] += each.received_bytes / rate(each)
    named = [
        {"kind": kind, "chips": size, "operand": operand, **row}
        for (kind, size, operand), row in rows.items()
    ]
    return sorted(named, key=lambda row: -row["seconds"])
