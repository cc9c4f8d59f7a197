"""The omnidirectional 1D U-Net: one network that denoises whitened latents in both directions of time.

    noisy, context, mask -> stem -+--------------------------------------------------------------+-> + -> norm, conv -> prediction
                                  |                                                              |
                              downsample -> residual blocks -> transformers     residual blocks -> transformers -> upsample
                                               | (every output is a skip) ------------^
                                               +-> next level ... bottleneck ... -----+

After Imagen's efficient U-Net a level downsamples first and upsamples last, and skips are scaled by 2^-1/2 (Saharia et al. 2022,
B.1); block layout after audio-diffusion-pytorch's UNet1d; mode switch, inputs and conditioning after JEN-1 (arXiv 2308.04729,
section 3.3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jen1_jax.errors import Refusal
from jen1_jax.layers.attention import TransformerBlock
from jen1_jax.layers.conv import Causal, Conv1d, Downsample, Upsample
from jen1_jax.layers.dense import Dense
from jen1_jax.layers.embeddings import LogSNREmbedding
from jen1_jax.layers.layer import Layer, Reach
from jen1_jax.layers.norms import RMSNorm
from jen1_jax.registry import Registry

# What the backward pass computes again: nothing; all but the products of activations and weights; or the inside of every block.
_products = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names("convolution"),
)
REMAT = Registry(
    "unet.remat",
    {
        "none": lambda block, **_: block,
        "products": partial(nn.remat, policy=_products),
        "full": nn.remat,
    },
)
# What an example without text attends to in the place of text: a learned token, or its own frames (JEN-1, section 3.2).
NULL_TEXT = Registry("unet.null_text", {"token": False, "self_attention": True})


class ResidualBlock(Layer, nn.Module):
    """Norm, SiLU, convolution; norm scaled and shifted by the embedding, SiLU, convolution; added to the input.

    The input is projected where widths differ. The last convolution starts at zero, so that a block starts as its shortcut.
    Padding is zeroed before each convolution that would carry it to its neighbours.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    padding = "valid"

    def reach(self, causal: bool) -> Reach:
        return Reach.window(2, causal)  # two convolutions of three taps

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch frames channels"],
        embedding: Float[Array, "batch features"],
        valid: Float[Array, "batch frames 1"],
        causal: Causal = False,
    ) -> Float[Array, "batch frames width"]:
        h = nn.silu(RMSNorm(dtype=self.dtype, name="norm_in")(x))
        h = Conv1d(self.features, 3, dtype=self.dtype, name="conv_in")(h * valid, causal)
        modulation = Dense(2 * self.features, dtype=self.dtype, name="modulation")(
            nn.silu(embedding)
        )
        scale, shift = jnp.split(modulation[:, None], 2, axis=-1)
        h = nn.silu(RMSNorm(dtype=self.dtype, name="norm_out")(h) * (1 + scale) + shift)
        h = Conv1d(
            self.features, 3, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="conv_out"
        )(h * valid, causal)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        return x + h


