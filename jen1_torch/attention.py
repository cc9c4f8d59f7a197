"""Multi-head attention over frames and to text, and the transformer block of both."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jen1_numpy.errors import Refusal
from jen1_torch.layers import Causal, Dense, RMSNorm


class Rotary(nn.Module):
    """Rotates channel pairs (c, c + channels / 2) in proportion to the frame.

    This is RoPE (Su et al. 2021): the product of a rotated query and a rotated key depends only on
    the distance of their frames.
    """

    def __init__(self, channels: int, base: float = 10_000.0) -> None:
        super().__init__()
        if channels % 2:
            raise Refusal(f"unet.head_dim must be even for rotary positions, got {channels}.")
        # In turns a frame, times 2^40. Whole turns are then dropped without rounding, on devices
        # without float64 too, and `half()` leaves integers as they are.
        turns = base ** -np.linspace(0, 1, channels // 2, endpoint=False) / (2 * math.pi)
        turns = torch.from_numpy(np.rint(turns * 2**40).astype(np.int64))
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, heads, channels] to the same; angles are float32."""
        turns = torch.arange(x.shape[1], device=x.device)[:, None, None] * self.turns
        angles = (turns & (2**40 - 1)).float() * (2 * math.pi / 2**40)
        cosine, sine = angles.cos(), angles.sin()
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat(
            [first * cosine - second * sine, second * cosine + first * sine], dim=-1
        ).to(x.dtype)


def attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, causal: Causal = False
) -> Tensor:
    """Softmax attention to the keys that are `allowed` [batch, keys], and not later if `causal`.

    Query, key and value are [batch, frames or keys, heads, channels]; the result is as the query.
    The queries belong to the last frames of the keys. A query without any key attends to all,
    which gives a finite value without a meaning.
    """
    frames, keys = query.shape[1], key.shape[1]
    mask = allowed[:, None, None]
    if causal is not False:
        past = torch.ones(frames, keys, dtype=torch.bool, device=query.device).tril(keys - frames)
        mask = mask & (past if causal is True else past | ~causal[:, None, None, None])
    mask = mask | ~mask.any(dim=-1, keepdim=True)  # the softmax of nothing is 0 / 0
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with rotary positions, or cross-attention to a source without positions.

    There are `width // head_dim` heads. With `qk_norm` each head's queries and keys are divided by
    their root mean square and scaled by learnt factors, the same for all heads (Henry et al. 2020;
    Dehghani et al. 2023, section 2).
    """

    def __init__(
        self, width: int, head_dim: int, source_width: int | None = None, qk_norm: bool = False
    ) -> None:
        super().__init__()
        if width % head_dim:
            raise Refusal(
                f"A width of {width} is not a multiple of the head_dim {head_dim};"
                " change one of them."
            )
        self.head_dim = head_dim
        self.rotary = Rotary(head_dim) if source_width is None else nn.Identity()
        self.query = Dense(width, width, bias=False)
        self.key = Dense(source_width or width, width, bias=False)
        self.value = Dense(source_width or width, width, bias=False)
        self.query_norm = RMSNorm(head_dim) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(head_dim) if qk_norm else nn.Identity()
        self.output = Dense(width, width)

    def forward(self, x: Tensor, source: Tensor, allowed: Tensor, causal: Causal = False) -> Tensor:
        """[batch, frames, width] to the same.

        Keys and values are those of `source` [batch, keys, source_width], limited as by
        `attention`; self-attention gets `x` again.
        """
        query, key, value = (
            project(y).unflatten(-1, (-1, self.head_dim))
            for project, y in ((self.query, x), (self.key, source), (self.value, source))
        )
        query = self.rotary(self.query_norm(query))
        key = self.rotary(self.key_norm(key))
        return self.output(attention(query, key, value, allowed, causal).flatten(-2))


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them; the hidden layer is `multiplier` times as wide."""

    def __init__(self, width: int, multiplier: int) -> None:
        super().__init__()
        self.hidden = Dense(width, multiplier * width)
        self.output = Dense(multiplier * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, width] to the same."""
        return self.output(F.gelu(self.hidden(x), approximate="tanh"))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each added to its input.

    Each reads the normalised input. With `replace_text`, an example whose text has length 0
    attends, with the weights of the cross-attention, to the frames that its mode allows (JEN-1,
    section 3.2); then `text_width` must be `width`.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        head_dim: int,
        ff_multiplier: int,
        replace_text: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.replace_text = replace_text
        self.self_norm = RMSNorm(width)
        self.self_attention = Attention(width, head_dim, qk_norm=qk_norm)
        self.cross_norm = RMSNorm(width)
        self.cross_attention = Attention(width, head_dim, text_width, qk_norm)
        self.feed_forward_norm = RMSNorm(width)
        self.feed_forward = FeedForward(width, ff_multiplier)

    def forward(
        self, x: Tensor, text: Tensor, lengths: Tensor, valid: Tensor, causal: Causal = False
    ) -> Tensor:
        """[batch, frames, width] to the same.

        `text` is [batch, tokens, text_width], of which the first `lengths` [batch] are read, and
        `valid` [batch, frames, 1] is 1 on real frames and 0 on padding.
        """
        real = valid[..., 0] > 0
        tokens = torch.arange(text.shape[1], device=x.device) < lengths[:, None]
        y = self.self_norm(x)
        x = x + self.self_attention(y, y, real, causal)
        y = self.cross_norm(x)
        if self.replace_text:
            # The keys are the text followed by the frames, of which each example may read one, so
            # that examples with and without text share a batch.
            keys = torch.cat([text, y], dim=1)
            allowed = torch.cat([tokens, real & (lengths == 0)[:, None]], dim=1)
            x = x + self.cross_attention(y, keys, allowed, causal)
        else:
            x = x + self.cross_attention(y, text, tokens)
        return x + self.feed_forward(self.feed_forward_norm(x))
