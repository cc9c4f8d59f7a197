"""What a compiled program costs, from texts that the compiler of libtpu 0.0.42 has written.

tests/fixtures/hlo holds, without what no test reads, for v5e:2x2: a scan over three layers of
1024 x 1024 with sharded weights (scan.txt), splash attention on [8, 768, 4, 128] (splash.txt), and
parts of a U-Net's step (async.txt: a gather beside the stem's convolution, and a reduce-scatter).
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

from jen1_jax.chips import CHIPS, network_rate
from jen1_jax.planning.costs import block, costs
from jen1_jax.planning.groups import group
from jen1_jax.planning.hlo import ArrayType, parse

FIXTURES = Path(__file__).parents[1] / "fixtures" / "hlo"
ACTIVATIONS = 2 * 8 * 768 * 1024  # bytes of one chip's examples


def of(name: str):
    return costs(parse((FIXTURES / f"{name}.txt").read_text()))


def test_a_loop_counts_as_often_as_it_runs():
    found = of("scan")
    assert found.flops == 3 * 2 * (8 * 768) * 1024 * 1024
    (gather,) = found.collectives
    assert (gather.kind, gather.times, gather.members) == ("all-gather", 3, (0, 1, 2, 3))
    assert gather.operand_bytes == 3 * 256 * 1024 * 2
    assert gather.received_bytes == 3 * gather.operand_bytes


def test_what_stays_in_vector_memory_is_no_traffic():
    """All layers' activations stay there: main memory gives input and weights, gets the result."""
    weights = 3 * 256 * 1024 * 4
    assert of("scan").traffic.total() == pytest.approx(2 * ACTIVATIONS + weights, rel=1e-4)


def test_a_kernel_that_is_called_on_several_lines_is_read_to_its_end():
    module = parse((FIXTURES / "splash.txt").read_text())
    (kernel,) = (each for each in module.entry.values() if each.name.startswith("splash_mha"))
    assert kernel.op_name.endswith("pallas_call")
    assert costs(module).flops == 2 * 2 * (8 * 4) * 768 * 768 * 128
    assert not costs(module).unknown_kernels


def test_an_unknown_kernel_is_named():
    text = (FIXTURES / "splash.txt").read_text().replace("splash_mha_fwd", "other")
    found = costs(parse(text))
    assert (found.flops, len(found.unknown_kernels)) == (0, 1)


def test_an_asynchronous_collective_counts_once_and_a_scattered_sum_as_what_it_is():
    gather, scatter = sorted(of("async").collectives, key=lambda each: each.kind)
    assert (gather.kind, gather.operand_bytes) == ("all-gather", 64 * 512 * 2)
    assert (scatter.kind, scatter.operand_bytes) == ("reduce-scatter", 7680 * 8 * 128 * 2)
    assert scatter.received_bytes == 3 / 4 * scatter.operand_bytes


def test_the_convolution_beside_it_has_the_operations_of_the_formula():
    assert of("async").flops == 2 * (8 * 1536) * 3 * 231 * 512  # its padding comes as an array


PROGRAM = """
ENTRY %main (a: bf16[8,768,256], b: {right}) -> {out} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %convolution = {out} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""


def test_products_with_padding_do_not_count():
    """So the gradient for half of the kernel's inputs has half of the convolution's operations."""
    forward = PROGRAM.format(
        left="bf16[8,768,256]",
        right="bf16[3,256,512]",
        out="bf16[8,768,512]",
        window="size=3 pad=1_1",
        labels="b0f_0io->b0f",
    )
    gradient = PROGRAM.format(
        left="bf16[8,768,2,64]",
        right="bf16[8,768,512,1]",
        out="bf16[3,2,64,512]",
        window="size=768x1 pad=1_1x0_0",
        labels="f01b_i0o1->01bf",
    )
    assert costs(parse(forward)).flops == 2 * 8 * (3 * 768 - 2) * 256 * 512
    assert costs(parse(gradient)).flops == costs(parse(forward)).flops // 2


def test_a_loop_of_unknown_length_is_refused():
    text = (FIXTURES / "scan.txt").read_text().replace("constant(3)", "parameter(1)")
    with pytest.raises(ValueError, match="no constant number"):
        costs(parse(text))


def test_a_layout_pads_to_tiles():
    array = lambda layout: ArrayType("bf16", (8, 1538, 115), layout)
    assert array("2,1,0:T(8,128)(2,1)").bytes == 8 * 1544 * 128 * 2
    assert array("1,2,0:T(8,128)(2,1)").bytes == 8 * 120 * 1664 * 2
    assert array("").bytes == array("").plain_bytes == 8 * 1538 * 115 * 2
    assert array("2,1,0:T(8,128)(2,1)").in_hbm and not array("2,1,0:T(8,128)S(1)").in_hbm


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("replica_groups={{0,1},{2,3}}", (0, 1)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", (0, 2, 4, 6)),
        ("source_target_pairs={{1,3},{3,1}}", (1, 3)),
    ],
)
def test_every_form_of_groups_is_read(text, members):
    assert group(text) == members


def test_a_ring_has_two_links_into_a_chip_and_the_end_of_a_line_one():
    grid = lambda n: [SimpleNamespace(coords=(x, y, 0)) for x in range(n) for y in range(n)]
    everyone, row = range(16), range(4)
    assert network_rate(CHIPS["v5e"], grid(4), everyone) == 2 * 50e9
    assert network_rate(CHIPS["v5e"], grid(4), row) == 50e9
    assert network_rate(CHIPS["v5p"], grid(4), row) == 2 * 100e9
    assert network_rate(CHIPS["v5e"], grid(16), range(256)) == 4 * 50e9
    slices = [SimpleNamespace(coords=(0, 0, 0), slice_index=n) for n in range(2)]
    assert network_rate(CHIPS["v5e"], slices, range(2)) == 3.125e9


@pytest.mark.parametrize(
    ("op_name", "name"),
    [
        ("jit(step)/jvp(UNet)/while/body/closed_call/up_2_residual.block/up_2_residual/conv_in/x",
         "up_2_residual"),
        ("jit(step)/transpose(jvp(UNet))/middle_residual_1/modulation/dot_general",
         "middle_residual"),
        ("jit(step)/jvp(UNet)/while/body/jit(dynamic_index_in_dim)/squeeze", "between blocks"),
        ("jit(step)/transpose(jvp())/mul", "loss"),
        ("jit(step)/mul", "optimiser, EMA, draws"),
        ("broadcast.837", "copies"),
    ],
)  # fmt: skip
def test_traffic_is_named_after_the_block_that_moves_it(op_name, name):
    assert block(op_name) == name
