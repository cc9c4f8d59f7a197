"""What happens before the first step: the state from which training begins or goes on.

It is that of the newest checkpoint. Without one it is fresh, with the parameters of another run
(`init_from`) where these have the same path and shape. A report says so for every parameter.
"""

import math
import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.files import AnyPath, anywhere, fetched, whole_folder, write_text
from jen1_jax.models import weights
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run, differences
from jen1_jax.sharding import shardings
from jen1_jax.training.resume import check_position, gone_on, position
from jen1_jax.training.step import Trainable, TrainState, init_state, path_name, trained_part
from jen1_numpy.errors import Refusal


class Start(NamedTuple):
    """The state before the first step, and where the training is in its data (resume.py)."""

    state: TrainState
    position: Mapping[str, Any]


def source_run(init_from: str, run: Run, part: str) -> Run | None:
    """The run or release whose `part` the training of `run` begins with.

    None without `init_from`, and where the training goes on from a checkpoint. Raises `Refusal` for
    a run without this part, and for `run` itself.
    """
    if not init_from:
        return None
    if anywhere(init_from).resolve() == run.path.resolve():
        raise Refusal(f"train_{part}.init_from is {run.path} itself; choose another --workdir.")
    if Checkpoints.newest(run.checkpoints(part)) >= 0:
        return None
    source = Run.open(init_from)
    weights.check(source, part, f"{source.path} (init_from) has no trained {part}; name another.")
    return source


def check_latents(source: Run, run: Run, codec: Codec) -> None:
    """Refuses a diffusion model that was trained on latents of another autoencoder."""
    theirs = source.record["fingerprints"].get("autoencoder", "none")
    if theirs != codec.fingerprint:
        raise Refusal(
            f"The diffusion model of {source.path} (init_from) was trained on latents of the "
            f"autoencoder {theirs[:12]}, and {run.path} has {codec.fingerprint[:12]}; give a new "
            f"--workdir and --autoencoder {source.path}."
        )


def take_vocabulary(source: Run, run: Run, config: ConfigDict) -> None:
    """Copies the vocabulary of a trained text encoder, whose parameters belong to its pieces.

    Nothing is copied if one of the two text encoders is frozen. Raises `Refusal` if `run` has
    another vocabulary already.
    """
    if config.text.encoder or source.config.text.encoder:
        return
    if not (run.text / "source.json").is_file():
        with fetched(source.text) as original, whole_folder(run.text) as folder:
            shutil.copytree(original, folder, dirs_exist_ok=True)
    theirs, ours = ((each.text / "spiece.model").read_bytes() for each in (source, run))
    if theirs != ours:
        raise Refusal(
            f"{run.path} has another vocabulary than {source.path} (init_from), whose text encoder "
            "would read other words; choose another --workdir."
        )


def begin(
    name: str,
    *,
    directory: AnyPath,
    checkpoints: Checkpoints,
    trainables: Mapping[str, Trainable],
    training: ConfigDict,
    mesh: Mesh,
    rules,
    seed: int,
    record: Mapping[str, Any],
    init_from: Run | None,
    start_from: Mapping[str, PyTree],
    check: Callable[[Mapping[str, Any]], None],
    progress: Callable[[str], None],
) -> Start:
    """The state before the first step, on the mesh; the arguments are those of `fit`."""
    here = position(training, seed, record)
    check_patterns(name, trainables, training)
    init = partial(init_state, trainables, average=training.ema_decay > 0)
    abstract = jax.eval_shape(lambda: init(jax.random.key(seed)))
    layout = shardings(abstract, mesh, rules)
    abstract = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), abstract, layout
    )
    if checkpoints.latest is not None:

        def check_record(then: Mapping[str, Any]) -> None:
            check(then)
            check_position(name, then["position"], here, training.remap_data)

        state, then = checkpoints.restore(abstract, check_record, progress)
        progress(f"{name}: going on from step {checkpoints.latest}")
        if training.init_from:
            progress(f"{name}: train_{name}.init_from is not read again")
        return Start(state, gone_on(then["position"], here, int(state.step)))

    given = jax.device_get(dict(start_from))  # it may lie on one device of many
    held: PyTree = {}
    if init_from is not None:
        held = weights.held(init_from, name)  # in all processes, since Orbax waits for them
        given[name] = _load(init_from, name, abstract.params[name], held)
    state = jax.jit(init, out_shardings=layout)(jax.random.key(seed), given)
    if jax.process_index() == 0:
        loaded = given[name] if init_from else None
        report = _report(name, trainables, abstract.params, init_from, held, loaded, record)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "start.txt", "\n".join(report) + "\n")
        if init_from or any(each.trained for each in trainables.values()):
            for line in report:
                progress(line)
    return Start(state, here)


