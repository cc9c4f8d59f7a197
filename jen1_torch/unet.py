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

The output of every residual block on the way down is a skip, scaled by 2^-1/2 (Saharia et al. 2022,
B.1). Mode switch, inputs and conditioning are those of JEN-1 (arXiv 2308.04729, section 3.3).
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jen1_numpy.errors import Refusal
from jen1_torch.attention import TransformerBlock
from jen1_torch.layers import Causal, Conv1d, Dense, Downsample, LogSNREmbedding, RMSNorm, Upsample

# What an example without text attends to: a learnt token, or its own frames (JEN-1, section 3.2).
NULL_TEXTS = ("token", "self_attention")


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, norm scaled and shifted by the embedding, SiLU, convolution.

    The result is added to the input, which is projected if the widths differ. Padding is set to
    zero before each convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_features: int) -> None:
        super().__init__()
        self.norm_in = RMSNorm(in_channels)
        self.conv_in = Conv1d(in_channels, out_channels, 3)
        self.modulation = Dense(embedding_features, 2 * out_channels)
        self.norm_out = RMSNorm(out_channels)
        self.conv_out = Conv1d(out_channels, out_channels, 3)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else Dense(in_channels, out_channels)

    def forward(
        self, x: Tensor, embedding: Tensor, valid: Tensor, causal: Causal = False
    ) -> Tensor:
        """[batch, frames, in_channels] to [batch, frames, out_channels].

        `embedding` is [batch, embedding_features]; `valid` [batch, frames, 1] is 1 on real frames
        and 0 on padding.
        """
        h = self.conv_in(F.silu(self.norm_in(x)) * valid, causal)
        scale, shift = self.modulation(F.silu(embedding).to(x.dtype))[:, None].chunk(2, dim=-1)
        h = F.silu(self.norm_out(h) * (1 + scale) + shift)
        return self.shortcut(x) + self.conv_out(h * valid, causal)


