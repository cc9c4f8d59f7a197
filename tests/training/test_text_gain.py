"""The measurement of whether the diffusion model uses the text, and its messages."""

from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.models import diffusion as models
from jen1_jax.models.denoiser import Denoiser
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training import diffusion
from jen1_jax.training.npz import NpzData
from jen1_jax.training.step import TrainState
from jen1_jax.training.text_gain import (
    EXAMPLES,
    LOG_SNRS,
    PER_CAPTION,
    TextGain,
    held_out,
    text_errors,
)
from tests import tiny

K = 6
NAMES = {f"text_gain/{log_snr}" for log_snr in LOG_SNRS}
FROZEN = Mock(spec=TextEncoder, trainable=False, features=8)
CODEC = Mock(
    spec=Codec,
    hop=4,
    encoder_reach=0,
    params={},
    model=SimpleNamespace(apply=lambda variables, audio, valid, method: audio[:, ::4]),
    whitening=SimpleNamespace(apply=lambda latents: latents),
)


def denoiser(objective="x0"):
    """A fake U-Net, which predicts its parameter times the first embedding of the text.

    Without text it predicts 0.
    """

    def apply(variables, noisy, context, mask, log_snr, text, lengths, valid, causal, conditioning):
        assert not conditioning
        first = jnp.where((lengths > 0)[:, None, None], text[:, :1], 0)
        # Context, mask and mode must be 0. If one were not, it would change the errors.
        not_zero = jnp.abs(context).sum() + mask.sum() + causal.sum()
        clean = variables["params"] * first + not_zero + 0 * noisy
        alpha, sigma = (scale[:, None, None] for scale in scales(log_snr))
        return OBJECTIVES[objective].target(clean, (noisy - alpha * clean) / sigma, log_snr)

    return Mock(spec=Denoiser, conditioning=(), apply=apply)


def state(share):
    """A training state whose denoiser predicts the embedding of the text times `share`."""
    ema = {"diffusion": {"unet": share}}
    return TrainState(step=0, updates=0, norm=0, params=None, ema=ema, optimizer=None)


def settings(objective="x0"):
    config = tiny.config()
    config.diffusion.objective = objective
    return config


