"""The encoder of T5 v1.1 and FLAN-T5 in Flax, and its weights from a Hugging Face folder.

Raffel et al. 2020 (arXiv 1910.10683) with the gated feed-forward of Shazeer 2020 (arXiv
2002.05202). Unlike most transformers: attention is not scaled by 1 / sqrt(d); positions are only a
bias on its scores, one table for all layers; no linear map has a bias; the norms do not centre;
`num_heads * d_kv` need not be `d_model`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree
from safetensors import SafetensorError, safe_open

from jen1_jax.errors import Refusal
from jen1_jax.layers.norms import RMSNorm


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The layout, with the names and defaults of Hugging Face's config.json."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_json(cls, values: Mapping, origin: str) -> "T5Config":
        """The layout in a parsed config.json; refuses, by its name `origin`, other models."""
        for key, known in (("model_type", ("t5", "mt5")), ("feed_forward_proj", ("gated-gelu",))):
            if values.get(key) not in known:
                raise Refusal(
                    f"{origin} has {key} {values.get(key)!r}, but only"
                    f" {' or '.join(map(repr, known))} (T5 v1.1, FLAN-T5) is supported:"
                    " choose a FLAN-T5 model, for example google/flan-t5-large."
                )
        names = {field.name for field in fields(cls)}
        try:
            return cls(**{name: values[name] for name in names & values.keys()})
        except TypeError as error:
            raise Refusal(f"{origin} is not a complete T5 configuration: {error}.") from None

    def to_json(self) -> dict:
        """The config.json from which transformers builds the same encoder."""
        layout = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "model_type": "t5",
            "architectures": ["T5EncoderModel"],
            "feed_forward_proj": "gated-gelu",
            **layout,
        }


def position_buckets(length: int, config: T5Config) -> np.ndarray:
    """Buckets of the distances from query i to key j, int32 [length, length].

    Small distances have a bucket each; large ones share logarithmic buckets.
    """
    # One half of the buckets is for keys before the query, the other for keys after it.
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    ratio = np.log(np.maximum(np.abs(distance), 1) / exact) / np.log(
        config.relative_attention_max_distance / exact
    )
    # With 1e-6 exact powers fall into the upper bucket, as in exact arithmetic.
    far = exact + np.floor(ratio * (half - exact) + 1e-6)
    near = np.abs(distance) < exact
    return np.where(near, np.abs(distance), np.minimum(far, half - 1)).astype(np.int32) + half * (
        distance > 0
    ).astype(np.int32)


class Block(nn.Module):
    """Self-attention and a gated feed-forward network.

    Each reads the normalised sum of what precedes it and is added to this sum, which is float32.
    """

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens d_model"],
        bias: Float[Array, "1 heads tokens tokens"],
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch tokens d_model"]:
        c = self.config
        # T5's initial scales: attention is not scaled, so queries start 1 / sqrt(d_kv) smaller.
        dense = lambda features, variance, name: nn.Dense(
            features,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(variance**-0.5),
            name=name,
        )
        norm = lambda name: RMSNorm(c.layer_norm_epsilon, self.dtype, name=name)
        inner = c.num_heads * c.d_kv

        y = norm("attention_norm")(x)
        q, k, v = (
            dense(inner, variance, name)(y).reshape(*x.shape[:2], c.num_heads, c.d_kv)
            for name, variance in (("q", c.d_model * c.d_kv), ("k", c.d_model), ("v", c.d_model))
        )
        y = jax.nn.dot_product_attention(
            q, k, v, bias=bias, scale=1.0, key_value_seq_lengths=lengths
        )  # softmax in float32
        x = x + dense(c.d_model, inner, "o")(y.reshape(*x.shape[:2], inner))

        y = norm("ff_norm")(x)
        y = nn.gelu(dense(c.d_ff, c.d_model, "wi_0")(y), approximate=True) * dense(
            c.d_ff, c.d_model, "wi_1"
        )(y)
        return x + dense(c.d_model, c.d_ff, "wo")(y)


class T5Encoder(nn.Module):
    """Tokens to one float32 vector each, zero from `lengths` on; padding changes no real token.

    Products are in `dtype`, whatever the dtype of the parameters; norms, softmax and the sum
    through the blocks are float32.
    """

    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch tokens"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch tokens d_model"]:
        c = self.config
        length = tokens.shape[1]
        x = nn.Embed(
            c.vocab_size, c.d_model, embedding_init=nn.initializers.normal(1.0), name="token"
        )(tokens)
        x = x.astype(jnp.float32)
        bias_init = nn.initializers.normal(c.d_model**-0.5)
        bias = nn.Embed(
            c.relative_attention_num_buckets, c.num_heads, embedding_init=bias_init, name="position"
        )(position_buckets(length, c))
        bias = bias.astype(jnp.float32).transpose(2, 0, 1)[None]
        for i in range(c.num_layers):
            x = Block(c, self.dtype, name=f"block_{i}")(x, bias, lengths)
        x = RMSNorm(c.layer_norm_epsilon, name="norm")(x)
        return x * (jnp.arange(length) < lengths[:, None])[..., None]


HF_BLOCK = {
    "attention_norm": "layer.0.layer_norm",
    **{name: f"layer.0.SelfAttention.{name}" for name in "qkvo"},
    "ff_norm": "layer.1.layer_norm",
    **{name: f"layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")},
}
HF_TOP = {
    "token": "shared",
    "position": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "norm": "encoder.final_layer_norm",
}


def hf_name(path: tuple[str, ...]) -> str:
    """Hugging Face's name of the parameter at `path`; a `kernel` is the transpose of its weight."""
    if len(path) == 2:
        return f"{HF_TOP[path[0]]}.weight"
    return f"encoder.block.{path[0].removeprefix('block_')}.{HF_BLOCK[path[1]]}.weight"


