"""The inputs of the network in training, and the loss of its prediction."""

from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.diffusion.objectives import scales
from jen1_jax.diffusion.schedules import make_schedule
from jen1_jax.generation.sampling import LatentSampler
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.denoiser import Denoiser
from jen1_jax.models.diffusion import make_unet
from jen1_jax.models.run import Run
from jen1_jax.tasks import TASKS
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.diffusion_loss import RANGES, counts, encode, losses, make_trainable
from jen1_jax.training.draw import draw_diffusion
from jen1_jax.training.optimizer import adamw
from tests import tiny

HOP, K = 64, 6


def test_the_network_is_given_what_the_tasks_drew_and_nothing_else():
    """The context follows the mask, some texts are left out, and each example has its own mode."""
    rng, config, inputs = np.random.default_rng(0), tiny.config(), []
    config.unet.conditioning = ()
    config.diffusion.null_text_rate = 0.5
    batch = {
        "latents": jnp.asarray(rng.standard_normal((48, 96, K)), jnp.float32),
        "valid_frames": jnp.asarray(rng.integers(40, 97, 48)),
        "text_embedding": jnp.zeros((48, 3, 8)),
        "text_lengths": jnp.asarray(rng.integers(1, 4, 48)),
    }
    settings = dict(config=config, hop=HOP, k=K, window=96)
    drawn = jax.jit(partial(draw_diffusion, **settings))(jax.random.key(1), jnp.int32(0), batch)
    unet = Mock(
        spec=Denoiser,
        conditioning=(),
        apply=lambda variables, *arrays: inputs.extend(arrays) or jnp.zeros_like(arrays[0]),
    )
    text, codec = Mock(spec=TextEncoder, trainable=False), Mock(spec=Codec)
    params = {"diffusion": {"unet": {}}}
    schedule = make_schedule(config.diffusion)
    settings = dict(config=config, schedule=schedule, unet=unet, codec=codec, text=text)
    losses(params, drawn, None, **settings)
    noisy, context, mask, log_snr, _, lengths, valid, causal, _ = map(np.asarray, inputs)
    task = np.asarray(drawn["task"])
    real = np.arange(96) < np.asarray(batch["valid_frames"])[:, None]
    np.testing.assert_array_equal(valid[..., 0], real)
    given = (np.asarray(drawn["mask"])[..., 0] == 1) & real
    np.testing.assert_array_equal(mask[..., 0], given)
    np.testing.assert_array_equal(context, np.where(given[..., None], batch["latents"], 0))
    assert 0.1 < given[task > 0].mean() < 0.9 and not given[task == 0].any()
    np.testing.assert_array_equal(lengths, np.where(drawn["null_text"], 0, batch["text_lengths"]))
    assert 0.2 < (lengths == 0).mean() < 0.8
    np.testing.assert_array_equal(causal, drawn["causal"])
    assert causal[task == list(TASKS).index("continuation")].all() and 0.3 < causal.mean() < 0.7
    alpha, sigma = scales(jnp.asarray(log_snr)[:, None, None])
    clean = np.where(real[..., None], batch["latents"], 0)
    np.testing.assert_allclose(noisy, alpha * clean + sigma * drawn["noise"], atol=1e-5)


@pytest.mark.parametrize("loss_on", ["all", "generated"])
def test_an_example_counts_in_its_own_task_with_its_valid_frames(loss_on):
    mask = np.zeros((3, 8, 1), np.float32)
    mask[1, :3] = 1
    batch = {"mask": mask, "valid_frames": np.array([8, 6, 5]), "task": np.array([0, 1, 0])}
    batch["time"] = np.array([0.0, 0.5, 1.0], np.float32)
    config = tiny.config()
    config.tasks.loss_on, schedule = loss_on, make_schedule(config.diffusion)
    found = counts(jax.tree.map(jnp.asarray, batch), config, schedule)
    found = jax.tree.map(np.asarray, found)
    assert found["text_to_music"].tolist() == [8, 0, 5]
    assert found["inpainting"].tolist() == [0, 6 if loss_on == "all" else 3, 0]
    assert found["continuation"].tolist() == [0, 0, 0]
    # In the cosine schedule, time 0.5 has as much noise as signal.
    assert found["log_snr/above_6"].tolist() == [8, 0, 0]
    assert found["log_snr/-2_to_2"].tolist() == [0, 6 if loss_on == "all" else 3, 0]
    assert found["log_snr/below_-6"].tolist() == [0, 0, 5]
    assert sum(found[name] for name in RANGES).tolist() == sum(found[t] for t in TASKS).tolist()


