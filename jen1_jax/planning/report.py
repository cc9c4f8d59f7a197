"""A plan as text."""

from collections.abc import Mapping
from typing import Any

ROWS = 12  # of the longer tables


def report(figures: Mapping[str, Any]) -> str:
    """The figures of `plan`, for a person."""
    per_step, share = figures["step_seconds"], figures["share_of_peak"]
    memory, flops, seconds = figures["memory"], figures["flops"], figures["seconds"]
    mesh = " x ".join(f"{name} {size}" for name, size in figures["mesh"].items())
    slices = f"{figures['slices']} slices of " if figures["slices"] > 1 else ""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    collectives = [
        (f"{row['kind']} x {row['times']}", row["operand"], row["operand_bytes"] / 1e9)
        for row in figures["collectives"]
    ]
    parts = [
        f"{figures['part']} on {slices}{figures['topology']}: {figures['chips']} chips, "
        f"mesh {mesh}, {figures['batch_size']} examples a step ({versions})",
        "All figures are for one chip and one step.",
        _table(
            f"Memory, GiB of {memory['available'] / 2**30:.2f}: "
            + ("it fits" if figures["fits"] else "IT DOES NOT FIT"),
            [(kind, "", size / 2**30) for kind, size in memory.items() if kind != "available"],
        ),
        _table(
            "Arithmetic, TFLOP",
            [
                ("of the model (3 forward passes)", "", flops["model"] / 1e12),
                ("of the compiled step", f"{flops['ratio']:.2f} x", flops["compiled"] / 1e12),
            ],
        ),
        _table(
            f"Traffic to memory, GB: {figures['hbm_bytes'] / 1e9:.1f}",
            [(block, "", size / 1e9) for block, size in figures["traffic"].items()],
        ),
        _table(
            f"Collectives, GB of operands: {sum(row[2] for row in collectives):.2f}", collectives
        ),
        _table(
            f"Time, ms: bound by {figures['bound_by']}",
            [(name, "", 1e3 * value) for name, value in seconds.items()]
            + [
                (f"step, all {name}", f"{share[name]:.0%} of peak", 1e3 * value)
                for name, value in per_step.items()
            ],
        ),
        _run(figures),
    ]
    if figures["kernels_without_flops"]:
        kernels = ", ".join(figures["kernels_without_flops"])
        parts.append(f"Not counted in the arithmetic, since their kernels are unknown: {kernels}.")
    return "\n\n".join(parts)


def _run(figures: Mapping[str, Any]) -> str:
    span = lambda key, form: " to ".join(format(value, form) for value in figures[key].values())
    text = (
        f"The run of {figures['steps']:,} steps: {span('hours', ',.1f')} hours, "
        f"{span('chip_hours', ',.0f')} chip-hours"
    )
    cost = f", {span('cost', ',.0f')} dollars" if any(figures["cost"].values()) else ""
    return text + cost + " (from all parts overlapped to none)."


def _table(title: str, rows: list[tuple[str, str, float]]) -> str:
    """Aligned rows of a name, a remark and a number; the rows after `ROWS` are added up."""
    if len(rows) > ROWS + 1:
        rest = sum(row[2] for row in rows[ROWS:])
        rows = [*rows[:ROWS], (f"{len(rows) - ROWS} more", "", rest)]
    names = max(len(row[0]) for row in rows)
    remarks = max(len(row[1]) for row in rows)
    lines = [f"  {name:{names}}  {remark:{remarks}}  {value:10.3f}" for name, remark, value in rows]
    return "\n".join([title, *lines])
