"""How training starts: with which parameters, and which of them it changes."""

import itertools
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file

from jen1_jax.models import weights
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.diffusion import abstract_diffusion, load_diffusion, make_unet
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.release import release
from jen1_jax.models.run import Run
from jen1_jax.tasks import TASKS
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.training.diffusion_loss import make_trainable
from jen1_jax.training.draw import draw_diffusion
from jen1_jax.training.inputs import diffusion_inputs
from jen1_jax.training.npz import NpzData
from jen1_jax.training.optimizer import OPTIMIZERS
from jen1_jax.training.resume import check_position, position
from jen1_jax.training.start import _load, _report
from jen1_jax.training.step import Trainable
from jen1_numpy.errors import Refusal
from tests import tiny
from tests.training import testing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained run with a small network."""
    folder = tmp_path_factory.mktemp("source")
    shutil.unpack_archive(ROOT / "tests" / "fixtures" / "run.zip", folder)
    return Run.open(folder / "run")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tiny.write_audio_npz(tmp_path_factory.mktemp("data") / "audio.npz", seed=3)
    return NpzData(str(path), 6, seed=0)


def begun(source: Run, **training):
    """The configuration of the source, with another training that begins with it."""
    config = source.config.copy_and_resolve_references()
    config.train_diffusion.update(init_from=str(source.path), **training)
    return config


def quiet(text: str) -> None:
    pass


def layer(key, inputs, outputs):
    return {"kernel": jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def two_layers(trained, optimizer="adamw") -> Trainable:
    """A network of the layers `first` (3 x 5) and `last` (5 x 2)."""

    def losses(params, batch, frozen):
        first, last = params["net"]["first"], params["net"]["last"]
        hidden = jnp.tanh(batch["x"] @ first["kernel"] + first["bias"])
        return {"error": jnp.square(hidden @ last["kernel"] + last["bias"] - 1).sum(-1)}

    training = tiny.config().train_diffusion
    training.weight_decay = 0.1
    return Trainable(
        init=lambda key: {"first": layer(key, 3, 5), "last": layer(key, 5, 2)},
        losses=losses,
        counts=lambda batch: {"error": jnp.ones(len(batch["x"]))},
        weights={"error": 1.0},
        optimizer=OPTIMIZERS[optimizer](training).transformation,
        trained=trained,
    )


def train(directory, trainable, steps, progress=quiet, batches=None, **fields):
    training = tiny.config().train_diffusion
    training.update(dict(steps=steps, batch_size=4) | fields)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    same = lambda *_: itertools.repeat({"x": x})
    batches = batches or same
    return testing.train(directory, "net", trainable, batches, training, progress=progress)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ten_steps_change_only_what_the_patterns_name(tmp_path, optimizer):
    lines = []
    before = train(tmp_path, two_layers(("^last/", "first/bias"), optimizer), 1)
    before = jax.device_get(before)
    trainable = two_layers(("^last/", "first/bias"), optimizer)
    state = train(tmp_path, trainable, 11, lines.append, microbatches=2)
    assert state.averaged is state.ema
    for tree in ("params", "ema"):
        old, new = (flatten_dict(getattr(each, tree)["net"]) for each in (before, state))
        same = {path: np.array_equal(old[path], new[path]) for path in old}
        assert [path for path in same if same[path]] == [("first", "kernel")]
    # No moment has the shape of the frozen kernel, and the trained ones have theirs.
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.optimizer)}
    assert (3, 5) not in shapes and {(5,), (5, 2), (2,)} <= shapes


def test_no_average_is_kept_without_a_decay(tmp_path):
    train(tmp_path, two_layers(()), 1, ema_decay=0.0)
    state = train(tmp_path, two_layers(()), 3, ema_decay=0.0)
    assert state.ema == {} and state.averaged is state.params
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    read, _ = checkpoints.restore_ema("net", checkpoints.shapes("net"))
    np.testing.assert_array_equal(read["first"]["bias"], state.params["net"]["first"]["bias"])


def test_the_report_names_every_parameter(tmp_path):
    lines = []
    train(tmp_path, two_layers(("^last/",)), 1, lines.append)
    assert lines[:5] == [
        "new     frozen  first/bias (5,)",
        "new     frozen  first/kernel (3, 5)",
        "new     trained last/bias (2,)",
        "new     trained last/kernel (5, 2)",
        "net: of its parameters 0 loaded, 32 new, 12 trained, 20 frozen",
    ]
    assert (tmp_path / "start.txt").read_text().splitlines() == lines[:5]


@pytest.mark.parametrize(
    ("pattern", "refused"), [("decoder", "found in no parameter's path"), ("(", "no regular")]
)
def test_a_pattern_that_names_nothing_is_refused(tmp_path, pattern, refused):
    with pytest.raises(Refusal, match=refused):
        train(tmp_path, two_layers(("^last/", pattern)), 1)


def read_examples(directory, steps, batch_size, **fields) -> list[list[int]]:
    """The examples that each step reads; example g is the g-th in the order of the data."""
    found = []

    def batches(start, batch, rows):
        for step, number in zip(itertools.count(start), itertools.count(batch), strict=False):
            examples = range(number * batch_size, (number + 1) * batch_size)
            found.append([step, *examples])
            yield {"x": np.ones((batch_size, 3), np.float32)}

    fields = {"batch_size": batch_size} | fields
    train(directory, two_layers(()), steps, batches=batches, **fields)
    return found


def test_another_batch_size_is_refused_or_keeps_the_number_of_examples_seen(tmp_path):
    assert read_examples(tmp_path, 3, 4)[-1] == [2, 8, 9, 10, 11]
    with pytest.raises(Refusal, match=r"batch_size 4, and now it has 6: .*remap_data=True"):
        read_examples(tmp_path, 5, 6)
    assert read_examples(tmp_path, 4, 6, remap_data=True) == [[3, 12, 13, 14, 15, 16, 17]]
    # The next start goes on from there, and needs no remap_data.
    assert read_examples(tmp_path, 5, 6) == [[4, 18, 19, 20, 21, 22, 23]]
    # 24 examples are 4 batches of 5 and a part of the next.
    assert read_examples(tmp_path, 6, 5, remap_data=True) == [[5, 20, 21, 22, 23, 24]]


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"seed": 1}, "seed 0, and now it has 1"),
        ({"data": {"length": 8}}, "'length': 9.*'length': 8"),
        ({"trained": ("^last/",)}, r"trained: \[\], and this configuration has \['\^last/'\]"),
        ({"ema_decay": 0.0}, "ema_decay above 0: True, and this configuration has False"),
    ],
)
def test_what_would_shift_the_data_or_change_the_state_is_refused(change, refused):
    training = tiny.config().train_diffusion
    record = {"data": {"length": 9, "dir": "there"}}
    then = position(training, 0, record)
    record = {"data": change.get("data", {"length": 9}) | {"dir": "here"}}
    fields = {key: value for key, value in change.items() if key in training}
    with training.unlocked():
        training.update(fields)
    now = position(training, change.get("seed", 0), record)
    with pytest.raises(Refusal, match=refused):
        check_position("diffusion", then, now, remap_data=False)
    if not fields:
        check_position("diffusion", then, now, remap_data=True)


def test_moved_data_are_the_same_data():
    training = tiny.config().train_diffusion
    there, here = (position(training, 0, {"data": {"dir": name}}) for name in ("there", "here"))
    check_position("diffusion", there, here, remap_data=False)


def loss_of(source: Run, config, data) -> float:
    """The loss of the source's parameters on the first batch of a training with `config`."""
    found = load_diffusion(source)
    trainable = make_trainable(config, found.unet, found.codec, found.text, optax.identity())
    batch = dict(diffusion_inputs(next(data.batches(0)), config, found.text))
    del batch["index"]
    batch = jax.tree.map(jnp.asarray, batch)
    key, codec = jax.random.fold_in(jax.random.key(config.seed), 0), found.codec
    sizes = dict(hop=codec.hop, k=codec.k, window=96)
    drawn = draw_diffusion(key, jnp.int32(0), batch, config=config, **sizes)
    params = {"diffusion": {"unet": found.params, "text": found.text_params}}
    frozen, counts = {"autoencoder": codec.params}, trainable.counts(drawn)
    losses = jax.jit(trainable.losses)(params, drawn, frozen)
    means = {name: (losses[name] * counts[name]).sum() / counts[name].sum() for name in TASKS}
    return float(sum(trainable.weights[name] * mean for name, mean in means.items()))