class UNet(nn.Module):
    """Predicts from noisy latents what the diffusion objective asks for.

    Level i is `channels * multipliers[i]` wide and has 1 / `factors[i - 1]` of the rate of level
    i - 1; level 0 is that of the stem. `num_blocks` is the number of each level's residual blocks,
    the same on the way down and up, and `attentions` that of the transformer blocks after them; its
    last entry is for the bottleneck. `conditioning` has the number of features of each vector
    besides the text, by name.

    The type of the parameters is that of the arithmetic, except for norms, softmax, the embedding
    of the noise level and the output layer, which are float32.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        channels: int,
        multipliers: Sequence[int],
        factors: Sequence[int],
        num_blocks: Sequence[int],
        attentions: Sequence[int],
        head_dim: int,
        ff_multiplier: int,
        text_features: int,
        null_text: str = "token",
        conditioning: Mapping[str, int] | None = None,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        levels = len(factors)
        if not len(num_blocks) == len(multipliers) - 1 == len(attentions) - 1 == levels:
            raise Refusal(
                "unet.num_blocks needs one entry a factor,"
                " unet.multipliers and unet.attentions one more."
            )
        if null_text not in NULL_TEXTS:
            raise Refusal(
                f"Unknown unet.null_text {null_text!r}: choose one of {', '.join(NULL_TEXTS)}."
            )
        self.factors, self.num_blocks, self.attentions = factors, num_blocks, attentions
        self.widths = [channels * multiplier for multiplier in multipliers]
        self.conditioning = sorted(conditioning or {})
        self.replace_text = null_text == "self_attention"
        embedding_features = 4 * channels

        def residuals(name: str, in_channels: int, width: int, count: int) -> None:
            for i in range(count):
                self.add_module(
                    f"{name}_{i}", ResidualBlock(in_channels, width, embedding_features)
                )

        def transformers(name: str, width: int, count: int) -> None:
            text_width = width if self.replace_text else text_features
            for i in range(count):
                block = TransformerBlock(
                    width, text_width, head_dim, ff_multiplier, self.replace_text, qk_norm
                )
                self.add_module(f"{name}_{i}", block)

        self.time = LogSNREmbedding(embedding_features)
        for name in self.conditioning:
            self.add_module(f"conditioning_{name}", Dense(conditioning[name], embedding_features))
        self.text_norm = RMSNorm(text_features)
        self.text = Dense(text_features, text_features)
        if self.replace_text:
            # The same weights read text and frames, so that text must be as wide as each level.
            for width in set(self.widths[1:]) - {text_features}:
                self.add_module(f"text_{width}", Dense(text_features, width, bias=False))
        else:
            self.null_text = nn.Parameter(torch.randn(text_features))

        self.stem = Conv1d(2 * out_channels + 1, self.widths[0], 3)
        for level, factor in enumerate(factors, start=1):
            above, width = self.widths[level - 1 : level + 1]
            blocks, attention = num_blocks[level - 1], attentions[level - 1]
            self.add_module(f"down_{level}_resample", Downsample(above, width, factor))
            residuals(f"down_{level}_residual", width, width, blocks)
            transformers(f"down_{level}_transformer", width, attention)
            residuals(f"up_{level}_residual", 2 * width, width, blocks)
            transformers(f"up_{level}_transformer", width, attention)
            self.add_module(f"up_{level}_resample", Upsample(width, above, factor))
        residuals("middle_residual", self.widths[-1], self.widths[-1], 2)
        transformers("middle_transformer", self.widths[-1], attentions[-1])
        self.norm = RMSNorm(self.widths[0])
        self.output = Conv1d(self.widths[0], out_channels, 3)

    @property
    def frames_multiple(self) -> int:
        """Frames of the highest rate per frame of the lowest."""
        return math.prod(self.factors)

    def forward(
        self,
        noisy: Tensor,
        context: Tensor,
        mask: Tensor,
        log_snr: Tensor,
        text: Tensor,
        text_lengths: Tensor,
        valid: Tensor,
        causal: Tensor,
        conditioning: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The prediction [batch, frames, k]: float32, zero on padding, for any number of frames.

        `noisy` and `context` are [batch, frames, k], `mask` and `valid` [batch, frames, 1], `text`
        is [batch, tokens, text_features], `log_snr`, `text_lengths` and the bools `causal` are
        [batch], and `conditioning` has a vector [batch, features] by name. `context` holds the
        given latents where `mask` is 1 and zeros elsewhere. Only the first `text_lengths` tokens of
        `text` are read; an example without any attends to what `null_text` states. `valid` is 1 on
        real frames and 0 on padding, which follows them.
        """
        frames, dtype = noisy.shape[1], self.stem.weight.dtype
        # Padded to a multiple of the factors here and nowhere else.
        padding = (0, 0, 0, -frames % self.frames_multiple)
        noisy, context, mask, valid = (F.pad(x, padding) for x in (noisy, context, mask, valid))

        embedding = self.time(log_snr)
        for name in self.conditioning:
            project = self.get_submodule(f"conditioning_{name}")
            embedding = embedding + project(conditioning[name].float())
        texts, text_lengths = self._texts(text, text_lengths)

        # A low-rate frame is real if any of its frames is. So every real frame keeps its low-rate
        # frame, and more padding adds no real one.
        valids = [valid.to(dtype)]
        for factor in self.factors:
            valids.append(valids[-1].unflatten(1, (-1, factor)).amax(2))

        def transformers(x: Tensor, level: int, name: str, count: int) -> Tensor:
            text = texts[self.widths[level]]
            for i in range(count):
                block = self.get_submodule(f"{name}_{i}")
                x = block(x, text, text_lengths, valids[level], causal)
            return x

        x = torch.cat([noisy, context, mask], dim=-1).to(dtype)
        x = stem = self.stem(x * valids[0], causal)
        skips = []
        for level, (blocks, attention) in enumerate(
            zip(self.num_blocks, self.attentions[:-1], strict=True), start=1
        ):
            x = self.get_submodule(f"down_{level}_resample")(x * valids[level - 1], causal)
            for i in range(blocks):
                block = self.get_submodule(f"down_{level}_residual_{i}")
                x = block(x, embedding, valids[level], causal)
                skips.append(x * 2**-0.5)
            x = transformers(x, level, f"down_{level}_transformer", attention)

        x = self.middle_residual_0(x, embedding, valids[-1], causal)
        x = transformers(x, len(self.factors), "middle_transformer", self.attentions[-1])
        x = self.middle_residual_1(x, embedding, valids[-1], causal)

        for level in reversed(range(1, len(self.factors) + 1)):
            for i in range(self.num_blocks[level - 1]):
                block = self.get_submodule(f"up_{level}_residual_{i}")
                x = block(torch.cat([x, skips.pop()], dim=-1), embedding, valids[level], causal)
            x = transformers(x, level, f"up_{level}_transformer", self.attentions[level - 1])
            x = self.get_submodule(f"up_{level}_resample")(x * valids[level], causal)

        valid = valid.float()
        x = F.silu(self.norm((x + stem).float())) * valid
        return (self.output(x, causal) * valid)[:, :frames]

    def _texts(self, text: Tensor, lengths: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """The text that the transformers of each width read, and how many tokens of it."""
        text = self.text(self.text_norm(text.float()).to(self.text.weight.dtype))
        if not self.replace_text:
            text = torch.where((lengths == 0)[:, None, None], self.null_text, text)
            return dict.fromkeys(self.widths, text), lengths.clamp(min=1)
        texts = {
            width: self.get_submodule(f"text_{width}")(text)
            for width in set(self.widths[1:]) - {text.shape[-1]}
        }
        return texts | {text.shape[-1]: text}, lengths
