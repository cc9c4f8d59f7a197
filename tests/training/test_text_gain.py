"""What training says of the text: heard or not."""

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
    """In the place of a U-Net: it predicts its parameter times the text's first embedding.

    Without text it predicts 0.
    """

    def apply(variables, noisy, context, mask, log_snr, text, lengths, valid, causal, conditioning):
        assert not conditioning
        given = (
            jnp.abs(context).sum() + mask.sum() + causal.sum()
        )  # nothing is: it would be seen in the errors
        clean = (
            variables["params"] * jnp.where((lengths > 0)[:, None, None], text[:, :1], 0)
            + given
            + 0 * noisy
        )
        alpha, sigma = (scale[:, None, None] for scale in scales(log_snr))
        return OBJECTIVES[objective].target(clean, (noisy - alpha * clean) / sigma, log_snr)

    return Mock(spec=Denoiser, conditioning=(), apply=apply)


def state(share):
    """A training state whose denoiser predicts so much of the text's embedding."""
    return TrainState(
        step=0, updates=0, params=None, ema={"diffusion": {"unet": share}}, optimizer=None
    )


def settings(objective="x0"):
    config = tiny.config()
    config.diffusion.objective = objective
    return config


@pytest.fixture(scope="module")
def batch():
    """Five examples, whose latents are their text's first embedding at every frame; the third is short."""
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
    """By objective."""
    given = {"unet": 0.5}, batch, jax.random.key(0), -2.0
    return {
        name: text_errors(*given, config=settings(name), unet=denoiser(name), text=FROZEN)
        for name in OBJECTIVES
    }


def test_errors_are_of_the_clean_latents_with_each_text(batch):
    latents, size = batch["latents"][:, 0], lambda x: np.mean(x**2, axis=1)
    for found in errors(batch).values():
        np.testing.assert_allclose(found["right"], size(0.5 * latents), rtol=1e-4)
        np.testing.assert_allclose(
            found["other"], size(0.5 * latents[batch["other"]] - latents), rtol=1e-4
        )
        np.testing.assert_allclose(found["none"], size(latents), rtol=1e-4)


def test_padding_does_not_count(batch):
    padded = batch["latents"].copy()
    padded[2, 5:] = 100
    jax.tree.map(np.testing.assert_array_equal, errors(batch), errors(batch | {"latents": padded}))


@pytest.mark.slow
def test_a_network_without_cross_attention_has_the_same_error_with_every_text():
    config, size = tiny.config(), 4
    unet = models.make_unet(config, K, FROZEN)
    rng = np.random.default_rng(0)  # nothing starts at zero then
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(partial(models.init_diffusion, unet=unet, text=FROZEN), jax.random.key(0)),
    )
    deaf = jax.tree.map_with_path(
        lambda path, leaf: 0 * leaf if "cross_attention" in jax.tree_util.keystr(path) else leaf,
        params,
    )
    batch = {
        "latents": rng.normal(size=(size, 16, K)).astype(np.float32),
        "valid_frames": np.full(size, 16),
        "text_embedding": rng.normal(size=(size, 5, 8)).astype(np.float32),
        "text_lengths": np.full(size, 5),
        "conditions": {"timing": {"start": np.zeros(size), "total": np.ones(size)}},
        "other": np.array([1, 2, 3, 0]),
    }
    find = jax.jit(partial(text_errors, config=config, unet=unet, text=FROZEN))
    hearing, deaf = (
        jax.tree.map(np.asarray, find(each, batch, jax.random.key(0), -2.0))
        for each in (params, deaf)
    )
    np.testing.assert_array_equal(deaf["right"], deaf["other"])
    np.testing.assert_array_equal(deaf["right"], deaf["none"])
    assert (hearing["right"] != hearing["other"]).all() and (
        hearing["right"] != hearing["none"]
    ).all()


def test_held_out_examples_have_different_captions_and_each_another_one_beside_it():
    """Of a long file, whose clips share a caption, there are a few; clips without a caption say nothing."""
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
def test_held_out_examples_of_padding_alone_or_not_finite_are_left_out(data, valid):
    rows = np.zeros((4, 6, 2), np.float32)
    rows[1, 3] = np.nan
    found = held_out([{"caption": list("abcd"), data: rows, valid: np.array([6, 6, 0, 1])}])
    assert found["caption"].tolist() == ["a", "d"]


@pytest.mark.parametrize("captions", [[], ["a"], ["a", "a", ""]])
def test_without_two_captions_nothing_is_asked(captions):
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
    assert hook.after_step(6, state(0.5)) == {}


@pytest.mark.parametrize(
    ("limit", "waveforms", "said_at"),
    [(0, False, [(11, "not heard"), (40, "heard now")]), (4, True, [])],
)
def test_a_text_that_is_not_heard_is_told_early_and_when_it_is_heard_at_last(
    batch, limit, waveforms, said_at
):
    """But not of a model that learns a few clips by heart."""
    config, said, told = settings(), [], []
    config.data.limit = limit
    config.train_diffusion.update(steps=100, checkpoint_every=1)
    rows = {"caption": np.array(list("abcde"))} | {
        name: array for name, array in batch.items() if name != "other"
    }
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
        progress=said.append,
    )
    right, other = (
        0.5 * batch["latents"][:, 0],
        batch["latents"][:, 0] - 0.5 * batch["latents"][batch["other"], 0],
    )
    for step, share in ((9, 0.0), (11, 0.0), (20, 0.0), (40, 0.5), (60, 0.0), (80, 0.5)):
        gains = hook.after_step(step, state(share))
        told += [
            (step, part) for text in said for part in ("not heard", "heard now") if part in text
        ]
        said.clear()
        assert gains.keys() == NAMES
        expected = 1 - np.mean(right**2) / np.mean(other**2) if share else 0  # and exactly 0
        np.testing.assert_allclose(list(gains.values()), expected, rtol=1e-4)
    assert told == said_at


def write_latents(path, fingerprint, test):
    """64 examples that are as their caption says."""
    rng = np.random.default_rng(0)
    kinds = np.arange(64) % len(tiny.CAPTIONS)
    latents = rng.normal(size=(len(tiny.CAPTIONS), 1, K))[kinds] + 0.3 * rng.normal(
        size=(64, 96, K)
    )
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


def test_training_on_captions_that_say_something_gains_by_them_on_held_out_examples(
    tiny_run, tmp_path
):
    source, config, said = Run.open(tiny_run), tiny.config(), []
    config.train_diffusion.update(
        steps=40,
        learning_rate=1e-2,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=10,
        checkpoint_every=20,
    )
    data = write_latents(
        tmp_path / "latents.npz", source.record["fingerprints"]["autoencoder"], np.arange(64) >= 48
    )
    diffusion.train_diffusion(config, Run(tmp_path / "run"), data, source, progress=said.append)
    records = read_metrics(tmp_path / "run" / "diffusion" / "metrics.jsonl")
    asked = {
        record["step"]: [record[name] for name in sorted(NAMES)]
        for record in records
        if record.keys() & NAMES
    }
    assert list(asked) == [20, 40] and len(records) == 4
    before, after = map(max, asked.values())
    assert after > max(before, 0.2)
    assert sum("text_gain/-6" in line for line in said) == 2 and not any(
        "not heard" in line for line in said
    )


def test_training_without_two_held_out_captions_asks_nothing(tiny_run):
    """Of the tiny run's six clips one is held out."""
    records = read_metrics(tiny_run / "diffusion" / "metrics.jsonl")
    assert records and not any(
        name.startswith("text_gain") for record in records for name in record
    )
