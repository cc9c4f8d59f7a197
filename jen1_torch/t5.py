"""The encoder of T5 v1.1 and FLAN-T5, for the small text encoder that is trained with the U-Net.

Raffel et al. 2020 (arXiv 1910.10683) with the gated feed-forward of Shazeer 2020 (arXiv
2002.05202). Unlike most transformers: attention is not scaled by 1 / sqrt(d); positions are only a
bias on its scores, one table for all layers; no linear map has a bias; the norms do not centre;
`num_heads * d_kv` need not be `d_model`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jen1_torch.layers import RMSNorm

BUCKETS = 32  # of the distances between tokens
MAX_DISTANCE = 128  # tokens further away share the last bucket


def position_buckets(length: int) -> Tensor:
    """Buckets of the distances from query i to key j, [length, length].

    Small distances have a bucket each; large ones share logarithmic buckets.
    """
    # One half of the buckets is for keys before the query, the other for keys after it.
    half = BUCKETS // 2
    exact = half // 2
    place = torch.arange(length)
    distance = place[None, :] - place[:, None]
    ratio = (distance.abs().clamp(min=1).double() / exact).log() / math.log(MAX_DISTANCE / exact)
    # With 1e-6 exact powers fall into the upper bucket, as in exact arithmetic.
    far = (exact + (ratio * (half - exact) + 1e-6).floor()).clamp(max=half - 1).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), far)
    return bucket + half * (distance > 0)


class Block(nn.Module):
    """Self-attention and a gated feed-forward network.

    Each reads the normalised sum of what precedes it and is added to this sum, which is float32.
    """

    def __init__(self, d_model: int, d_kv: int, d_ff: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        self.attention_norm = RMSNorm(d_model)
        self.q, self.k, self.v = (linear(d_model, num_heads * d_kv) for _ in range(3))
        self.o = linear(num_heads * d_kv, d_model)
        self.ff_norm = RMSNorm(d_model)
        self.wi_0, self.wi_1 = linear(d_model, d_ff), linear(d_model, d_ff)
        self.wo = linear(d_ff, d_model)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` [batch, tokens, d_model]; `bias` [batch, heads, tokens, tokens] of the scores."""
        dtype = self.q.weight.dtype
        y = self.attention_norm(x).to(dtype)
        heads = lambda x: x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = heads(self.q(y)), heads(self.k(y)), heads(self.v(y))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(dtype), scale=1.0)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.ff_norm(x).to(dtype)
        return x + self.wo(F.gelu(self.wi_0(y), approximate="tanh") * self.wi_1(y))


class T5Encoder(nn.Module):
    """Tokens to one float32 vector each, zero from `lengths` on; padding changes no real token.

    The arguments are those of the section `text` of the configuration. Products have the dtype of
    the parameters; norms and the sum through the blocks are float32.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        d_kv: int,
        d_ff: int,
        num_layers: int,
        num_heads: int,
    ):
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_model)
        self.position = nn.Embedding(BUCKETS, num_heads)
        for i in range(num_layers):
            self.add_module(f"block_{i}", Block(d_model, d_kv, d_ff, num_heads))
        self.num_layers = num_layers
        self.norm = RMSNorm(d_model)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """`tokens` [batch, tokens] and their `lengths` [batch] to [batch, tokens, d_model]."""
        length = tokens.shape[1]
        buckets = position_buckets(length).to(tokens.device)
        real = torch.arange(length, device=tokens.device) < lengths[:, None]
        bias = self.position(buckets).permute(2, 0, 1).float()
        # A large number instead of infinity: without tokens, a row would give NaN.
        bias = torch.where(real[:, None, None], bias, -1e4)
        x = self.token(tokens).float()
        for i in range(self.num_layers):
            x = self.get_submodule(f"block_{i}")(x, bias)
        return self.norm(x).float() * real[..., None]