@pytest.fixture(scope="module")
def batch():
    """Five examples; every latent frame is the first embedding of the text. The third is short."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(5, 3, K)).astype(np.float32)
    return {
        "latents": np.repeat(embedding[:, :1], 16, axis=1),
        "valid_frames": np.array([16, 16, 5, 16, 16]),
        "text_embedding": embedding,
        "text_lengths": np.array([3, 2, 3, 1, 3]),
        "other": np.array([1, 2, 3, 4, 0]),
    }


@jax.jit
def errors(batch):
    """The errors for each objective."""
    arguments = {"unet": 0.5}, batch, jax.random.key(0), -2.0
    return {
        name: text_errors(*arguments, config=settings(name), unet=denoiser(name), text=FROZEN)
        for name in OBJECTIVES
    }


def test_errors_are_of_the_clean_latents_with_each_text(batch):
    latents, mean_square = batch["latents"][:, 0], lambda x: np.mean(x**2, axis=1)
    with_other = 0.5 * latents[batch["other"]] - latents
    for found in errors(batch).values():
        np.testing.assert_allclose(found["right"], mean_square(0.5 * latents), rtol=1e-4)
        np.testing.assert_allclose(found["other"], mean_square(with_other), rtol=1e-4)
        np.testing.assert_allclose(found["none"], mean_square(latents), rtol=1e-4)


def test_the_content_of_padding_does_not_change_the_errors(batch):
    padded = batch["latents"].copy()
    padded[2, 5:] = 100
    jax.tree.map(np.testing.assert_array_equal, errors(batch), errors(batch | {"latents": padded}))


@pytest.mark.slow
def test_a_network_without_cross_attention_has_the_same_error_with_every_text():
    config, size = tiny.config(), 4
    unet = models.make_unet(config, K, FROZEN)
    rng = np.random.default_rng(0)
    initialise = partial(models.init_diffusion, unet=unet, text=FROZEN)
    shapes = jax.eval_shape(initialise, jax.random.key(0))
    draw = lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32)  # no layer is zero
    params = jax.tree.map(draw, shapes)
    is_cross_attention = lambda path: "cross_attention" in jax.tree_util.keystr(path)
    switch_off = lambda path, leaf: 0 * leaf if is_cross_attention(path) else leaf
    without = jax.tree.map_with_path(switch_off, params)
    batch = {
        "latents": rng.normal(size=(size, 16, K)).astype(np.float32),
        "valid_frames": np.full(size, 16),
        "text_embedding": rng.normal(size=(size, 5, 8)).astype(np.float32),
        "text_lengths": np.full(size, 5),
        "conditions": {"timing": {"start": np.zeros(size), "total": np.ones(size)}},
        "other": np.array([1, 2, 3, 0]),
    }
    find = jax.jit(partial(text_errors, config=config, unet=unet, text=FROZEN))
    key = jax.random.key(0)
    ignoring = jax.tree.map(np.asarray, find(without, batch, key, -2.0))
    np.testing.assert_array_equal(ignoring["right"], ignoring["other"])
    np.testing.assert_array_equal(ignoring["right"], ignoring["none"])
    using = jax.tree.map(np.asarray, find(params, batch, key, -2.0))
    assert (using["right"] != using["other"]).all()
    assert (using["right"] != using["none"]).all()


def test_each_held_out_example_is_compared_with_one_of_another_caption():
    """At most `PER_CAPTION` examples share a caption; examples without a caption are left out."""
    captions = ["", "  ", *["long"] * 20, *"abcabc", *(f"d{n}" for n in range(50))]
    batches = [
        {"caption": captions[row : row + 8], "row": np.arange(row, row + 8)}
        for row in range(0, len(captions), 8)
    ]
    found = held_out(batches)
    kept = found["caption"].tolist()
    assert kept == [
        *["long"] * PER_CAPTION,
        *"abcabc",
        *(f"d{n}" for n in range(EXAMPLES - PER_CAPTION - 6)),
    ]
    assert [captions[row] for row in found["row"]] == kept
    assert all(kept[other] != kept[row] for row, other in enumerate(found["other"]))
    assert found["other"].tolist() == [4, 4, 4, 4, *range(5, EXAMPLES), 0]


@pytest.mark.parametrize("data, valid", [("latents", "valid_frames"), ("audio", "valid_samples")])
def test_held_out_examples_that_are_only_padding_or_not_finite_are_left_out(data, valid):
    rows = np.zeros((4, 6, 2), np.float32)
    rows[1, 3] = np.nan
    found = held_out([{"caption": list("abcd"), data: rows, valid: np.array([6, 6, 0, 1])}])
    assert found["caption"].tolist() == ["a", "d"]


@pytest.mark.parametrize("captions", [[], ["a"], ["a", "a", ""]])
def test_without_two_different_captions_nothing_is_measured(captions):
    hook = TextGain(
        [{"caption": captions}] if captions else [],
        dict,
        config=settings(),
        unet=denoiser(),
        codec=CODEC,
        text=FROZEN,
        window=8,
        progress=print,
    )
    assert not hook.due(6)


@pytest.mark.parametrize(
    ("limit", "waveforms", "expected_messages"),
    [(0, False, [(11, "ignores the text"), (40, "uses the text now")]), (4, True, [])],
)
def test_one_message_says_that_the_text_is_ignored_and_one_that_it_is_used_later(
    batch, limit, waveforms, expected_messages
):
    """There are no messages if `data.limit` is set, since the model shall memorise a few clips."""
    config, printed, messages = settings(), [], []
    config.data.limit = limit
    config.train_diffusion.update(steps=100, checkpoint_every=1)
    rows = {name: array for name, array in batch.items() if name != "other"}
    rows["caption"] = np.array(list("abcde"))
    if waveforms:
        rows["audio"] = np.repeat(rows.pop("latents"), CODEC.hop, axis=1)
        rows["valid_samples"] = CODEC.hop * rows.pop("valid_frames") - 1
        rows["audio"][2, 5 * CODEC.hop :] = 100
    inputs = lambda examples: {name: array for name, array in examples.items() if name != "caption"}
    hook = TextGain(
        [rows],
        inputs,
        config=config,
        unet=denoiser(),
        codec=CODEC,
        text=FROZEN,
        window=8,
        progress=printed.append,
    )
    latents = batch["latents"][:, 0]
    right, other = 0.5 * latents, latents - 0.5 * latents[batch["other"]]
    for step, share in ((9, 0.0), (11, 0.0), (20, 0.0), (40, 0.5), (60, 0.0), (80, 0.5)):
        gains = hook.evaluate(step, state(share))
        for text in printed:
            parts = ("ignores the text", "uses the text now")
            messages += [(step, part) for part in parts if part in text]
        printed.clear()
        assert gains.keys() == NAMES
        expected = 1 - np.mean(right**2) / np.mean(other**2) if share else 0  # exactly 0
        np.testing.assert_allclose(list(gains.values()), expected, rtol=1e-4)
    assert messages == expected_messages


def write_latents(path, fingerprint, test):
    """64 examples; those with the same caption have similar latents."""
    rng = np.random.default_rng(0)
    kinds = np.arange(64) % len(tiny.CAPTIONS)
    mean = rng.normal(size=(len(tiny.CAPTIONS), 1, K))[kinds]
    latents = mean + 0.3 * rng.normal(size=(64, 96, K))
    np.savez(
        path,
        latents=latents.astype(np.float16),
        valid_frames=np.full(64, 96, np.int32),
        caption=np.array(tiny.CAPTIONS)[kinds],
        start=np.zeros(64),
        total=np.ones(64),
        test=test,
        fingerprint=fingerprint,
    )
    return NpzData(str(path), 6, seed=0)


def test_training_with_captions_that_describe_the_latents_raises_the_gain(tiny_run, tmp_path):
    source, config, printed = Run.open(tiny_run), tiny.config(), []
    config.train_diffusion.update(
        steps=40,
        learning_rate=1e-2,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=10,
        checkpoint_every=20,
    )
    fingerprint = source.record["fingerprints"]["autoencoder"]
    data = write_latents(tmp_path / "latents.npz", fingerprint, test=np.arange(64) >= 48)
    diffusion.train_diffusion(config, Run(tmp_path / "run"), data, source, progress=printed.append)
    records = read_metrics(tmp_path / "run" / "diffusion" / "metrics.jsonl")
    measured = [record for record in records if record.keys() & NAMES]
    assert [record["step"] for record in measured] == [20, 40] and len(records) == 4
    before, after = (max(record[name] for name in NAMES) for record in measured)
    assert after > max(before, 0.2)
    assert sum("text_gain/-6" in line for line in printed) == 2
    assert not any("ignores the text" in line for line in printed)


def test_training_without_two_held_out_captions_measures_no_gain(tiny_run):
    """One of the six clips of the tiny run is held out."""
    records = read_metrics(tiny_run / "diffusion" / "metrics.jsonl")
    names = {name for record in records for name in record}
    assert names and not any(name.startswith("text_gain") for name in names)
