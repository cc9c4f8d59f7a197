"""The omnidirectional 1D U-Net: one network denoises whitened latents in both directions of time.

    noisy, context, mask -> stem -+----------------------------> + -> norm, conv -> prediction
                                  |                              |
                             downsample                      upsample
                                  |                              |
                           residual blocks --- skips ---+   transformers
                                  |                     |        |
                             transformers               +-> residual blocks
                                  |                              |
                                  +--> next level, bottleneck ---+

The output of every residual block on the way down is a skip. As in Imagen's efficient U-Net, a
level downsamples first and upsamples last, and skips are scaled by 2^-1/2 (Saharia et al. 2022,
B.1). The layout of the blocks is that of audio-diffusion-pytorch's UNet1d; mode switch, inputs and
conditioning are those of JEN-1 (arXiv 2308.04729, section 3.3).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jen1_jax.layers.attention import TransformerBlock
from jen1_jax.layers.conv import Causal, Conv1d, Downsample, Upsample
from jen1_jax.layers.dense import Dense
from jen1_jax.layers.embeddings import LogSNREmbedding
from jen1_jax.layers.layer import Layer, Reach
from jen1_jax.layers.norms import RMSNorm
from jen1_jax.sharding import constrain
from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry

# What the backward pass computes again: nothing; all but the products of activations and weights;
# or the inside of every block.
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
# With `scan`, modules with these names hold the parameters of several blocks, stacked along a first
# axis.
STACKED = re.compile(r"_(residual|transformer)$")
# What an example without text attends to: a learned token, or its own frames (JEN-1, section 3.2).
NULL_TEXTS = ("token", "self_attention")


class ResidualBlock(Layer, nn.Module):
    """Norm, SiLU, convolution, norm scaled and shifted by the embedding, SiLU, convolution.

    The result is added to the input, which is projected if the widths differ. The last convolution
    starts at zero, so that a block starts as its shortcut. Padding is set to zero before each
    convolution.
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
    """A `models.denoiser.Denoiser`; its fields are those of `config.unet`, and `out_channels`.

    Level i is `channels * multipliers[i]` wide and has 1 / `factors[i - 1]` of the rate of level
    i - 1; level 0 is that of the stem. `num_blocks` is the number of each level's residual blocks,
    the same on the way down and up, and `attentions` that of the transformer blocks after them; its
    last entry is for the bottleneck. With `scan` a run of equal blocks is one loop over stacked
    parameters: it compiles faster and runs a little slower. Parameters are float32, arithmetic is
    `dtype`; norms, softmax and the output layer are float32.
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
    conditioning: Sequence[str] = ()  # names of conditioners (jen1_jax/conditioning)
    qk_norm: bool = False
    dtype: DTypeLike = "float32"
    remat: str = "none"
    scan: bool = False

    @property
    def frames_multiple(self) -> int:
        """Frames of the highest rate per frame of the lowest."""
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
        """See `models.denoiser.Denoiser`.

        An example without text attends to what `null_text` states. Each `conditioning` vector is
        projected and added to the embedding of the noise level.
        """
        levels = len(self.factors)
        if (
            not len(self.num_blocks)
            == len(self.multipliers) - 1
            == len(self.attentions) - 1
            == levels
        ):
            raise Refusal(
                "unet.num_blocks needs one entry a factor,"
                " unet.multipliers and unet.attentions one more."
            )
        frames = noisy.shape[1]  # padded to a multiple of the factors here and nowhere else
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
        replace_text = self.null_text == "self_attention"
        if replace_text:
            # The same weights read text and frames, so that text must be as wide as each level.
            project = lambda width: Dense(width, use_bias=False, dtype=dtype, name=f"text_{width}")(
                text
            )
            texts = {
                width: text if width == self.text_features else project(width)
                for width in set(widths[1:])
            }
        else:
            null = self.param(
                "null_text", nn.initializers.normal(1.0), (self.text_features,)
            ).astype(dtype)
            texts = dict.fromkeys(widths, jnp.where((text_lengths == 0)[:, None, None], null, text))
            text_lengths = jnp.maximum(text_lengths, 1)

        # A low-rate frame is real if any of its frames is. So every real frame keeps its low-rate
        # frame, and more padding adds no real one.
        valids = [valid.astype(dtype)]
        for factor in self.factors:
            valids.append(valids[-1].reshape(valid.shape[0], -1, factor, 1).max(axis=2))

        def residuals(x, level, name, count, skips=None):
            """Returns x after `count` residual blocks, and the scaled output of each.

            Each block's input is joined by one of the `skips`, if these are given.
            """

            def block(module, x, skip):
                x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
                x = constrain(module(constrain(x), embedding, valids[level], causal))
                return x, x * 2**-0.5

            return self._run(
                block, partial(ResidualBlock, widths[level], dtype=dtype), name, count
            )(x, skips)

        def transformers(x, level, name, count):
            def block(module, x, _):
                text = texts[widths[level]]
                x = module(constrain(x), text, text_lengths, valids[level], causal)
                return constrain(x), None

            make = partial(
                TransformerBlock,
                self.head_dim,
                self.ff_multiplier,
                replace_text,
                self.qk_norm,
                dtype=dtype,
            )
            return self._run(block, make, name, count)(x, None)[0]

        x = jnp.concatenate([noisy, context, mask], axis=-1).astype(dtype)
        x = Conv1d(widths[0], 3, dtype=dtype, name="stem")(constrain(x * valids[0]), causal)
        x = stem = constrain(x)
        skips = []
        for level, factor in enumerate(self.factors, start=1):
            x = Downsample(widths[level], factor, dtype=dtype, name=f"down_{level}_resample")(
                x * valids[level - 1], causal
            )
            x, outputs = residuals(x, level, f"down_{level}_residual", self.num_blocks[level - 1])
            skips.append(outputs)
            x = transformers(x, level, f"down_{level}_transformer", self.attentions[level - 1])

        middle = partial(REMAT[self.remat](ResidualBlock), widths[-1], dtype=dtype)
        x = constrain(middle(name="middle_residual_0")(x, embedding, valids[-1], causal))
        x = transformers(x, levels, "middle_transformer", self.attentions[-1])
        x = constrain(middle(name="middle_residual_1")(x, embedding, valids[-1], causal))

        for level, factor in reversed(list(enumerate(self.factors, start=1))):
            x, _ = residuals(
                x, level, f"up_{level}_residual", self.num_blocks[level - 1], skips.pop()[::-1]
            )
            x = transformers(x, level, f"up_{level}_transformer", self.attentions[level - 1])
            x = Upsample(widths[level - 1], factor, dtype=dtype, name=f"up_{level}_resample")(
                x * valids[level], causal
            )

        x = nn.silu(RMSNorm(name="norm")(constrain(x) + stem)) * valid
        x = (
            Conv1d(self.out_channels, 3, kernel_init=nn.initializers.zeros, name="output")(
                x, causal
            )
            * valid
        )
        return x[:, :frames]

    def _run(self, block: Callable, make: Callable, name: str, count: int) -> Callable:
        """A function of `x` and `count` items, or None, to the last x and all outputs.

        It applies `block(module, x, item) -> (x, output)` once for each module of `make`.
        """
        # Without a loop the compiler would merge what is computed again with the first result.
        block = REMAT[self.remat](block, prevent_cse=not self.scan)
        if self.scan and count:  # without blocks there are no parameters to stack
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