@pytest.mark.slow
def test_a_warm_start_has_the_sources_loss_and_trains_what_it_is_told(source, data, tmp_path):
    """From a run, and from its release."""
    release(source, str(tmp_path / "release"))
    config = begun(source, steps=3, trained=("^unet/output/", "^text/"), weight_decay=0.1)
    lines, run = [], Run(tmp_path / "run")
    train_diffusion(config, run, data, source, lines.append)
    first = read_metrics(run.path / "diffusion" / "metrics.jsonl")[0]["loss"]
    assert first == pytest.approx(loss_of(source, config, data), rel=1e-5)
    assert Checkpoints(run.checkpoints("diffusion")).best == 3  # by its held-out loss
    before, after = (load_diffusion(each) for each in (source, Run.open(run.path)))
    same = jax.tree.map(np.array_equal, before.params, after.params)
    assert not any(jax.tree.leaves(same.pop("output"))) and all(jax.tree.leaves(same))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, *_texts(before, after))))
    report = (run.path / "diffusion" / "start.txt").read_text().splitlines()
    assert not [line for line in report if line.startswith(("new", "skipped", "note"))]
    assert report == lines[: len(report)] and " 0 new, " in report[-1]

    released = load_diffusion(Run.open(tmp_path / "release"))
    params = {"unet": released.params, "text": released.text_params}
    shapes = jax.eval_shape(lambda: params)
    released = Run.open(tmp_path / "release")
    loaded = _load(released, "diffusion", shapes, weights.held(released, "diffusion"))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, loaded, params)))


