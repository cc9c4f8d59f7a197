"""How fast the autoencoder is beside what others would use, in one run on one machine: reconstruction and training step.

- the EnCodec layout beside transformers' `EncodecModel` (PyTorch, 48 kHz stereo, same widths, random weights), as it comes and
  without its LSTM, which ours does not have;
- a large one at 23.4 Hz beside diffusers' `AutoencoderOobleck` (PyTorch), widened or narrowed to as many parameters.

Each pair sees the same audio; a training step is the L1 loss, its gradient and AdamW. Ours and theirs take turns, and the figures
are medians. On a shared machine only the ratios mean something.

    pip install diffusers && python -m benchmarks.autoencoder [--repeats N] [--skip-oobleck]
"""

import argparse
import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from configs import encodec_layout, jen1
from jen1_jax.autoencoder.model import Autoencoder

RATE = 48_000
RECONSTRUCT, TRAIN = (
    (1, 4.096),
    (4, 1.024),
)  # batch and seconds; both whole hops of 320 and 2048 samples
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ours(config):
    """(number of parameters, reconstruct, train), the last two functions of audio [batch, samples, 2] that wait for their end."""
    model = Autoencoder(**config.autoencoder)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, model.hop, 2)))["params"]
    optimizer = optax.adamw(1e-4)
    run = jax.jit(lambda params, audio: model.apply({"params": params}, audio)[0])

    def loss(params, audio):
        return jnp.abs(model.apply({"params": params}, audio)[0] - audio).mean()

    @jax.jit
    def step(params, state, audio):
        changes, state = optimizer.update(jax.grad(loss)(params, audio), state, params)
        return optax.apply_updates(params, changes), state

    state = [params, jax.jit(optimizer.init)(params)]

    def train(audio):
        state[:] = step(*state, audio)
        jax.block_until_ready(state)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return count, lambda audio: jax.block_until_ready(run(params, audio)), train


def theirs(model: torch.nn.Module, forward):
    """The same of a PyTorch model whose `forward(audio [batch, 2, samples])` gives the reconstruction."""
    model = model.to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    tensor = lambda audio: torch.from_numpy(np.ascontiguousarray(audio.swapaxes(1, 2))).to(DEVICE)
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None

    def reconstruct(audio):
        with torch.inference_mode():
            forward(tensor(audio))
        wait()

    def train(audio):
        audio = tensor(audio)
        optimizer.zero_grad()
        made = forward(audio)
        (made - audio[..., : made.shape[-1]]).abs().mean().backward()
        optimizer.step()
        wait()

    return sum(p.numel() for p in model.parameters()), reconstruct, train


def encodec(lstm: bool):
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        sampling_rate=RATE,
        audio_channels=2,
        norm_type="time_group_norm",
        use_causal_conv=False,
        normalize=False,
        num_filters=32,
    )
    model = EncodecModel(config)
    del model.quantizer
    for part in (model.encoder, model.decoder):
        for number, layer in enumerate(part.layers):
            if not lstm and type(layer).__name__ == "EncodecLSTM":
                part.layers[number] = torch.nn.Identity()
    return theirs(model, lambda audio: model.decoder(model.encoder(audio)))


def oobleck(parameters: int):
    from diffusers import AutoencoderOobleck

    build = lambda width: AutoencoderOobleck(
        encoder_hidden_size=width,
        decoder_channels=width,
        decoder_input_channels=width // 2,
        sampling_rate=RATE,
    )
    with torch.device("meta"):
        size = {
            width: sum(p.numel() for p in build(width).parameters()) for width in range(32, 161, 8)
        }
    model = build(min(size, key=lambda width: abs(size[width] - parameters)))
    return theirs(model, lambda audio: model.decode(model.encode(audio).latent_dist.mode()).sample)


def compare(name: str, us, them, repeats: int) -> dict:
    """Times both in turn and prints one line for each kind of work."""
    record = {"pair": name, "parameters": [us[0], them[0]]}
    for work, kind, (batch, seconds) in (
        ("reconstruction", 1, RECONSTRUCT),
        ("training step", 2, TRAIN),
    ):
        samples = round(seconds * RATE) // 10_240 * 10_240  # whole hops of every layout here
        audio = np.random.default_rng(0).uniform(-0.5, 0.5, (batch, samples, 2)).astype(np.float32)
        times = ([], [])
        for repeat in range(repeats + 2):
            for sink, function in zip(times, (us[kind], them[kind]), strict=True):
                start = time.perf_counter()
                function(audio)
                if repeat > 1:  # the first two compile and warm up
                    sink.append(time.perf_counter() - start)
        mine, other = map(statistics.median, times)
        rate = batch * samples / RATE
        print(
            f"{name:34} {work:15} ours {mine:7.3f} s ({rate / mine:6.2f}x real time), theirs {other:7.3f} s "
            f"({rate / other:6.2f}x): {other / mine:5.2f} times as fast",
            flush=True,
        )
        record[work] = {"ours_s": mine, "theirs_s": other, "ratio": other / mine}
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--skip-oobleck", action="store_true", help="without the large pair, and without diffusers"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    device = (
        torch.cuda.get_device_name()
        if DEVICE == "cuda"
        else f"{platform.machine()}, {os.cpu_count()} CPU cores"
    )
    print(
        f"{device}; jax {jax.__version__}, torch {torch.__version__} with {torch.get_num_threads()} threads; float32"
    )
    plain = ours(encodec_layout.get_config())
    records = [
        compare("EnCodec layout / EncodecModel", plain, encodec(lstm=True), options.repeats),
        compare("EnCodec layout / without LSTM", plain, encodec(lstm=False), options.repeats),
    ]
    if not options.skip_oobleck:
        low_rate = jen1.get_config()
        with low_rate.unlocked():
            low_rate.autoencoder.update(
                strides=(8, 4, 4, 4, 4), channels=(128, 256, 512, 768, 1024), latent_channels=64
            )
        large = ours(low_rate)
        records.append(
            compare("23.4 Hz / AutoencoderOobleck", large, oobleck(large[0]), options.repeats)
        )
    ratios = {
        f"{work}_ratio": records[0][name]["ratio"]
        for work, name in (("reconstruct", "reconstruction"), ("train", "training step"))
    }
    print(json.dumps(ratios | {"device": device, "pairs": records}))