def check_patterns(name: str, trainables: Mapping[str, Trainable], training: ConfigDict) -> None:
    """Refuses an expression of `trained` or `gather_once` that is found in no parameter's path."""
    for trainable in trainables.values():
        fields = {"trained": trainable.trained, "gather_once": training.get("gather_once", ())}
        given = [(field, pattern) for field, each in fields.items() for pattern in each]
        if not given:
            continue
        shapes = jax.eval_shape(trainable.init, jax.random.key(0))
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(shapes)]
        for field, pattern in given:
            try:
                found = any(re.search(pattern, path) for path in paths)
            except re.error as error:
                raise Refusal(
                    f"train_{name}.{field} has {pattern!r}, which is no regular expression "
                    f"({error})."
                ) from None
            if not found:
                raise Refusal(
                    f"train_{name}.{field} has {pattern!r}, which is found in no parameter's path; "
                    f"paths look like {paths[0]} and {paths[-1]}."
                )


def _load(source: Run, part: str, wanted: PyTree, held: PyTree) -> PyTree:
    """The source's parameters that have the path and the shape of `wanted`, elsewhere None.

    `held` are the shapes of all that the source has.
    """
    shapes, held = flatten_dict(wanted), flatten_dict(held)
    fitting = {
        path: leaf
        for path, leaf in shapes.items()
        if path in held and held[path].shape == leaf.shape
    }
    if not fitting:
        raise Refusal(
            f"No parameter of {source.path} (init_from) has the path and the shape of one of this "
            f"{part}; start from a run with a similar configuration."
        )
    params, _ = weights.restore(source, part, unflatten_dict(fitting))
    return unflatten_dict(dict.fromkeys(shapes) | flatten_dict(params))


def _report(
    name: str,
    trainables: Mapping[str, Trainable],
    shapes: Mapping[str, PyTree],
    source: Run | None,
    held: PyTree,
    loaded: PyTree,
    record: Mapping[str, Any],
) -> list[str]:
    """A line for every parameter of the trainables and of the source, and a summary."""
    lines, sizes = [], dict.fromkeys(("loaded", "new", "trained", "frozen"), 0)
    taken = flatten_dict(loaded or {})
    for each, trainable in trainables.items():
        trained = flatten_dict(trained_part(trainable, shapes[each]))
        for path, leaf in flatten_dict(shapes[each]).items():
            is_loaded = each == name and taken.get(path) is not None
            origin = "loaded" if is_loaded else "new"
            change = "frozen" if trained[path] is None else "trained"
            prefix = "" if each == name else f"{each}/"
            lines.append(f"{origin:8}{change:8}{prefix}{'/'.join(path)} {leaf.shape}")
            for kind in (origin, change):
                sizes[kind] += math.prod(leaf.shape)
    skipped = 0
    if source is not None:
        for path, leaf in flatten_dict(held).items():
            if taken.get(path) is None:
                lines.append(f"{'skipped':16}{'/'.join(path)} {leaf.shape}")
                skipped += math.prod(leaf.shape)
        for key, how in differences(source.record["config"], record["config"], name).items():
            lines.append(f"note: {source.path} has another {key} ({how})")
    parts = ", ".join(f"{size:,} {kind}" for kind, size in sizes.items())
    origin = f", {skipped:,} of {source.path} skipped" if source else ""
    return [*lines, f"{name}: of its parameters {parts}{origin}"]
