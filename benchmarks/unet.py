"""Compares the speed of the U-Net with a-unet's `XUNet` in PyTorch, both with random weights.

    pip install a-unet
    python -m benchmarks.unet [--repeats N]

It measures the forward pass and a training step (squared error, gradient, clipping by the norm,
AdamW). `XUNet` is the network of audio-diffusion-pytorch. Both have the same widths, the same
resampling and the same attention (self-attention, text, feed-forward) after the same levels. They
have about as many parameters: XUNet has one more residual block a level, since its skips contain no
convolutions. Ours also processes modes, masks and padding. The two run in turn, and the figures are
medians. On a shared machine only the ratios mean something.

Then it measures how long the gradient of `jen1`'s layout, an eighth as wide, compiles with
`unet.scan` and without. It needs PyTorch and a-unet, and takes a few minutes on two CPU cores.
"""

import argparse
import json
import os
import platform
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from configs import jen1
from jen1_jax.flops import flops
from jen1_jax.training.optimizer import adamw
from jen1_jax.unet import UNet

BATCH, FRAMES, CHANNELS, TOKENS, TEXT = 2, 1024, 64, 64, 512
LATENTS, PROMPT = (FRAMES, CHANNELS), (TOKENS, TEXT)
WIDTHS, FACTORS, ATTENTIONS, HEAD, MODULATION = (256, 512, 512, 512), (2, 2, 2), (0, 1, 1), 64, 512
TRAINING = jen1.get_config().train_diffusion
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ours():
    """(number of parameters, operations of a forward pass, forward, train) of this project's U-Net.

    The last two are functions of (latents, target, text) that return when the result is there.
    """
    unet = UNet(
        out_channels=CHANNELS,
        channels=MODULATION // 4,
        multipliers=[4 * width // MODULATION for width in WIDTHS],
        factors=FACTORS,
        num_blocks=(2, 2, 2),
        attentions=(*ATTENTIONS, 0),
        head_dim=HEAD,
        ff_multiplier=2,
        text_features=TEXT,
    )
    ones, causal = np.ones((BATCH, FRAMES, 1), np.float32), np.arange(BATCH) % 2 == 0

    def predict(params, latents, text):
        context, log_snr, lengths = latents * (1 - ones), jnp.zeros(BATCH), jnp.full(BATCH, TOKENS)
        return unet.apply(
            {"params": params}, latents, context, 1 - ones, log_snr, text, lengths, ones, causal
        )

    zeros = lambda *sizes: jnp.zeros((1, *sizes))
    example = dict(
        noisy=zeros(8, CHANNELS),
        context=zeros(8, CHANNELS),
        mask=zeros(8, 1),
        log_snr=zeros(),
        text=zeros(1, TEXT),
        text_lengths=jnp.ones(1, int),
        valid=zeros(8, 1),
        causal=jnp.ones(1, bool),
    )
    params = jax.jit(unet.init)(jax.random.key(0), **example)["params"]
    optimizer, _ = adamw(TRAINING)
    run = jax.jit(predict)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, latents, target, text):
        loss = lambda params: jnp.mean((predict(params, latents, text) - target) ** 2)
        changes, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, changes), state

    state = [jax.tree.map(jnp.copy, params), jax.jit(optimizer.init)(params)]

    def train(*batch):
        state[:] = step(*state, *batch)
        jax.block_until_ready(state)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    shape = lambda *sizes: jax.ShapeDtypeStruct((BATCH, *sizes), jnp.float32)
    operations = flops(predict, params, shape(*LATENTS), shape(*PROMPT))
    forward = lambda latents, _, text: jax.block_until_ready(run(params, latents, text))
    return count, operations, forward, train


