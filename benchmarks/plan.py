"""The planned trainings: what the TPU's compiler says about the presets on pods.

    python -m benchmarks.plan [--cells jen1,v5e:4x4,512 ...] [--no-compile]

Compiles the training steps of the table in docs/planning.md, with `jen1 plan`'s own code, keeps
their figures in `benchmarks/plan.jsonl` and writes the table. It needs the extra `plan`, no TPU, 12
GB of memory, and ten minutes and more for each cell on two CPU cores; cells that were compiled from
the same program before take seconds. `--no-compile` only writes the table. The last line on the
screen is JSON.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jen1_jax.config import load_config
from jen1_jax.planning.plan import plan
from jen1_jax.planning.report import report
from jen1_numpy.errors import Refusal

FIGURES = Path(__file__).with_name("plan.jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "planning.md"
START, END = "<!-- written by benchmarks/plan.py -->\n", "<!-- end -->\n"

# With more chips than fsdp can use, parameters are copied along `data` (docs/planning.md).
MESHES = {"v5e:4x4": {}, "v5p:4x4x4": {"data": 4}, "v5e:16x16": {"data": 16}}
MESHES |= {"v6e:16x16": MESHES["v5e:16x16"], "v5p:8x8x8": {"data": 64}}
# With few examples a chip the network limits, and weights and sums travel as little as they can.
FEW = 8
SPARING = {
    "train_diffusion.gather_once": "('(residual|transformer).*kernel',)",
    "mesh.reduce_dtype": "bfloat16",
}
# With more than this many examples a chip a v5e has too little memory; it takes them in parts.
MANY = 32
VARIANTS = {  # of presets: longer windows, and wider U-Nets
    "jen1_fast-190s": {"data.seconds": "190"},
    "jen1_fast-1.2b": {"unet.channels": "384"},
    "jen1_fast-3.2b": {"unet.channels": "640"},
}
CELLS = [
    *(
        (preset, topology, batch)
        for preset in ("jen1", "jen1_fast")
        for topology in ("v5e:4x4", "v5p:4x4x4", "v5e:16x16", "v6e:16x16")
        for batch in (512, 4096)
    ),
    ("jen1", "v5e:16x16", 8192),
    *(
        (variant, topology, batch)
        for variant in VARIANTS
        for topology, batch in (("v5p:4x4x4", 512), ("v5p:8x8x8", 4096))
    ),
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="*", type=_cell, default=CELLS)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    for cell in [] if options.no_compile else options.cells:
        _record(*cell)
    found = _recorded()
    _write(found)
    print(json.dumps({"/".join(map(str, cell)): _share(found.get(cell)) for cell in CELLS}))


def _cell(name: str) -> tuple[str, str, int]:
    """PRESET,TOPOLOGY,BATCH of the command line; the preset may be one of `VARIANTS`."""
    cell = next((cell for cell in CELLS if ",".join(map(str, cell)) == name), None)
    if cell is None:
        raise argparse.ArgumentTypeError(f"{name} is no row of the table in docs/planning.md.")
    return cell


def _record(preset: str, topology: str, batch: int) -> None:
    """Compiles one cell and keeps its figures, or the reason why there are none."""
    each = batch // math.prod(map(int, topology.partition(":")[2].split("x")))
    sparing = each <= FEW
    overrides = {"train_diffusion.batch_size": str(batch), **VARIANTS.get(preset, {})}
    overrides |= {f"mesh.axes.{axis}": str(size) for axis, size in MESHES[topology].items()}
    overrides |= SPARING if sparing else {}
    if topology.startswith("v5e"):
        overrides["train_diffusion.microbatches"] = str(max(1, each // MANY))
    began = time.monotonic()
    try:
        figures = plan(load_config(preset.partition("-")[0], overrides), "diffusion", topology)
        print(report(figures), flush=True)
    except Refusal as refusal:
        figures = {"refused": str(refusal)}
        print(refusal, flush=True)
    figures |= {
        "preset": preset,
        "topology": topology,
        "batch_size": batch,
        "microbatches": int(overrides.get("train_diffusion.microbatches", 1)),
        "sparing": sparing,
        "date": time.strftime("%Y-%m-%d"),
        "wall_seconds": round(time.monotonic() - began),
    }
    with FIGURES.open("a") as lines:
        lines.write(json.dumps(figures) + "\n")


def _recorded() -> dict[tuple[str, str, int], dict]:
    """The newest figures of each cell."""
    lines = FIGURES.read_text().splitlines() if FIGURES.is_file() else []
    each = map(json.loads, lines)
    return {(line["preset"], line["topology"], line["batch_size"]): line for line in each}


def _share(figures: dict | None) -> float | None:
    return (
        round(figures["share_of_peak"]["overlapped"], 3) if figures and "flops" in figures else None
    )


def _write(found: dict[tuple[str, str, int], dict]) -> None:
    """Puts the tables into the page, between its two marks."""
    lines = [
        "| preset, slice, batch | mesh | memory | FLOPs in HLO | HBM | collectives |"
        " bound: overlapped, summed | bound by | step | chip-hours | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        preset, topology, batch = cell
        figures = found.get(cell)
        name = f"`{preset}`, {topology}, {batch:,}"
        if figures is None:
            lines.append(f"| {name} | not measured |" + " |" * 9)
        elif "refused" in figures:
            lines.append(f"| {name} | does not fit |" + " |" * 8 + f" {figures['date']} |")
        else:
            lines.append(f"| {name} | {_row(figures)} |")
    for cell in CELLS:
        if "traffic" in found.get(cell, {}):
            lines += ["", *_blocks(cell, found[cell])]
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + START + "\n".join(lines) + "\n" + END + after)


def _row(figures: dict) -> str:
    """One row's cells after the first."""
    share, step = figures["share_of_peak"], figures["step_seconds"]
    memory, flops = figures["memory"], figures["flops"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in figures["mesh"].items() if size > 1)
    mesh += ", sparing" if figures["sparing"] else ""
    parts = figures.get("microbatches", 1)
    mesh += f", {parts} micro-batches" if parts > 1 else ""
    gathered = sum(row["operand_bytes"] for row in figures["collectives"])
    fits = "" if figures["fits"] else ", does not fit"
    return " | ".join(
        [
            mesh,
            f"{memory['total'] / 2**30:.1f} of {memory['available'] / 2**30:.1f} GiB{fits}",
            f"{flops['compiled'] / 1e12:.1f} T, {flops['ratio']:.2f} x",
            f"{figures['hbm_bytes'] / 1e9:.0f} GB",
            f"{gathered / 1e9:.1f} GB",
            f"{share['overlapped']:.0%}, {share['summed']:.0%}",
            figures["bound_by"],
            f"{step['overlapped']:.2f} to {step['summed']:.2f} s",
            f"{figures['chip_hours']['overlapped']:,.0f} to {figures['chip_hours']['summed']:,.0f}",
            figures["date"],
        ]
    )


def _blocks(cell: tuple[str, str, int], figures: dict) -> list[str]:
    """Where a cell's traffic to main memory comes from, and its collectives."""
    preset, topology, batch = cell
    traffic = list(figures["traffic"].items())
    moved = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in traffic[:12])
    rest = sum(size for _, size in traffic[12:]) / 1e9
    kinds: dict[str, float] = {}
    for row in figures["collectives"]:
        kinds[row["kind"]] = kinds.get(row["kind"], 0) + row["operand_bytes"] / 1e9
    given = ", ".join(f"{kind} {size:.2f}" for kind, size in kinds.items())
    name = f"`{preset}`, {topology}, {batch:,}"
    return [
        f"{name}: GB of main memory by block: {moved}, others {rest:.1f}.",
        f"GB of collectives' operands: {given}.",
    ]


if __name__ == "__main__":
    main()