@pytest.mark.parametrize("loss_on", ["all", "generated"])
def test_the_loss_is_the_mean_over_the_frames_that_count(loss_on):
    """The network predicts 0, so that the loss is the mean square of the latents."""
    config, rng = tiny.config(), np.random.default_rng(0)
    config.unet.conditioning, config.tasks.loss_on = (), loss_on
    config.diffusion.objective = "x0"
    mask = np.zeros((2, 8, 1), np.float32)
    mask[1, :3] = 1
    batch = {
        "latents": rng.normal(size=(2, 8, K)).astype(np.float32),
        "valid_frames": np.array([8, 6]),
        "mask": mask,
        "noise": rng.normal(size=(2, 8, K)).astype(np.float32),
        "time": np.array([0.2, 0.8], np.float32),
        "causal": np.zeros(2, bool),
        "null_text": np.zeros(2, bool),
        "text_embedding": np.zeros((2, 3, 8), np.float32),
        "text_lengths": np.ones(2, np.int32),
        "conditions": {},
    }
    zero = lambda variables, noisy, *_: jnp.zeros_like(noisy)
    unet = Mock(spec=Denoiser, conditioning=(), apply=zero)
    text, codec = Mock(spec=TextEncoder, trainable=False), Mock(spec=Codec)
    params, batch = {"diffusion": {"unet": {}}}, jax.tree.map(jnp.asarray, batch)
    schedule = make_schedule(config.diffusion)
    settings = dict(config=config, schedule=schedule, unet=unet, codec=codec, text=text)
    found = losses(params, batch, None, **settings)
    first = 0 if loss_on == "all" else 3
    squares = (batch["latents"] ** 2).mean(-1)
    expected = [squares[0].mean(), squares[1, first:6].mean()]
    for task in TASKS:
        np.testing.assert_allclose(found[task], expected, rtol=1e-5)


def test_training_and_sampling_have_the_same_noise_levels_at_every_length():
    """With `reference_frames`; sampling's first level is that of time 1."""
    config, given = tiny.config(), []
    config.unet.conditioning, config.diffusion.reference_frames = (), 4
    lengths = np.array([8, 6, 4])
    batch = {
        "latents": np.ones((3, 8, K), np.float32),
        "valid_frames": lengths,
        "mask": np.zeros((3, 8, 1), np.float32),
        "noise": np.ones((3, 8, K), np.float32),
        "time": np.ones(3, np.float32),
        "causal": np.zeros(3, bool),
        "null_text": np.zeros(3, bool),
        "text_embedding": np.zeros((3, 3, 8), np.float32),
        "text_lengths": np.ones(3, np.int32),
        "conditions": {},
    }
    apply = lambda variables, noisy, context, mask, log_snr, *_: given.append(log_snr) or noisy
    unet = Mock(spec=Denoiser, conditioning=(), apply=apply)
    text, codec = Mock(spec=TextEncoder, trainable=False), Mock(spec=Codec)
    schedule = make_schedule(config.diffusion)
    settings = dict(config=config, schedule=schedule, unet=unet, codec=codec, text=text)
    losses({"diffusion": {"unet": {}}}, jax.tree.map(jnp.asarray, batch), None, **settings)
    sampler = LatentSampler(unet, {}, config.diffusion, window=8, frame_rate=1.0)
    first = [sampler.log_snrs(4, frames=frames)[0] for frames in lengths.tolist()]
    np.testing.assert_allclose(given[0], first, rtol=1e-6)
    assert first[0] == sampler.log_snrs(4)[0] < first[1] < first[2]


@pytest.fixture(scope="module")
def parts(tiny_run):
    run = Run.open(tiny_run)
    config, codec, text = run.config, load_codec(run), TextEncoder.open(run.text)
    return config, codec, text, make_unet(config, codec.k, text)