def abstract_params(config: T5Config) -> PyTree:
    """Shapes of the encoder's parameters."""
    tokens, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    return jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, lengths)["params"]


def load(folder: str | Path) -> tuple[T5Config, Iterator[tuple[tuple[str, ...], np.ndarray]]]:
    """The layout of a folder in Hugging Face's format, and the weights of its encoder.

    Needs config.json, and model.safetensors or shards with model.safetensors.index.json; refuses
    pickled weights. The weights are pairs (path in the parameters, array on the host), one by one,
    in the order of their paths, with their stored dtype. Decoder weights are not read.
    """
    folder = Path(folder)
    config = T5Config.from_json(
        read_json(folder, "config.json"), origin=str(folder / "config.json")
    )
    return config, _weights(folder, config, _open(folder))


def _weights(
    folder: Path, config: T5Config, files: Mapping[str, safe_open]
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    for path, expected in sorted(flatten_dict(abstract_params(config)).items()):
        name = hf_name(path)
        if name == "shared.weight" and name not in files:
            name = "encoder.embed_tokens.weight"
        if name not in files:
            raise Refusal(
                f"{folder} has no weight {name!r}:"
                " it does not hold the T5 encoder that its config.json describes."
            )
        weight = files[name].get_tensor(name)
        weight = weight.T if path[-1] == "kernel" else weight
        if weight.shape != expected.shape:
            stored = tuple(files[name].get_slice(name).get_shape())
            raise Refusal(
                f"{name!r} in {folder} has the shape {stored}, which does not fit the layout in its"
                " config.json: the two files belong to different models."
            )
        yield path, weight


def weight_files(folder: Path) -> list[str]:
    """Names of the files that should hold the weights: one, or the shards that an index lists."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return ["model.safetensors"]
    shards = read_json(folder, index.name).get("weight_map")
    if not isinstance(shards, dict):
        raise Refusal(f"{index} lists no weights: copy or download it again.")
    return sorted(set(shards.values()))


def _open(folder: Path) -> dict[str, safe_open]:
    """Each weight's name -> the open file that holds it."""
    files = {}
    for name in weight_files(folder):
        if not (folder / name).is_file():
            if pickled := sorted(folder.glob("pytorch_model*.bin")):
                raise Refusal(
                    f"{folder} holds its weights only as {pickled[0].name}, and pickled files are"
                    " not opened: load it with transformers and call save_pretrained to get"
                    " model.safetensors."
                )
            raise Refusal(f"{name} is missing in {folder}.")
        try:
            file = safe_open(folder / name, framework="numpy")
        except SafetensorError as error:
            raise Refusal(
                f"{folder / name} is damaged ({error}): copy or download it again."
            ) from None
        files |= dict.fromkeys(file.keys(), file)
    return files


def read_json(folder: Path, name: str) -> dict:
    """The JSON object in `folder / name`; refuses a missing or damaged file by its name."""
    try:
        found = json.loads((folder / name).read_text())
    except FileNotFoundError:
        raise Refusal(f"{name} is missing in {folder}.") from None
    except ValueError as error:
        raise Refusal(f"{folder / name} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise Refusal(f"{folder / name} does not hold a JSON object: copy or download it again.")
    return found
