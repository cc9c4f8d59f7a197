"""The learning rate, and which parameters Muon updates and how."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs.jen1 import get_config
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.training.optimizer import OPTIMIZERS, _axes, learning_rate
from jen1_jax.training.step import Trainable
from jen1_jax.training.survival import Interrupted
from tests import tiny
from tests.layers.testing import normal
from tests.models.testing import UNET, batch
from tests.training import testing
from tests.training.test_fit import Stops

RATE = 0.5


def training(**changes) -> ConfigDict:
    """A section whose learning rate is `RATE` in the first steps, without weight decay."""
    settings = dict(learning_rate=RATE, weight_decay=0.0, clip=1e9, steps=10**9)
    return ConfigDict(get_config().train_diffusion.to_dict() | settings | changes)


def parameters(seed: int) -> dict:
    """Two blocks of a U-Net, its ends, and an embedding."""
    draw = lambda n, *shape: normal(100 * seed + n, *shape)
    block = lambda n: {
        "conv_in": {"kernel": draw(n, 3, 4, 8), "bias": draw(n + 1, 8)},
        "modulation": {"kernel": draw(n + 2, 4, 6)},
    }
    unet = {
        "stem": {"kernel": draw(20, 3, 4, 8)},
        "down_1_residual_0": block(0),
        "down_1_residual_1": block(10),
        "output": {"kernel": draw(21, 3, 8, 4)},
    }
    return {"unet": unet, "text": {"token": {"embedding": draw(22, 7, 4)}}}


def stacked(params: dict) -> dict:
    """The same with both blocks as one, as `unet.scan` makes them."""
    unet = dict(params["unet"])
    blocks = [unet.pop(f"down_1_residual_{n}") for n in (0, 1)]
    unet["down_1_residual"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    return params | {"unet": unet}


def second_update(params: dict, gradients: list[dict], **changes) -> dict:
    """What the second of two steps adds to each parameter, by its path."""
    settings = training(**changes)
    optimizer, _ = OPTIMIZERS[settings.optimizer](settings)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(updates, sep="/").items()}


@pytest.fixture(scope="module")
def updates():
    """The updates of AdamW, of Muon, and of Muon with stacked blocks, from the same gradients."""
    params, gradients = parameters(0), [parameters(1), parameters(2)]
    return (
        second_update(params, gradients),
        second_update(params, gradients, optimizer="muon"),
        second_update(stacked(params), [stacked(each) for each in gradients], optimizer="muon"),
    )


def test_muon_makes_the_matrices_of_layers_orthogonal_and_leaves_the_rest_to_adamw(updates):
    adamw, muon, _ = updates
    kernels = {path for path in muon if "residual" in path and path.endswith("kernel")}
    assert len(kernels) == 4 and {"unet/stem/kernel", "unet/output/kernel"} <= muon.keys() - kernels
    for path in muon.keys() - kernels:
        np.testing.assert_array_equal(muon[path], adamw[path])
    for path in kernels:
        matrix = muon[path].reshape(-1, muon[path].shape[-1]) / RATE
        values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
        assert values.min() > 0.6 and values.max() < 1.3  # the iteration is not exact
        assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.2, rel=0.3)  # as large as AdamW's
        flat = adamw[path].reshape(matrix.shape)
        assert np.ptp(np.linalg.svd(flat, compute_uv=False)) > 0.3 * np.linalg.norm(flat, 2)


def test_muon_updates_each_of_several_stacked_blocks_by_itself(updates):
    _, muon, scanned = updates
    for name in ("conv_in/kernel", "conv_in/bias", "modulation/kernel"):
        each = np.stack([muon[f"unet/down_1_residual_{n}/{name}"] for n in (0, 1)])
        np.testing.assert_allclose(scanned[f"unet/down_1_residual/{name}"], each, rtol=1e-4)


def test_the_matrices_of_stacked_blocks_are_found_by_their_names():
    """With `unet.scan` a kernel has one more axis, and the same matrix axes counted from behind."""

    def matrix_axes(unet):
        init = partial(unet.init, jax.random.key(0))
        params = jax.eval_shape(init, *batch().values())["params"]
        found = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if path[-1].key == "kernel":
                axes = _axes(path, leaf.ndim).reduction_axis
                name = "/".join(part.key for part in path)
                found[name] = (leaf.ndim - len(axes) - 1, *leaf.shape[axes[0] :])
        return found

    alone, scanned = matrix_axes(UNET), matrix_axes(UNET.clone(scan=True))
    assert {batch_axes for batch_axes, *_ in alone.values()} == {0}
    assert {batch_axes for batch_axes, *_ in scanned.values()} == {0, 1}
    for name, (batch_axes, *shape) in scanned.items():
        first, *rest = name.split("/")
        same = f"{first}_0/{'/'.join(rest)}" if batch_axes else name
        assert alone[same] == (0, *shape)


def test_both_optimisers_decay_matrices_and_no_vectors():
    matrix, bias, embedding = normal(0, 4, 4), normal(1, 4), normal(2, 7, 4)
    params = {"layer": {"kernel": matrix, "bias": bias}, "token": {"embedding": embedding}}
    nothing = jax.tree.map(np.zeros_like, params)
    for name in OPTIMIZERS:
        found = second_update(params, [nothing, nothing], optimizer=name, weight_decay=0.1)
        for path, leaf in flatten_dict(params, sep="/").items():
            expected = np.zeros_like(leaf) if path.endswith("bias") else -RATE * 0.1 * leaf
            np.testing.assert_allclose(found[path], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("share", "rates"),
    [
        (1.0, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.5, 100: 0.0}),
        (0.2, {5: 0.5, 10: 1.0, 82: 1.0, 91: 0.5, 100: 0.0, 110: 0.0}),
        (0.0, {5: 0.5, 10: 1.0, 99: 1.0, 100: 1.0}),
    ],
)
def test_the_learning_rate_rises_is_constant_and_falls_to_0(share, rates):
    schedule = learning_rate(
        training(learning_rate=1.0, steps=100, warmup_steps=10, decay_share=share)
    )
    for step, rate in rates.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


@pytest.mark.slow
def test_a_training_with_muon_that_was_stopped_ends_as_an_uninterrupted_one(tmp_path):
    settings = tiny.config().train_diffusion
    settings.update(batch_size=1, checkpoint_every=100, optimizer="muon")
    optimizer, schedule = OPTIMIZERS[settings.optimizer](settings)
    trainable = Trainable(
        init=lambda key: {"layer": {"kernel": jnp.eye(4), "bias": jnp.ones(4)}},
        losses=lambda params, batch, frozen: {
            "loss": jnp.sum(
                (batch["x"] @ params["model"]["layer"]["kernel"] + params["model"]["layer"]["bias"])
                ** 2,
                axis=-1,
            )
        },
        counts=lambda batch: {"loss": jnp.ones(1)},
        weights={"loss": 1.0},
        optimizer=optimizer,
    )

    def train(directory, *hooks):
        batches = lambda start, *_: ({"x": normal(n, 1, 4)} for n in itertools.count(start))
        others = {"schedule": schedule, "placement": tiny.config().mesh, "hooks": hooks}
        return testing.train(directory, "model", trainable, batches, settings, **others)

    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", Stops())
    assert Checkpoints(tmp_path / "stopped" / "checkpoints").latest in (3, 4)
    jax.tree.map(np.testing.assert_array_equal, train(tmp_path / "stopped"), whole)
