"""Attention equals its definition; tests/layers/test_contract.py tests its reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers.attention import Attention, TransformerBlock, attention
from tests.layers.testing import normal, perturbed, randomised

BATCH, FRAMES, TOKENS, HEADS, CHANNELS = 2, 8, 5, 2, 4
CAUSAL = np.array([True, False])


def reference(query, key, value, allowed):
    """Attention by its definition in float64; `allowed` [batch, queries, keys]."""
    logits = np.einsum(
        "bqhc,bkhc->bhqk", *(np.asarray(x, np.float64) for x in (query, key))
    ) / np.sqrt(query.shape[-1])
    logits = np.where(allowed[:, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum(
        "bhqk,bkhc->bqhc", weights / weights.sum(-1, keepdims=True), np.asarray(value, np.float64)
    )


@pytest.fixture(scope="module")
def query_key_value():
    return tuple(jnp.asarray(normal(seed, BATCH, FRAMES, HEADS, CHANNELS)) for seed in range(3))


@pytest.mark.parametrize("causal", [False, True, CAUSAL], ids=["bidirectional", "causal", "mixed"])
def test_self_attention_equals_its_definition(query_key_value, causal):
    valid = np.arange(FRAMES) < np.array([[6], [8]])
    triangle = np.tri(FRAMES, dtype=bool) | ~np.broadcast_to(causal, BATCH)[:, None, None]
    expected = reference(*query_key_value, allowed=triangle & valid[:, None, :])
    result = attention(
        *query_key_value,
        valid=jnp.asarray(valid),
        causal=causal if isinstance(causal, bool) else jnp.asarray(causal),
    )
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True, CAUSAL], ids=["bidirectional", "causal", "mixed"])
def test_on_a_gpu_cudnn_gets_a_mask_of_all_queries_and_keys(query_key_value, causal, monkeypatch):
    given = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda query, key, value, **options: given.append(options) or query,
    )
    wide = [jnp.tile(x, 2).astype(jnp.bfloat16) for x in query_key_value]
    attention(
        *wide,
        valid=jnp.ones((BATCH, FRAMES), bool),
        causal=causal if isinstance(causal, bool) else jnp.asarray(causal),
    )
    assert given[0]["implementation"] == "cudnn" and given[0]["mask"].shape == (
        BATCH,
        1,
        FRAMES,
        FRAMES,
    )


def test_cross_attention_equals_its_definition():
    shapes = (FRAMES, TOKENS, TOKENS)
    query, key, value = (
        jnp.asarray(normal(seed, BATCH, length, HEADS, CHANNELS))
        for seed, length in enumerate(shapes)
    )
    expected = reference(
        query,
        key,
        value,
        np.broadcast_to(np.arange(TOKENS) < np.array([[[1]], [[4]]]), (BATCH, FRAMES, TOKENS)),
    )
    result = jax.jit(attention)(query, key, value, lengths=jnp.array([1, 4]))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_softmax_is_float32_in_half_precision(query_key_value):
    halves = [x.astype(jnp.bfloat16) for x in query_key_value]
    expected = reference(
        *(x.astype(jnp.float32) for x in halves), np.ones((BATCH, FRAMES, FRAMES), bool)
    )
    np.testing.assert_allclose(attention(*halves).astype(np.float32), expected, atol=2**-6)
    exponentials = [
        line for line in str(jax.make_jaxpr(attention)(*halves)).splitlines() if "= exp " in line
    ]
    assert exponentials and not any("bf16" in line for line in exponentials)


def test_a_query_without_any_key_is_finite_and_so_is_its_gradient(query_key_value):
    nothing = jnp.zeros((BATCH, FRAMES), bool)
    loss = lambda query, key, value: attention(
        query, key, value, valid=nothing, causal=jnp.asarray(CAUSAL)
    ).sum()
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*query_key_value)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


INPUTS = dict(
    x=normal(3, BATCH, FRAMES, 8),
    text=normal(4, BATCH, TOKENS, 6),
    lengths=np.array([3, 5], np.int32),
    valid=np.ones((BATCH, FRAMES, 1), np.float32),
    causal=CAUSAL,
)


def test_a_block_does_not_depend_on_text_beyond_its_length():
    params, apply = randomised(TransformerBlock(head_dim=4, ff_multiplier=2), *INPUTS.values())
    block = lambda **changed: np.asarray(apply(params, *(INPUTS | changed).values()))
    text = INPUTS["text"]
    np.testing.assert_array_equal(block(), block(text=perturbed(text, np.s_[0, 3:], by=9.0)))
    assert (block() != block(text=perturbed(text, np.s_[0, 2], by=9.0)))[0].any()


def test_self_attention_depends_on_the_order_of_keys_and_cross_attention_does_not():
    """Frames in another order give another result. The text's order is in its embeddings."""
    x, text, lengths = (
        normal(3, 1, FRAMES, 8),
        normal(4, 1, TOKENS, 8),
        np.array([TOKENS], np.int32),
    )
    params, apply = randomised(Attention(head_dim=4), x)
    order = np.array([1, 0, *range(2, FRAMES)])
    assert not np.allclose(
        np.asarray(apply(params, x[:, order]))[:, order], apply(params, x), atol=1e-3
    )
    cross = jax.jit(
        lambda x, text, lengths: Attention(head_dim=4).apply(
            {"params": params}, x, text=text, lengths=lengths
        )
    )
    np.testing.assert_allclose(
        cross(x, text[:, ::-1], lengths), cross(x, text, lengths), rtol=1e-5, atol=1e-6
    )


def test_normalised_queries_and_keys_do_not_depend_on_the_size_of_their_projections():
    """Per head; without the norm the logits would grow, and with it their scale is learnt."""
    x = normal(3, 1, FRAMES, 8)
    for qk_norm in (True, False):
        params, apply = randomised(Attention(head_dim=4, qk_norm=qk_norm), x)
        names = {"query", "key", "value", "output"} | (
            {"query_norm", "key_norm"} if qk_norm else set()
        )
        assert params.keys() == names
        factors = np.float32([100] * 4 + [30] * 4)  # of the two heads
        larger = {name: {"kernel": factors * params[name]["kernel"]} for name in ("query", "key")}
        same = np.allclose(apply(params | larger, x), apply(params, x), rtol=1e-3, atol=1e-3)
        assert same == qk_norm
        if qk_norm:
            assert params["query_norm"]["scale"].shape == (4,)
            sharper = {"key_norm": {"scale": 3 * params["key_norm"]["scale"]}}
            assert not np.allclose(apply(params | sharper, x), apply(params, x), atol=1e-2)


def test_a_width_that_is_no_multiple_of_the_head_is_refused():
    with pytest.raises(ValueError, match="width of 8 is not a multiple of the head_dim 3"):
        randomised(Attention(head_dim=3), normal(3, 1, FRAMES, 8))