def _texts(*models):
    return [model.text_params for model in models]


def test_parameters_of_another_shape_are_new_and_those_without_a_place_skipped(source):
    held = flatten_dict(weights.held(source, "diffusion"))
    wanted = dict(held)
    changed, gone, added = ("unet", "stem", "bias"), ("unet", "output", "bias"), ("unet", "more")
    wanted[changed] = wanted[added] = jax.ShapeDtypeStruct((99,), np.float32)
    del wanted[gone]
    held_shapes = weights.held(source, "diffusion")
    loaded = _load(source, "diffusion", unflatten_dict(wanted), held_shapes)
    config = source.record["config"]
    record = {"config": config | {"unet": config["unet"] | {"channels": 99}}}
    shapes, trainables = {"diffusion": unflatten_dict(wanted)}, {"diffusion": two_layers(())}
    report = _report("diffusion", trainables, shapes, source, held_shapes, loaded, record)
    size = math.prod(held[changed].shape) + math.prod(held[gone].shape)
    whole = sum(math.prod(leaf.shape) for leaf in held.values())
    assert [line for line in report if not line.startswith("loaded")] == [
        "new     trained unet/stem/bias (99,)",
        "new     trained unet/more (99,)",
        f"skipped         unet/output/bias {held[gone].shape}",
        f"skipped         unet/stem/bias {held[changed].shape}",
        f"note: {source.path} has another unet (channels: 4 there, 99 here)",
        f"diffusion: of its parameters {whole - size:,} loaded, 198 new, {whole - size + 198:,} "
        f"trained, 0 frozen, {size:,} of {source.path} skipped",
    ]


def test_the_released_composing_model_loads_whole():
    run = Run.open(ROOT / "weights" / "compose")
    config, held = run.config, weights.held(run, "diffusion")
    k = held["unet"]["output"]["kernel"].shape[-1]
    text = TextEncoder.__new__(TextEncoder)  # a frozen one, whose weights are on the hub
    text.__dict__.update(params={}, config=SimpleNamespace(features=config.unet.text_features))
    wanted = abstract_diffusion(make_unet(config, k, text), text)
    loaded, file = _load(run, "diffusion", wanted, held), load_file(run.weights("diffusion"))
    for path, leaf in flatten_dict(loaded).items():
        np.testing.assert_array_equal(leaf, file.pop("/".join(path)).astype(np.float32))
    assert not file


def test_a_run_that_cannot_be_started_from_is_refused(source, data, tmp_path):
    run = Run(tmp_path / "run")
    for path, refused in (
        (tmp_path / "nowhere", "no run at"),
        (run.path, "itself; choose another"),
    ):
        config = begun(source)
        config.train_diffusion.init_from = str(path)
        with pytest.raises(Refusal, match=refused):
            train_diffusion(config, run, data, source, quiet)
    assert not run.checkpoints("diffusion").exists()


def test_a_model_of_another_autoencoder_is_refused(source, data, tmp_path):
    release(source, str(tmp_path / "release"))  # rounding has changed its autoencoder
    released = Run.open(tmp_path / "release")
    with pytest.raises(Refusal, match=r"on latents of the autoencoder .*--autoencoder .*release"):
        train_diffusion(begun(released), Run(tmp_path / "run"), data, source, quiet)


def test_a_source_without_a_common_parameter_is_refused(source):
    wanted = {"another": jax.ShapeDtypeStruct((3, 4), np.float32)}
    with pytest.raises(Refusal, match="No parameter of"):
        _load(source, "diffusion", wanted, weights.held(source, "diffusion"))
