"""Compares the memory and traffic of splash attention on a TPU with those of XLA's attention.

    pip install libtpu
    export TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu
    python -m benchmarks.tpu_attention [--topology v5e:2x2] [--frames 512 768 1536]

The TPU's compiler compiles the gradient ahead of time, and nothing is run. Temporaries are the
memory for intermediate results. Traffic is what one chip reads and writes by the compiler's count;
it counts the inputs of a kernel once, although the kernel reads keys and values again for every
block of queries. It needs the compiler (libtpu), but no TPU. Compiling takes some minutes for each
row of the table.
"""

import argparse
import json
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jen1_jax.layers import splash
from jen1_jax.layers.attention import Attention, TransformerBlock
from jen1_jax.sharding import BATCH_AXES, make_mesh

EXAMPLES = 8  # on a chip
WIDTH, HEAD_DIM, TOKENS = 1024, 128, 128


def compiled(mesh, what: str, frames: int):
    """The compiled gradient of self-attention with its projections, or of a block of `jen1`.

    Each example has its own mode and padding.
    """
    shape = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(
        (EXAMPLES * mesh.size, *shape), dtype
    )
    x, valid, causal = shape(frames, WIDTH), shape(frames, dtype=bool), shape(dtype=bool)
    if what == "attention":
        module, inputs = Attention(HEAD_DIM, dtype=jnp.bfloat16), (x, valid, causal)
    else:
        module = TransformerBlock(HEAD_DIM, 2, True, dtype=jnp.bfloat16)
        inputs = (x, shape(TOKENS, WIDTH), shape(dtype=jnp.int32), shape(frames, 1), causal)
    params = jax.eval_shape(lambda *inputs: module.init(jax.random.key(0), *inputs), *inputs)

    def sharded(tree, spec):
        sharding = NamedSharding(mesh, spec)
        place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        return jax.tree.map(place, tree)

    loss = lambda params, *inputs: jnp.mean(module.apply(params, *inputs).astype(jnp.float32) ** 2)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return gradient.lower(sharded(params, P()), *sharded(inputs, P(BATCH_AXES))).compile()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--topology", default="v5e:2x2", help="TPU version and slice; default: %(default)s"
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[512, 768, 1536], help="lengths of a sequence"
    )
    args = parser.parse_args()
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    mesh = make_mesh(ConfigDict(dict(mesh=dict(axes=dict(data=-1, fsdp=1, tensor=1)))), devices)
    figures = {"topology": args.topology}
    print(f"{EXAMPLES} examples on a chip of {args.topology}")
    print("\n| | frames | attention | temporaries, MiB | traffic, GB |\n|---|---|---|---|---|")
    for what in ("attention", "block"):
        for frames in args.frames:
            for name, pays in (("XLA", lambda query, key: False), ("splash", splash.pays)):
                with jax.set_mesh(mesh), mock.patch.object(splash, "pays", pays):
                    program = compiled(mesh, what, frames)
                memory = program.memory_analysis().temp_size_in_bytes
                traffic = program.cost_analysis()["bytes accessed"]
                sizes = f"{memory / 2**20:.0f} | {traffic / 1e9:.2f}"
                print(f"| {what} | {frames} | {name} | {sizes} |", flush=True)
                figures[f"{what}_{frames}_{name}"] = {"temporaries": memory, "traffic": traffic}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
