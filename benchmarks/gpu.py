"""Measures training and generation of a preset on a GPU: utilisation, memory, seconds for a clip.

    python -m benchmarks.gpu [--preset jen1] [--batches 8,16,32,64]

A training step is that of `jen1 train diffusion` with optimiser and EMA, on random latents and text
embeddings. The batch grows until the memory is full. Utilisation (MFU) is the number of operations
of three forward passes (`jen1_jax.flops`, without what remat computes again), divided by
the time and by the dense bfloat16 peak in the device's data sheet.

A clip has 10 seconds. It is sampled with guidance by the preset's sampler and by 25 steps of
DPM-Solver++, and then decoded. The text is embedded beforehand. Weights are random, since speed
does not depend on them.

It needs a GPU and takes less than nine minutes; with `--preset quickstart` it also runs on a CPU,
without utilisation. On an accelerator the JSON line is also written to benchmarks/results/, into a
file with the device's name.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_jax.config import load_config
from jen1_jax.flops import flops
from jen1_jax.generation.sampling import LatentSampler
from jen1_jax.models.autoencoder import make_autoencoder
from jen1_jax.models.diffusion import init_diffusion, make_unet
from jen1_jax.training.diffusion_loss import make_trainable
from jen1_jax.training.draw import draw_diffusion
from jen1_jax.training.optimizer import adamw
from jen1_jax.training.step import init_state, make_step
from jen1_jax.training.utilisation import PEAKS
from jen1_numpy.prompts import Prompts
from jen1_numpy.windows import Request

# Dense bfloat16 operations a second by NVIDIA's data sheets, for SXM. The sheets of H100 and H200
# give the double number, with sparsity.
SECONDS = 10.0  # of a clip
STEPS = 5  # of training for each batch size


def batch_of(size: int, frames: int, config, k: int) -> dict[str, np.ndarray]:
    rng, seconds = np.random.default_rng(0), np.full(size, config.data.seconds, np.float32)
    random = lambda *shape: rng.standard_normal((size, *shape)).astype(np.float16)
    return {
        "latents": random(frames, k),
        "valid_frames": np.full(size, frames, np.int32),
        "conditions": {"timing": {"start": 0 * seconds, "total": seconds}},
        "text_embedding": random(config.text.max_length, config.unet.text_features),
        "text_lengths": np.full(size, 32, np.int32),
    }


def training(
    config, unet, codec, text, frames: int, sizes: list[int], peak: float | None
) -> list[dict]:
    """Times training steps at each batch size, and stops at the first that does not fit."""
    optimizer, _ = adamw(config.train_diffusion)
    trainables = {"diffusion": make_trainable(config, unet, codec, text, optimizer)}
    draw = partial(draw_diffusion, config=config, hop=codec.hop, k=codec.k, window=frames)
    ema_decay = config.train_diffusion.ema_decay
    step = jax.jit(make_step(trainables, draw, ema_decay=ema_decay), donate_argnums=0)
    init = partial(init_state, trainables)
    records = []
    for size in sizes:
        batch = batch_of(size, frames, config, codec.k)
        shapes = jax.eval_shape(init, jax.random.key(0))
        examples = jax.eval_shape(draw, jax.random.key(0), jnp.int32(0), batch)
        operations = 3 * flops(trainables["diffusion"].losses, shapes.params, examples, None)
        times = []
        try:
            state = jax.jit(init)(jax.random.key(0))
            for _ in range(STEPS + 2):  # the first two compile and warm up
                start = time.perf_counter()
                state, metrics = step(state, batch)
                jax.block_until_ready(metrics)
                times.append(time.perf_counter() - start)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"training, batch {size}: out of memory")
            break
        seconds = statistics.median(times[2:])
        memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        records.append(
            {
                "batch": size,
                "seconds": seconds,
                "compile_seconds": times[0] - seconds,
                "tflops": operations / seconds / 1e12,
                "mfu": peak and operations / seconds / peak,
                "peak_gib": memory and memory / 2**30,
            }
        )
        print("training, " + described(records[-1]), flush=True)
        del state
    return records


def clip(config, unet, codec, text, window: int) -> list[dict]:
    """Times sampling and decoding of a clip with each of two samplers."""
    params = jax.jit(partial(init_diffusion, unet=unet, text=text))(jax.random.key(0))["unet"]
    frames = -(-round(SECONDS * codec.sample_rate) // codec.hop)
    request = Request.without_given(np.zeros((frames, codec.k), np.float32), SECONDS)
    embedding, lengths = (
        jnp.ones((1, config.text.max_length, config.unet.text_features)),
        np.array([32]),
    )
    prompts = Prompts(embedding, lengths, embedding, 0 * lengths)
    records = []
    for sampler, steps in (
        (config.diffusion.sampler, config.diffusion.sample_steps),
        ("dpm_solver", 25),
    ):
        settings = config.diffusion.copy_and_resolve_references()
        settings.sampler = sampler
        sample = partial(
            LatentSampler(unet, params, settings, window, codec.frame_rate).sample,
            steps=steps,
            guidance_scale=settings.guidance_scale,
        )
        times = []
        for seed in range(4):  # the first compiles
            start = time.perf_counter()
            latents = sample([request], prompts, seeds=[seed])[0]
            sampled = time.perf_counter()
            codec.decode(latents)
            times.append((sampled - start, time.perf_counter() - sampled))
        sampling, decoding = map(statistics.median, zip(*times[1:], strict=True))
        records.append(
            {
                "sampler": sampler,
                "steps": steps,
                "sampling_seconds": sampling,
                "decoding_seconds": decoding,
            }
        )
        print(f"{SECONDS:.0f} s clip, " + described(records[-1]), flush=True)
    return records


def described(record: dict) -> str:
    value = lambda x: f"{x:.4g}" if isinstance(x, float) else x
    return ", ".join(f"{key} {value(each)}" for key, each in record.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset", default="jen1", help="a preset or a configuration file; default: %(default)s"
    )
    parser.add_argument(
        "--batches", default="8,16,32,64", help="batch sizes, rising; default: %(default)s"
    )
    options = parser.parse_args()
    config = load_config(options.preset)
    device = jax.devices()[0]
    peak = next((peak for name, peak in PEAKS.items() if device.device_kind.startswith(name)), None)
    peak_text = f"{peak / 1e12:.1f} TFLOP/s, dense bfloat16" if peak else "unknown for this device"
    print(f"{device.device_kind}; jax {jax.__version__}; {options.preset}; peak: {peak_text}")

    autoencoder = make_autoencoder(config)
    audio = jnp.zeros((1, autoencoder.hop * 8, 2))
    params = jax.jit(autoencoder.init)(jax.random.key(0), audio)["params"]
    vectors = (4096, config.autoencoder.latent_channels)
    moments = Moments.of(np.random.default_rng(0).standard_normal(vectors))
    whitening = fit_whitening(moments, config.whitening.keep, config.whitening.floor)
    codec = Codec(autoencoder, params, whitening, config.audio.sample_rate)
    # The batches contain text embeddings, so no encoder is needed.
    text = SimpleNamespace(trainable=False, features=config.unet.text_features)
    unet = make_unet(config, codec.k, text)
    window = round(config.data.seconds * codec.frame_rate)
    window -= window % unet.frames_multiple

    record = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "preset": options.preset,
        "peak": peak,
    }
    sizes = [int(size) for size in options.batches.split(",")]
    record["training"] = training(config, unet, codec, text, window, sizes, peak)
    record["clip"] = clip(config, unet, codec, text, window)
    print(json.dumps(record))
    if device.platform != "cpu":
        name = f"gpu-{Path(options.preset).stem}-{device.device_kind.replace(' ', '-')}.json"
        path = Path(__file__).parent / "results" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
