"""The TPU compiler's word on a small training step, whose shapes are like the paper preset's."""

import pytest

pytest.importorskip("libtpu", reason="the TPU's compiler comes with the extra `plan`")

import jax

from jen1_jax.config import load_config
from jen1_jax.planning.costs import costs
from jen1_jax.planning.hlo import parse
from jen1_jax.planning.program import make_program, model_flops, topology

ROWS = 19  # of the batch on each of the four chips; no other size is a multiple of it
SMALL = {
    "unet.channels": "256",
    "unet.multipliers": "(1, 1)",
    "unet.factors": "(2,)",
    "unet.num_blocks": "(2,)",
    "unet.attentions": "(0, 1)",
    "unet.text_features": "256",
    "data.seconds": "1.28",
    "train_diffusion.batch_size": str(4 * ROWS),
}


@pytest.fixture(scope="module")
def compiled():
    """The configuration, its program and the costs of one chip of v5e:2x2."""
    config = load_config("jen1", SMALL)
    program = make_program(config, "diffusion", topology("v5e:2x2", 1))
    text = program.lower().compile().as_text()
    return config, program, costs(parse(text))


@pytest.mark.slow
def test_weights_are_gathered_and_not_the_batch(compiled):
    _, _, found = compiled
    whole = [
        each
        for each in found.collectives
        if any(
            len(operand.shape) > 1 and any(size % ROWS == 0 for size in operand.shape)
            for operand in each.operands
        )
    ]
    assert whole == []


@pytest.mark.slow
def test_weights_move_at_most_twice_and_gradients_once(compiled):
    _, program, found = compiled
    weights = sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    moved = dict.fromkeys(("all-gather", "all-reduce", "reduce-scatter"), 0)
    for each in found.collectives:
        moved[each.kind] += each.operand_bytes  # raises for another kind
    assert 0 < 4 * moved["all-gather"] <= 2 * 2 * weights  # bfloat16
    assert 0.9 * 4 * weights < moved["reduce-scatter"] < 4 * weights  # float32
    assert moved["all-reduce"] < 0.1 * 4 * weights


@pytest.mark.slow
def test_nothing_but_remat_is_computed_twice(compiled):
    config, _, found = compiled
    assert not found.unknown_kernels
    assert 1 < 4 * found.flops / model_flops(config, "diffusion") <= 4 / 3