def cut(piece, clip, around):
    """A batch of the clips of a piece, each with the audio around it."""
    count = -(-len(piece) // clip)
    padded = np.pad(piece, ((around, (count + 1) * clip + around - len(piece)), (0, 0)))
    part = lambda first, length: np.stack(
        [padded[around + n * clip + first :][:length] for n in range(count)]
    )
    left = len(piece) - clip * np.arange(count)  # samples from the beginning of each clip on
    return {
        "audio": part(0, clip),
        "valid_samples": np.minimum(left, clip),
        "before": part(-around, around),
        "after": part(clip, around),
        "before_samples": np.minimum(np.arange(count), 1) * around,
        "after_samples": np.clip(left - clip, 0, around),
    }


@pytest.mark.slow
@pytest.mark.parametrize("length", [36, 27, 25, 26.3])
def test_clips_encoded_in_the_step_have_the_latents_of_their_piece(parts, length):
    """With the audio around them, whether or not the piece ends with a clip, or with a hop."""
    codec, rng, frames = parts[1], np.random.default_rng(0), 12
    clip, around = frames * codec.hop, (codec.encoder_reach + 1) * codec.hop
    piece = rng.uniform(-0.5, 0.5, (round(length * codec.hop), 2)).astype(np.float32)
    batch, frozen = cut(piece, clip, around), {"autoencoder": codec.params}
    found = np.asarray(jax.jit(lambda batch: encode(batch, codec, frozen))(batch))
    whole = codec.encode(piece)
    np.testing.assert_allclose(found.reshape(-1, codec.k)[: len(whole)], whole, atol=1e-4)


@pytest.mark.slow
def test_a_clip_encoded_alone_has_other_latents_at_its_ends(parts):
    codec, rng, frames = parts[1], np.random.default_rng(0), 12
    piece = rng.uniform(-0.5, 0.5, (3 * frames * codec.hop, 2)).astype(np.float32)
    alone = {"audio": piece.reshape(3, -1, 2), "valid_samples": np.full(3, len(piece) // 3)}
    frozen = {"autoencoder": codec.params}
    found = np.asarray(jax.jit(lambda batch: encode(batch, codec, frozen))(alone))
    off = np.abs(found - codec.encode(piece).reshape(found.shape))
    assert off[1, 0].max() > 0.01 and off[1, -1].max() > 0.01  # both its ends are cuts
    assert off[0, 0].max() < 1e-4 < off[0, -1].max()  # the first clip begins the piece


@pytest.mark.slow
def test_a_clip_that_ends_within_a_hop_is_encoded_with_the_audio_after_it(parts):
    """If its length is no multiple of the hop, its last frame needs the audio after it."""
    codec = parts[1]
    rng, reach, samples = np.random.default_rng(1), codec.encoder_reach, 5 * codec.hop + 10
    around = (reach + 1) * codec.hop
    piece = rng.uniform(-0.5, 0.5, (around + samples + around, 2)).astype(np.float32)
    batch = {
        "audio": piece[None, around : around + samples],
        "before": piece[None, :around],
        "after": piece[None, around + samples :],
        "valid_samples": np.array([samples]),
        "before_samples": np.array([around]),
        "after_samples": np.array([around]),
    }
    whole = codec.encode(piece)[reach + 1 :][:6]
    found = jax.jit(lambda batch: encode(batch, codec, {"autoencoder": codec.params}))(batch)
    np.testing.assert_allclose(found[0], whole, atol=1e-4)


@pytest.mark.slow
def test_waveforms_encoded_in_the_step_give_the_loss_of_their_latents(parts):
    """Compared with the latents of the whole piece from which the clips are cut."""
    config, codec, text, unet = parts
    rng, samples = np.random.default_rng(0), 96 * codec.hop
    around = (codec.encoder_reach + 1) * codec.hop
    piece = rng.uniform(-0.5, 0.5, (2 * samples, 2)).astype(np.float32)
    tokens, lengths = text.tokenize(["two tones"] * 2)
    place = {"start": np.zeros(2, np.float32), "total": np.ones(2, np.float32)}
    common = {"tokens": tokens, "text_lengths": lengths, "conditions": {"timing": place}}
    waveforms = common | cut(piece, samples, around)
    latents = codec.encode(piece).reshape(2, 96, codec.k)
    encoded = common | {"latents": latents, "valid_frames": np.full(2, 96)}
    trainable = make_trainable(config, unet, codec, text, adamw(config.train_diffusion)[0])
    params = {"diffusion": trainable.init(jax.random.key(0))}

    @jax.jit
    def loss(batch, frozen):
        settings = dict(config=config, hop=codec.hop, k=codec.k, window=96)
        drawn = draw_diffusion(jax.random.key(0), jnp.int32(0), batch, **settings)
        return trainable.losses(params, drawn, frozen), trainable.counts(drawn)

    ours, theirs = loss(waveforms, {"autoencoder": codec.params}), loss(encoded, None)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3), ours, theirs)
    # A row whose clip cannot be read has no weight, and the other row's loss stays.
    damaged = encoded | {"latents": latents * [[[1]], [[0]]], "valid_frames": np.array([96, 0])}
    found, weights = loss(damaged, None)
    for name in found:
        assert np.isfinite(found[name]).all() and weights[name][1] == 0
        np.testing.assert_allclose(found[name][0], theirs[0][name][0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("timed", [True, False])
def test_the_loss_depends_on_the_position_in_the_piece_only_with_timing(parts, tiny_model, timed):
    config, codec, text = parts[0].copy_and_resolve_references(), *parts[1:3]
    config.unet.conditioning = ("timing",) if timed else ()
    unet = make_unet(config, codec.k, text)
    trainable = make_trainable(config, unet, codec, text, adamw(config.train_diffusion)[0])
    tokens, lengths = map(jnp.asarray, text.tokenize(["two tones"] * 6))
    batch = {
        "latents": jnp.ones((6, 96, codec.k)),
        "valid_frames": jnp.full(6, 96),
        "tokens": tokens,
        "text_lengths": lengths,
    }
    rng = np.random.default_rng(0)  # so that every input has an effect
    params = {"diffusion": {"unet": tiny_model.sampler.params, "text": tiny_model.text_params}}
    larger = lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32)
    params = jax.tree.map(larger, params)

    @jax.jit
    def loss(params, place):
        timing = {"conditions": {"timing": place}}
        settings = dict(config=config, hop=codec.hop, k=codec.k, window=96)
        drawn = draw_diffusion(jax.random.key(0), jnp.int32(0), batch | timing, **settings)
        return trainable.losses(params, drawn, None)["inpainting"]

    at = lambda start, total: np.asarray(
        loss(params, {"start": jnp.full(6, start), "total": jnp.full(6, total)})
    )
    for other in (at(30.0, 90.0), at(0.0, 180.0)):
        changed = other != at(0.0, 90.0)
        assert changed.all() if timed else not changed.any()