def theirs():
    """(number of parameters, forward, train) of `XUNet`, as in `ours`."""
    from a_unet.apex import (
        AttentionItem,
        CrossAttentionItem,
        FeedForwardItem,
        ModulationItem,
        ResnetItem,
        SkipCat,
        XBlock,
        XUNet,
    )

    levels = [XBlock(channels=WIDTHS[0], factor=1, items=[], attention_heads=1)]
    residual = [ResnetItem, ModulationItem]
    transformer = [AttentionItem, CrossAttentionItem, FeedForwardItem]
    for width, factor, attentions in zip(WIDTHS[1:], FACTORS, ATTENTIONS, strict=True):
        items = residual * 3 + transformer * attentions
        heads = width // HEAD
        levels.append(XBlock(channels=width, factor=factor, items=items, attention_heads=heads))
    model = XUNet(
        dim=1,
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        blocks=levels,
        skip_t=SkipCat,
        resnet_groups=8,
        modulation_features=MODULATION,
        attention_features=HEAD,
        attention_multiplier=2,
        embedding_features=TEXT,
    ).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), TRAINING.learning_rate)
    features = torch.zeros(BATCH, MODULATION, device=DEVICE)
    tensor = lambda x: torch.from_numpy(x).to(DEVICE)
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None

    def predict(latents, text):
        latents = tensor(latents).mT
        given = torch.zeros(BATCH, CHANNELS + 1, FRAMES, device=DEVICE)
        return model(torch.cat([latents, given], 1), features=features, embedding=tensor(text)).mT

    def forward(latents, _, text):
        with torch.inference_mode():
            predict(latents, text)
        wait()

    def train(latents, target, text):
        optimizer.zero_grad()
        ((predict(latents, text) - tensor(target)) ** 2).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING.clip)
        optimizer.step()
        wait()

    return sum(p.numel() for p in model.parameters()), forward, train


def compile_seconds(scan: bool) -> float:
    """How long the gradient of `jen1`'s layout, an eighth as wide, compiles."""
    narrow = {"channels": 32, "head_dim": 16, "text_features": 128, "scan": scan}
    unet = UNet(out_channels=16, **jen1.get_config().unet.to_dict() | narrow)
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((BATCH, *sizes), dtype)
    inputs = dict(
        noisy=shape(1536, 16),
        context=shape(1536, 16),
        mask=shape(1536, 1),
        log_snr=shape(),
        text=shape(TOKENS, 128),
        text_lengths=shape(dtype=jnp.int32),
        valid=shape(1536, 1),
        causal=shape(dtype=bool),
    )
    params = jax.eval_shape(unet.init, jax.random.key(0), **inputs)
    total = lambda params, inputs: unet.apply(params, **inputs).sum()
    lowered = jax.jit(jax.grad(total)).lower(params, inputs)
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=15, help="measurements of each; default: %(default)s"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    cpu = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else cpu
    threads = torch.get_num_threads()
    print(f"{device}; jax {jax.__version__}, torch {torch.__version__} with {threads} threads")
    (count, operations, *us), (count_theirs, *them) = ours(), theirs()
    print(
        f"float32, {BATCH} x {FRAMES} frames; parameters: ours {count / 1e6:.1f} M, "
        f"theirs {count_theirs / 1e6:.1f} M; ours: {operations / 1e9:.1f} GFLOP in a forward pass, "
        "counted three times for a training step"
    )
    rng = np.random.default_rng(0)
    random = lambda shape: rng.normal(size=(BATCH, *shape)).astype(np.float32)
    batch = [random(LATENTS), random(LATENTS), random(PROMPT)]
    record = {"device": device, "parameters": [count, count_theirs]}
    for passes, work, *pair in ((1, "forward", us[0], them[0]), (3, "train", us[1], them[1])):
        times = ([], [])
        for repeat in range(options.repeats + 2):
            for sink, function in zip(times, pair, strict=True):
                start = time.perf_counter()
                function(*batch)
                if repeat > 1:  # the first two compile and warm up
                    sink.append(time.perf_counter() - start)
        ours_s, theirs_s = map(statistics.median, times)
        speed, ratio = passes * operations / ours_s / 1e9, theirs_s / ours_s
        print(
            f"{work:8} ours {ours_s:.3f} s ({speed:.0f} GFLOP/s), theirs {theirs_s:.3f} s: "
            f"{ratio:.2f} times as fast",
            flush=True,
        )
        record |= {
            f"{work}_ours_s": ours_s,
            f"{work}_theirs_s": theirs_s,
            f"{work}_ratio": ratio,
        }
    for scan in (True, False):
        seconds = record[f"compile_scan_{scan}_s"] = compile_seconds(scan)
        name = "with" if scan else "without"
        print(f"compiling jen1's layout {name} scan: {seconds:.0f} s", flush=True)
    print(json.dumps(record))
