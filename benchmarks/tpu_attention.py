"""What splash attention saves on a TPU: the memory and traffic of a gradient with it and with XLA's, by the TPU's own compiler.

Compiled ahead of time for a slice of TPUs, on any machine that has the compiler (`pip install libtpu`), some minutes for a block;
nothing is run. Traffic is what the compiler says that one chip reads and writes; it counts a kernel's operands once, though the
kernel reads keys and values again for every block of queries.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python -m benchmarks.tpu_attention [--topology v5e:2x2] [--frames 512 768 1536]
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

EXAMPLES, WIDTH, HEAD_DIM, TOKENS = 8, 1024, 128, 128  # EXAMPLES: on a chip


def compiled(mesh, what: str, frames: int):
    """The gradient of self-attention with its projections or of a block as in `jen1`, each example with a mode and padding."""
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
    laid = lambda tree, spec: jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
        ),
        tree,
    )
    loss = lambda params, *inputs: jnp.mean(module.apply(params, *inputs).astype(jnp.float32) ** 2)
    return (
        jax.jit(jax.grad(loss, argnums=(0, 1)))
        .lower(laid(params, P()), *laid(inputs, P(BATCH_AXES)))
        .compile()
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--frames", type=int, nargs="+", default=[512, 768, 1536])
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
                memory, traffic = (
                    program.memory_analysis().temp_size_in_bytes,
                    program.cost_analysis()["bytes accessed"],
                )
                print(
                    f"| {what} | {frames} | {name} | {memory / 2**20:.0f} | {traffic / 1e9:.2f} |",
                    flush=True,
                )
                figures[f"{what}_{frames}_{name}"] = {"temporaries": memory, "traffic": traffic}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
