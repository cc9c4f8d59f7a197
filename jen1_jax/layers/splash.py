"""Attention between long sequences on a TPU, by Pallas's splash kernel.

The kernel keeps the logits on the chip. Its mask is the same for all examples, but it may be a
function of each query's position, and a query reads only keys of its own segment. So the mode of an
example goes into its positions, and its padding into another segment.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, SegmentIds
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
    DEFAULT_MASK_VALUE,
    SplashAttentionKernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jen1_jax.layers.conv import Causal

HEADS_AXIS = "tensor"  # the mesh axis that splits heads; every other one splits the batch


def pays(
    query: Float[Array, "batch frames heads channels"],
    key: Float[Array, "batch keys heads channels"],
) -> bool:
    """Whether both sequences are long, and all sizes multiples of the kernel's blocks."""
    frames, keys, channels = query.shape[1], key.shape[1], query.shape[-1]
    return min(frames, keys) >= 384 and frames % 128 == keys % 128 == channels % 128 == 0


def splash_attention(
    query: Float[Array, "batch frames heads channels"],
    key: Float[Array, "batch keys heads channels"],
    value: Float[Array, "batch keys heads channels"],
    valid: Bool[Array, "batch keys"] | None = None,
    lengths: Int[Array, " batch"] | None = None,
    causal: Causal = False,
    interpret: bool = False,
) -> Float[Array, "batch frames heads channels"]:
    """`attention` by the kernel, on a TPU or, with `interpret`, anywhere.

    Frames and keys must be multiples of 128. On a mesh each device computes its own examples and
    heads, since JAX does not partition a kernel.
    """
    (batch, frames, heads, _), keys = query.shape, key.shape[1]
    real = jnp.ones((batch, keys), bool) if valid is None else valid
    if lengths is not None:
        real = real & (jnp.arange(keys) < lengths[:, None])
    last = jnp.where(jnp.asarray(causal).reshape(-1, 1), jnp.arange(keys - frames, keys), keys)
    last = jnp.broadcast_to(last, (batch, frames))

    attend = partial(_attend, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1:
        split = lambda size, axes: (
            axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None
        )
        rows = split(batch, tuple(axis for axis in mesh.axis_names if axis != HEADS_AXIS))
        columns = split(heads, tuple(axis for axis in mesh.axis_names if axis == HEADS_AXIS))
        specs = (P(rows, None, columns),) * 3 + (P(rows),) * 2
        attend = jax.shard_map(attend, in_specs=specs, out_specs=specs[0], check_vma=False)
    return attend(query, key, value, real, last)


def _attend(query, key, value, real, last, interpret):
    """Attention of each query to the `real` keys up to its `last`, on one device."""
    largest = lambda length: max(block for block in range(128, 1025, 128) if length % block == 0)
    q, kv = largest(query.shape[1]), largest(key.shape[1])
    blocks = BlockSizes(q, kv, block_q_dkv=q, block_kv_dkv=kv, use_fused_bwd_kernel=True)
    if kv < key.shape[1]:  # then the fused kernel would keep a gradient of the queries a block
        blocks = BlockSizes(q, kv, block_q_dkv=q, block_kv_dkv=kv, block_q_dq=q, block_kv_dq=kv)

    def example(query, key, value, real, last):
        mask = MaskInfo(None, None, None, None, q_sequence=last)
        kernel = SplashAttentionKernel(
            fwd_mask_info=mask,
            dq_mask_info=mask,
            dkv_mask_info=mask,
            mask_function=_up_to,
            block_sizes=blocks,
            is_mqa=False,
            save_residuals=False,
            mask_value=DEFAULT_MASK_VALUE,
            attn_logits_soft_cap=None,
            residual_checkpoint_name=None,
            interpret=interpret,
        )
        return kernel(query, key, value, SegmentIds(jnp.ones_like(last), real.astype(jnp.int32)))

    heads_first = lambda x: x.swapaxes(1, 2)
    scaled = query * query.shape[-1] ** -0.5
    return heads_first(
        jax.vmap(example)(heads_first(scaled), heads_first(key), heads_first(value), real, last)
    )


def _up_to(last, key):
    return key <= last
