"""Compares the speed of the autoencoder with two autoencoders in PyTorch, all with random weights.

    pip install diffusers
    python -m benchmarks.autoencoder [--repeats N] [--skip-oobleck]

It measures reconstruction and a training step (L1 loss, gradient, AdamW) of these pairs:

- the EnCodec layout and transformers' `EncodecModel` (48 kHz stereo, the same widths), with its
  LSTM and without it, since ours has none;
- an autoencoder at 23.4 Hz and diffusers' `AutoencoderOobleck`, in the width that comes nearest to
  as many parameters.

Both of a pair process the same audio in turn, and the figures are medians. On a shared machine only
the ratios mean something. It needs PyTorch and transformers, and diffusers for the second pair. It
takes some minutes on two CPU cores.
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
RECONSTRUCT, TRAIN = (1, 4.096), (4, 1.024)  # examples, seconds
WHOLE = 10_240  # samples: a multiple of the hops of all layouts here
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ours(config):
    """(number of parameters, reconstruct, train) of an autoencoder of this project.

    The last two are functions of audio [batch, samples, 2] that return when the result is there.
    """
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
    """The same of a PyTorch model; `forward` reconstructs audio [batch, 2, samples]."""
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
        output = forward(audio)
        (output - audio[..., : output.shape[-1]]).abs().mean().backward()
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
    size = lambda model: sum(p.numel() for p in model.parameters())
    with torch.device("meta"):  # counts parameters without memory for them
        sizes = {width: size(build(width)) for width in range(32, 161, 8)}
    model = build(min(sizes, key=lambda width: abs(sizes[width] - parameters)))
    return theirs(model, lambda audio: model.decode(model.encode(audio).latent_dist.mode()).sample)


def compare(name: str, us, them, repeats: int) -> dict:
    """Times both in turn and prints a line for reconstruction and one for the training step."""
    record = {"pair": name, "parameters": [us[0], them[0]]}
    kinds = [("reconstruction", 1, RECONSTRUCT), ("training step", 2, TRAIN)]
    for work, kind, (batch, seconds) in kinds:
        samples = round(seconds * RATE) // WHOLE * WHOLE
        audio = np.random.default_rng(0).uniform(-0.5, 0.5, (batch, samples, 2)).astype(np.float32)
        times = ([], [])
        for repeat in range(repeats + 2):
            for sink, function in zip(times, (us[kind], them[kind]), strict=True):
                start = time.perf_counter()
                function(audio)
                if repeat > 1:  # the first two compile and warm up
                    sink.append(time.perf_counter() - start)
        ours_s, theirs_s = map(statistics.median, times)
        length, ratio = batch * samples / RATE, theirs_s / ours_s
        print(
            f"{name:34} {work:15} "
            f"ours {ours_s:7.3f} s ({length / ours_s:6.2f}x real time), "
            f"theirs {theirs_s:7.3f} s ({length / theirs_s:6.2f}x): {ratio:5.2f} times as fast",
            flush=True,
        )
        record[work] = {"ours_s": ours_s, "theirs_s": theirs_s, "ratio": ratio}
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements of each; default: %(default)s"
    )
    parser.add_argument(
        "--skip-oobleck", action="store_true", help="leave out the pair that needs diffusers"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    cpu = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else cpu
    threads = torch.get_num_threads()
    print(f"{device}; jax {jax.__version__}, torch {torch.__version__} with {threads} threads")
    print("float32")
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
        peer = oobleck(large[0])
        records.append(compare("23.4 Hz / AutoencoderOobleck", large, peer, options.repeats))
    ratios = {
        "reconstruct_ratio": records[0]["reconstruction"]["ratio"],
        "train_ratio": records[0]["training step"]["ratio"],
    }
    print(json.dumps(ratios | {"device": device, "pairs": records}))
