"""What a training that goes on has to share with its checkpoint, and where it is in the data.

Training reads batch s + `offset` at step s. The offset is 0 until a training goes on with another
batch size: then it keeps the number of examples that have been read. Every checkpoint's record
holds it, with all that the place in the data depends on, as `position`; what earlier steps had
other values of is in its list `earlier`, each with the step `until` which they had it.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jen1_numpy.errors import Refusal

# Of the data's description: what does not change which examples a batch holds.
_FREE = ("dir", "fields", "licences", "captions", "batch_size", "seed")


def position(training: ConfigDict, seed: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which examples a step reads, and of which shape the state is."""
    data = record.get("data", {})
    return {
        "batch_size": training.batch_size,
        "seed": seed,
        "data": {key: value for key, value in data.items() if key not in _FREE},
        "offset": 0,
        "earlier": [],
        "trained": list(training.trained),
        "average": training.ema_decay > 0,
    }


def check_position(
    name: str, then: Mapping[str, Any], now: Mapping[str, Any], remap_data: bool
) -> None:
    """Refuses to go on where the state has another shape, or the batches hold other examples."""
    for key, what in (("trained", "trained"), ("average", "ema_decay above 0")):
        if then[key] != now[key]:
            raise Refusal(
                f"The training of the {name} was begun with train_{name}.{what}: {then[key]}, and "
                f"this configuration has {now[key]}; give the same, or begin another --workdir "
                f"with train_{name}.init_from."
            )
    if remap_data:
        return
    for key, field in (("batch_size", f"train_{name}.batch_size"), ("seed", "seed"), ("data",) * 2):
        if then[key] != now[key]:
            raise Refusal(
                f"The training of the {name} had {field} {then[key]}, and now it has {now[key]}: "
                "its next batches would hold other examples. Give the same again, or set "
                f"--config.train_{name}.remap_data=True to go on after as many examples as it has "
                "seen."
            )


def moved(then: Mapping[str, Any], now: Mapping[str, Any], step: int) -> int:
    """The offset with which a training goes on at `step`.

    Where the batch size does not divide the number of examples seen, some of the last batch are
    read again.
    """
    if then["batch_size"] == now["batch_size"]:
        return then["offset"]
    return (step + then["offset"]) * then["batch_size"] // now["batch_size"] - step


def gone_on(then: Mapping[str, Any], now: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The position of a training that goes on at `step` with `now`, and was at `then`."""
    here = {**now, "offset": moved(then, now, step), "earlier": then.get("earlier", [])}
    placing = ("batch_size", "seed", "data", "offset")
    if any(then[key] != here[key] for key in placing):
        part = {key: then[key] for key in placing} | {"until": step}
        here["earlier"] = [*here["earlier"], part]
    return here