class UNet(nn.Module):
    """Predicts from noisy latents what the objective asks for; fields: those of `config.unet`, and the number of `out_channels`.

    Level i is `channels * multipliers[i]` wide and runs `factors[i - 1]` times slower than level i - 1; level 0 is the stem's.
    `num_blocks` counts each level's residual blocks, down and up alike, `attentions` the transformer blocks after them, its last
    entry those of the bottleneck. With `scan` a run of equal blocks is compiled once and looped over, its parameters stacked in a
    leading dimension: it compiles sooner and runs a little slower. Parameters are float32, arithmetic is `dtype`; norms, softmax
    and the output layer are float32.
    """

    out_channels: int
    channels: int
    multipliers: Sequence[int]
    factors: Sequence[int]
    num_blocks: Sequence[int]
    attentions: Sequence[int]
    head_dim: int
    ff_multiplier: int
    text_features: int
    null_text: str = "token"
    conditioning: Sequence[str] = ()  # names of the vectors besides text (jen1_jax/conditioning)
    dtype: DTypeLike = "float32"
    remat: str = "none"
    scan: bool = False

    @property
    def frames_multiple(self) -> int:
        """Frames are padded to a multiple of this inside."""
        return math.prod(self.factors)

    @nn.compact
    def __call__(
        self,
        noisy: Float[Array, "batch frames k"],
        context: Float[Array, "batch frames k"],
        mask: Float[Array, "batch frames 1"],
        log_snr: Float[Array, " batch"],
        text: Float[Array, "batch tokens text_features"],
        text_lengths: Int[Array, " batch"],
        valid: Float[Array, "batch frames 1"],
        causal: Bool[Array, " batch"],
        conditioning: Mapping[str, Float[Array, "batch _"]] | None = None,
    ) -> Float[Array, "batch frames out_channels"]:
        """The network's raw output, float32, zero on padding.

        `mask` is 1 where `context` is given; `valid` is 1 on real frames; only the first `text_lengths` tokens of `text` are
        seen, and an example with none sees what `null_text` says. Each `conditioning` vector is projected and added to the time
        embedding. A frame's output depends on no later frame where `causal`, and never on padding or other examples.
        """
        levels = len(self.factors)
        if (
            not len(self.num_blocks)
            == len(self.multipliers) - 1
            == len(self.attentions) - 1
            == levels
        ):
            raise Refusal(
                "unet.num_blocks needs one entry a factor, unet.multipliers and unet.attentions one more."
            )
        frames = noisy.shape[1]  # padded to the factors here and nowhere else
        pad = lambda x: jnp.pad(x, ((0, 0), (0, -frames % self.frames_multiple), (0, 0)))
        noisy, context, mask, valid = map(pad, (noisy, context, mask, valid))
        dtype = jnp.dtype(self.dtype)
        widths = [self.channels * multiplier for multiplier in self.multipliers]

        embedding = LogSNREmbedding(4 * self.channels, name="time")(log_snr)
        for name, vector in sorted((conditioning or {}).items()):
            embedding = embedding + Dense(embedding.shape[-1], name=f"conditioning_{name}")(vector)
        text = Dense(self.text_features, dtype=dtype, name="text")(
            RMSNorm(dtype=dtype, name="text_norm")(text)
        )
        replace_text = NULL_TEXT[self.null_text]
        if (
            replace_text
        ):  # the same weights read text and frames, so that text must be as wide as each level
            fit = lambda width: Dense(width, use_bias=False, dtype=dtype, name=f"text_{width}")(
                text
            )
            texts = {
                width: text if width == self.text_features else fit(width)
                for width in set(widths[1:])
            }
        else:
            null = self.param(
                "null_text", nn.initializers.normal(1.0), (self.text_features,)
            ).astype(dtype)
            texts = dict.fromkeys(widths, jnp.where((text_lengths == 0)[:, None, None], null, text))
            text_lengths = jnp.maximum(text_lengths, 1)

        # A low frame is real if any of its frames is: no real frame loses its low frame, and more padding adds none that is real.
        valids = [valid.astype(dtype)]
        for factor in self.factors:
            valids.append(valids[-1].reshape(valid.shape[0], -1, factor, 1).max(axis=2))

        def residuals(x, level, name, count, skips=None):
            """(x, every block's scaled output) of a run of residual blocks; one of the `skips` joins each one's input."""

            def block(module, x, skip):
                x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
                x = module(x, embedding, valids[level], causal)
                return x, x * 2**-0.5

            return self._run(
                block, partial(ResidualBlock, widths[level], dtype=dtype), name, count
            )(x, skips)

        def transformers(x, level, name, count):
            def block(module, x, _):
                return module(x, texts[widths[level]], text_lengths, valids[level], causal), None

            make = partial(
                TransformerBlock, self.head_dim, self.ff_multiplier, replace_text, dtype=dtype
            )
            return self._run(block, make, name, count)(x, None)[0]

        x = jnp.concatenate([noisy, context, mask], axis=-1).astype(dtype)
        x = stem = Conv1d(widths[0], 3, dtype=dtype, name="stem")(x * valids[0], causal)
        skips = []
        for level, factor in enumerate(self.factors, start=1):
            x = Downsample(widths[level], factor, dtype=dtype, name=f"down_{level}_resample")(
                x * valids[level - 1], causal
            )
            x, outputs = residuals(x, level, f"down_{level}_residual", self.num_blocks[level - 1])
            skips.append(outputs)
            x = transformers(x, level, f"down_{level}_transformer", self.attentions[level - 1])

        middle = partial(REMAT[self.remat](ResidualBlock), widths[-1], dtype=dtype)
        x = middle(name="middle_residual_0")(x, embedding, valids[-1], causal)
        x = transformers(x, levels, "middle_transformer", self.attentions[-1])
        x = middle(name="middle_residual_1")(x, embedding, valids[-1], causal)

        for level, factor in reversed(list(enumerate(self.factors, start=1))):
            x, _ = residuals(
                x, level, f"up_{level}_residual", self.num_blocks[level - 1], skips.pop()[::-1]
            )
            x = transformers(x, level, f"up_{level}_transformer", self.attentions[level - 1])
            x = Upsample(widths[level - 1], factor, dtype=dtype, name=f"up_{level}_resample")(
                x * valids[level], causal
            )

        x = nn.silu(RMSNorm(name="norm")(x + stem)) * valid
        x = (
            Conv1d(self.out_channels, 3, kernel_init=nn.initializers.zeros, name="output")(
                x, causal
            )
            * valid
        )
        return x[:, :frames]

    def _run(self, block: Callable, make: Callable, name: str, count: int) -> Callable:
        """Maps `x` and `count` items, or None, through `block(module, x, item) -> (x, output)` to the last x and all outputs."""
        block = REMAT[self.remat](
            block, prevent_cse=not self.scan
        )  # without a loop the compiler would undo it
        if self.scan and count:  # of no blocks there are no parameters to stack
            scan = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, length=count
            )
            return partial(scan, make(name=name))

        def one_by_one(x, items):
            outputs = []
            for i in range(count):
                x, output = block(make(name=f"{name}_{i}"), x, None if items is None else items[i])
                outputs.append(output)
            return x, outputs

        return one_by_one
