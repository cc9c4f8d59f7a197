"""The TPU compiler's word on a small training step, whose shapes are like the paper preset's."""

import math

import pytest

pytest.importorskip("libtpu", reason="the TPU's compiler comes with the extra `plan`")

import jax

from jen1_jax.config import load_config
from jen1_jax.planning.compiled import compile_step
from jen1_jax.planning.costs import costs
from jen1_jax.planning.hlo import parse
from jen1_jax.planning.plan import plan
from jen1_jax.planning.program import make_program, topology
from jen1_jax.planning.report import report

ROWS = 19  # of the batch on each of the four chips; no other size is a multiple of it
SMALL = {
    "unet.channels": "256",
    "unet.multipliers": "(1, 1)",
    "unet.factors": "(2,)",
    "unet.num_blocks": "(2,)",
    "unet.attentions": "(0, 2)",
    "unet.text_features": "256",
    "data.seconds": "1.28",
    "train_diffusion.batch_size": str(4 * ROWS),
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """The plan of the small training on v5e:2x2, whose program is then in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield plan(load_config("jen1", SMALL), "diffusion", "v5e:2x2", price=1.5)


@pytest.fixture(scope="module")
def compiled(figures):
    """The program and the costs of one chip."""
    program = make_program(load_config("jen1", SMALL), "diffusion", topology("v5e:2x2", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("jax.stages.Lowered.compile")  # the cache has it
        return program, costs(parse(compile_step(program, "v5e:2x2 x 1")["text"]))


@pytest.mark.slow
def test_weights_are_gathered_and_not_the_batch(compiled):
    _, found = compiled
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
    program, found = compiled
    weights = sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    moved = dict.fromkeys(("all-gather", "all-reduce", "reduce-scatter"), 0)  # numbers, not bytes
    for each in found.collectives:  # raises for another kind
        moved[each.kind] += each.times * sum(math.prod(part.shape) for part in each.operands)
    assert weights < 4 * moved["all-gather"] <= 2 * weights
    assert 0.9 * weights < moved["reduce-scatter"] < weights
    assert moved["all-reduce"] < 0.1 * weights


@pytest.mark.slow
def test_weights_that_are_gathered_once_move_once_and_in_bfloat16():
    overrides = {
        "unet.attentions": "(0, 0)",
        "unet.num_blocks": "(1,)",
        "train_diffusion.gather_once": "('kernel',)",
    }
    program = make_program(
        load_config("jen1", SMALL | overrides), "diffusion", topology("v5e:2x2", 1)
    )
    found = costs(parse(program.lower().compile().as_text()))
    weights = sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    size = lambda each: each.times * sum(math.prod(part.shape) for part in each.operands)
    gathers = [each for each in found.collectives if each.kind == "all-gather"]
    moved = 4 * sum(map(size, gathers))
    assert 0.9 * weights < moved < 1.05 * weights
    narrow = [each for each in gathers if all(part.dtype == "bf16" for part in each.operands)]
    assert 4 * sum(map(size, narrow)) > 0.9 * moved


@pytest.mark.slow
def test_nothing_but_remat_is_computed_twice(figures):
    assert not figures["kernels_without_flops"]
    assert 1 < figures["flops"]["ratio"] <= 4 / 3


@pytest.mark.slow
def test_memory_time_and_cost_add_up(figures):
    memory, seconds = dict(figures["memory"]), figures["seconds"]
    assert figures["fits"] and memory.pop("available") > memory.pop("total") == sum(memory.values())
    # Moments and EMA are as large as the parameters; a fourth of the largest lies on each chip.
    assert memory["optimiser"] == pytest.approx(2 * memory["parameters"], rel=1e-3)
    assert memory["EMA"] == memory["parameters"]
    assert figures["step_seconds"] == {
        "overlapped": max(seconds.values()),
        "summed": sum(seconds.values()),
    }
    hours = 200_000 * figures["step_seconds"]["summed"] / 3600
    assert figures["cost"]["summed"] == pytest.approx(1.5 * 4 * hours)
    assert f"{4 * hours:,.0f} chip-hours" in report(figures)
