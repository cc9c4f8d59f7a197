"""How fast the U-Net is beside a-unet's `XUNet` (PyTorch), that of audio-diffusion-pytorch: forward pass and training step.

Both are as wide at every level, resample alike, attend alike (self-attention, text, feed-forward after the same levels, as many
heads) and have as many parameters, which XUNet reaches with one residual block more a level, as its skips carry no convolutions.
A training step is the squared error, its gradient clipped by its norm, as in training, and AdamW. Ours takes modes, masks and
padding along. The two take turns, and the figures are medians. On a shared machine only the ratios mean something. At last the
gradient of the layout of `jen1`, narrow, is compiled with its runs of equal blocks in loops and without.

    pip install a-unet && python -m benchmarks.unet [--repeats N]
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
from jen1_jax.planning.flops import flops
from jen1_jax.training.optimizer import adamw
from jen1_jax.unet import UNet

BATCH, FRAMES, CHANNELS, TOKENS, TEXT = 2, 1024, 64, 64, 512
LATENTS, PROMPT = (FRAMES, CHANNELS), (TOKENS, TEXT)
WIDTHS, FACTORS, ATTENTIONS, HEAD, MODULATION = (256, 512, 512, 512), (2, 2, 2), (0, 1, 1), 64, 512
TRAINING = jen1.get_config().train_diffusion
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ours():
    """(number of parameters, operations of a forward pass, forward, train), the last two functions of (latents, target, text)
    that wait for their end.
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

    shape = lambda *sizes: jnp.zeros((1, *sizes))
    params = jax.jit(unet.init)(
        jax.random.key(0), shape(8, CHANNELS), shape(8, CHANNELS), shape(8, 1), jnp.zeros(1), shape(1, TEXT), jnp.ones(1, int),
        shape(8, 1), jnp.ones(1, bool),
    )["params"]  # fmt: skip
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
    work = flops(
        predict,
        params,
        *(jax.ShapeDtypeStruct((BATCH, *shape), jnp.float32) for shape in (LATENTS, PROMPT)),
    )
    return (
        count,
        work,
        lambda latents, _, text: jax.block_until_ready(run(params, latents, text)),
        train,
    )


def theirs():
    """(number of parameters, forward, train) as above."""
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
    for width, factor, attentions in zip(WIDTHS[1:], FACTORS, ATTENTIONS, strict=True):
        items = [ResnetItem, ModulationItem] * 3 + [
            AttentionItem,
            CrossAttentionItem,
            FeedForwardItem,
        ] * attentions
        levels.append(
            XBlock(channels=width, factor=factor, items=items, attention_heads=width // HEAD)
        )
    model = XUNet(
        dim=1, in_channels=2 * CHANNELS + 1, out_channels=CHANNELS, blocks=levels, skip_t=SkipCat, resnet_groups=8,
        modulation_features=MODULATION, attention_features=HEAD, attention_multiplier=2, embedding_features=TEXT,
    ).to(DEVICE)  # fmt: skip
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
    """Of the gradient of the paper preset's layout, an eighth as wide."""
    layout = jen1.get_config().unet.to_dict() | {
        "channels": 32,
        "head_dim": 16,
        "text_features": 128,
        "scan": scan,
    }
    unet = UNet(out_channels=16, **layout)
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((BATCH, *sizes), dtype)
    inputs = [
        shape(1536, 16), shape(1536, 16), shape(1536, 1), shape(), shape(TOKENS, 128), shape(dtype=jnp.int32),
        shape(1536, 1), shape(dtype=bool),
    ]  # fmt: skip
    params = jax.eval_shape(unet.init, jax.random.key(0), *inputs)
    lowered = jax.jit(jax.grad(lambda params, *inputs: unet.apply(params, *inputs).sum())).lower(
        params, *inputs
    )
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
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
    (count, operations, *us), (count_theirs, *them) = ours(), theirs()
    print(
        f"{BATCH} x {FRAMES} frames; parameters: ours {count / 1e6:.1f} M, theirs {count_theirs / 1e6:.1f} M; "
        f"ours: {operations / 1e9:.1f} GFLOP forward, counted three times for a training step"
    )
    rng = np.random.default_rng(0)
    batch = [
        rng.normal(size=(BATCH, *shape)).astype(np.float32) for shape in (LATENTS, LATENTS, PROMPT)
    ]
    record = {"device": device, "parameters": [count, count_theirs]}
    for times_work, work, *pair in ((1, "forward", us[0], them[0]), (3, "train", us[1], them[1])):
        times = ([], [])
        for repeat in range(options.repeats + 2):
            for sink, function in zip(times, pair, strict=True):
                start = time.perf_counter()
                function(*batch)
                if repeat > 1:  # the first two compile and warm up
                    sink.append(time.perf_counter() - start)
        mine, other = map(statistics.median, times)
        speed = times_work * operations / mine / 1e9
        print(
            f"{work:8} ours {mine:.3f} s ({speed:.0f} GFLOP/s), theirs {other:.3f} s: {other / mine:.2f} times as fast",
            flush=True,
        )
        record |= {f"{work}_ours_s": mine, f"{work}_theirs_s": other, f"{work}_ratio": other / mine}
    for scan in (True, False):
        record[f"compile_scan_{scan}_s"] = compile_seconds(scan)
        print(
            f"compiling jen1's layout {'with' if scan else 'without'} scan: {record[f'compile_scan_{scan}_s']:.0f} s",
            flush=True,
        )
    print(json.dumps(record))
