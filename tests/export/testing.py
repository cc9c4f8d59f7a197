"""Parameters of our Flax modules for their PyTorch twins, and how far both agree."""

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict

from jen1_jax.unet import STACKED


def filled(module, *inputs) -> dict:
    """Random parameters of a Flax module, none at its initial value; module.init gets `inputs`.

    Kernels keep the size of activations and the rest is small, so that each layer shows in the
    result.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        names, x = [key.key for key in path], rng.normal(size=leaf.shape)
        if names[-1] == "kernel":
            x /= np.prod(leaf.shape[1 if STACKED.search(names[0]) else 0 : -1]) ** 0.5
        elif names[-1] in ("bias", "scale", "alpha"):
            x = 0.2 * x + (names[-1] != "bias")
        return x.astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map_with_path(draw, shapes)


def torch_state(params: dict) -> dict[str, torch.Tensor]:
    """The state dict of the PyTorch module that equals a Flax module with these parameters.

    Names of modules are kept, joined by dots; blocks stacked by `unet.scan` get a number each. A
    kernel [taps, in, out] becomes a weight [out, in, taps], one [in, out] becomes [out, in].
    """
    state = {}
    for (first, *rest), leaf in flatten_dict(params).items():
        blocks = {first: np.asarray(leaf)}
        if STACKED.search(first):
            blocks = {f"{first}_{i}": part for i, part in enumerate(blocks[first])}
        for module, value in blocks.items():
            *modules, name = module, *rest
            value = value.T if name == "kernel" else value
            name = "weight" if name in ("kernel", "embedding") else name
            state[".".join([*modules, name])] = torch.tensor(value)
    return state


def loaded(module: torch.nn.Module, params: dict) -> torch.nn.Module:
    """`module` with the parameters of its Flax twin, of which none may be missing or left over."""
    module.load_state_dict(torch_state(params))
    return module.eval().requires_grad_(False)


def distance(result, expected) -> float:
    """The L2 norm of the difference, relative to that of `expected`."""
    result, expected = (np.asarray(x, np.float64) for x in (result, expected))
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
