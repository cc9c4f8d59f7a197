"""The training of the diffusion model: what it refuses, and what it saves."""

import contextlib

import jax
import numpy as np
import pytest

from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.diffusion import abstract_diffusion, make_unet
from jen1_jax.models.run import Run
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training import diffusion
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.diffusion_loss import make_trainable
from jen1_jax.training.npz import NpzData
from jen1_jax.training.optimizer import adamw
from jen1_jax.training.step import init_state
from jen1_numpy.errors import Refusal
from tests import tiny

K = 6


@pytest.fixture(scope="module")
def parts(tiny_run):
    run = Run.open(tiny_run)
    config, codec, text = run.config, load_codec(run), TextEncoder.open(run.text)
    return config, codec, text, make_unet(config, codec.k, text), run


def on_one_device(abstract):
    """Shapes with the sharding of the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
    return jax.tree.map(place, abstract)


@pytest.mark.slow
def test_every_parameter_is_trained_and_saved(parts):
    """Those of the text encoder, too; the EMA of the checkpoint holds the same parameters."""
    config, codec, text, unet, run = parts
    optimizer, _ = adamw(config.train_diffusion)
    trainables = {"diffusion": make_trainable(config, unet, codec, text, optimizer)}
    abstract = jax.eval_shape(lambda: init_state(trainables, jax.random.key(0)))
    checkpoints = Checkpoints(run.checkpoints("diffusion"))
    trained, _ = checkpoints.restore(on_one_device(abstract))
    initial = init_state(trainables, jax.random.key(config.seed))
    same = jax.tree.map(np.array_equal, trained.params, initial.params)
    paths = jax.tree_util.tree_leaves_with_path(same)
    assert [jax.tree_util.keystr(path) for path, value in paths if value] == []
    assert set(trained.params["diffusion"]) == {"unet", "text"}
    assert jax.tree.structure(trained.ema) == jax.tree.structure(trained.params)


def test_generation_uses_the_ema_and_not_the_raw_parameters(parts, tiny_model):
    config, codec, text, unet, run = parts
    checkpoints = Checkpoints(run.checkpoints("diffusion"))
    optimizer, _ = adamw(config.train_diffusion)
    trainables = {"diffusion": make_trainable(config, unet, codec, text, optimizer)}
    abstract = jax.eval_shape(lambda: init_state(trainables, jax.random.key(0)))
    ema = checkpoints.restore_ema("diffusion", abstract_diffusion(unet, text))[0]
    state, _ = checkpoints.restore(on_one_device(abstract))
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
    assert same(tiny_model.sampler.params, ema["unet"])
    assert same(ema["unet"], state.ema["diffusion"]["unet"])
    assert not same(ema["unet"], state.params["diffusion"]["unet"])


def write_latents(path, fingerprint, frames=96):
    np.savez(
        path,
        latents=np.zeros((2, frames, K), np.float16),
        valid_frames=np.full(2, frames, np.int32),
        caption=np.array(["a", "b"]),
        start=np.zeros(2),
        total=np.ones(2),
        test=np.zeros(2, bool),
        fingerprint=fingerprint,
    )
    return NpzData(str(path), 2, seed=0)


def test_latents_of_another_autoencoder_are_refused_with_both_fingerprints(tiny_run, tmp_path):
    run = Run.open(tiny_run)
    own = run.record["fingerprints"]["autoencoder"]
    data = write_latents(tmp_path / "latents.npz", "0123456789abcdef")
    with pytest.raises(Refusal, match=f"0123456789ab.*{own[:12]}.*encode the data again"):
        diffusion.train_diffusion(run.config, run, data)


@pytest.mark.parametrize("missing", ["start", "total"])
def test_data_without_the_fields_of_a_condition_are_refused(tiny_run, tmp_path, missing):
    path = tiny.write_audio_npz(tmp_path / "audio.npz")
    arrays = dict(np.load(path))
    del arrays[missing]
    np.savez(path, **arrays)
    run = Run.open(tiny_run)
    with pytest.raises(Refusal, match=rf"needs the fields {missing}, .*audio\.npz lacks them"):
        diffusion.train_diffusion(run.config, run, NpzData(str(path), 6, seed=0))


def test_a_run_without_an_autoencoder_is_refused(tmp_path):
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0)
    run = Run(tmp_path / "new").begin(tiny.config(), "autoencoder")
    with pytest.raises(Refusal, match="no trained autoencoder"):
        diffusion.train_diffusion(tiny.config(), run, data)


def test_resampling_down_to_one_frame_is_refused(tiny_run, tmp_path):
    run, config = Run.open(tiny_run), tiny.config()
    config.unet.update(factors=(2, 64))
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0)
    with pytest.raises(Refusal, match=r"leave 0\.8 frames"):
        diffusion.train_diffusion(config, run, data)


@pytest.mark.parametrize("times", [2, 0.5])
def test_waveforms_of_another_length_than_sampling_uses_are_refused(tiny_run, tmp_path, times):
    run, config = Run.open(tiny_run), tiny.config()
    config.data.seconds = times * tiny.SECONDS
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0)
    with pytest.raises(Refusal, match=r"are 0\.13 s long.*--config\.data\.seconds=0\.13"):
        diffusion.train_diffusion(config, run, data)


@pytest.mark.parametrize(
    ("frames", "window"), [(96, 96), (95, 95), (97, 97), (98, 96), (192, 96), (94, None)]
)
def test_training_draws_windows_of_latents_as_long_as_sampling_uses(
    tiny_run, tmp_path, monkeypatch, frames, window
):
    """A difference of one frame comes from rounding and is accepted."""
    run, trained = Run.open(tiny_run), []
    fingerprint = run.record["fingerprints"]["autoencoder"]
    data = write_latents(tmp_path / "latents.npz", fingerprint, frames)
    fit = lambda name, **arguments: trained.append(arguments["draw"].keywords["window"])
    monkeypatch.setattr(diffusion, "fit", fit)
    train = lambda: diffusion.train_diffusion(run.config, Run(tmp_path / "run"), data, run)
    if window is None:
        with pytest.raises(Refusal, match=r"are 0\.13 s long"):
            train()
    else:
        train()
        assert trained == [window]


def test_a_trained_run_keeps_its_window(tiny_run, tmp_path):
    run = Run.open(tiny_run)
    config, record = run.config, run.record
    config.data.seconds = 2 * tiny.SECONDS
    fingerprint = record["fingerprints"]["autoencoder"]
    data = write_latents(tmp_path / "latents.npz", fingerprint, 192)
    with pytest.raises(Refusal, match=r"was trained with another `data\.seconds`"):
        diffusion.train_diffusion(config, run, data)
    assert run.record == record


@pytest.mark.parametrize(
    ("section", "setting", "refused"),
    [
        ("diffusion", dict(sampler="plms"), "'plms'"),
        ("diffusion", dict(objective="noise"), "'noise'"),
        ("diffusion", dict(eta=1.5), "eta is a share"),
        ("diffusion", dict(guidance_interval=(0.8, 0.2)), "two rising times"),
        ("diffusion", dict(guidance_limit=-1.0), "guidance_limit must lie"),
        ("diffusion", dict(null_text_rate=2.0), "null_text_rate must lie"),
        ("data", dict(short_rate=1.5), "short_rate is a share"),
        ("train_diffusion", dict(steps=0), "steps and batch_size must be at least 1"),
        ("train_diffusion", dict(optimizer="sgd"), "'sgd': choose one of adamw, muon"),
        ("train_diffusion", dict(decay_share=-0.1), "decay_share is a share"),
        ("diffusion", dict(reference_frames=-1), "reference_frames is a number of frames"),
        ("tasks", dict(text_to_music_causal=2.0), "text_to_music_causal is a share"),
        ("unet", dict(dtype="int8"), "float32 or bfloat16"),
        ("unet", dict(head_dim=3), "head_dim must be even"),
        ("unet", dict(factors=(0, 2)), "at least 1"),
        ("unet", dict(null_text="nothing"), "'nothing'"),
        ("unet", dict(remat="some"), "'some'"),
        ("unet", dict(conditioning=("tempo",)), "'tempo'"),
        ("diffusion", dict(times="often"), "'often'"),
        ("tasks", dict(loss_on="some"), "'some'"),
        ("tasks", dict(max_spans=0), "max_spans >= 1"),
        ("tasks", dict(ratios=dict(text_to_music=-1.0)), "must not be negative"),
        ("tasks", dict(weights=dict(text_to_music=-1.0)), "not negative"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(tmp_path, section, setting, refused):
    config = tiny.config()
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 6, seed=0)
    config[section].update(setting)
    with pytest.raises(Refusal, match=refused):
        diffusion.train_diffusion(config, Run(tmp_path / "run"), data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective, refused", [("v", True), ("epsilon", True), ("x0", False)])
def test_a_network_too_narrow_to_predict_the_noise_is_refused(parts, objective, refused):
    config, codec, text = parts[0].copy_and_resolve_references(), *parts[1:3]
    config.update(dict(diffusion=dict(objective=objective), unet=dict(channels=2 * codec.k - 1)))
    refusal = pytest.raises(Refusal, match="at least 12, twice")
    with refusal if refused else contextlib.nullcontext():
        make_unet(config, codec.k, text)


def test_training_the_autoencoder_on_latents_is_refused(tmp_path):
    path = tmp_path / "latents.npz"
    np.savez(
        path,
        latents=np.zeros((1, 96, 6), np.float16),
        valid_frames=np.full(1, 96),
        caption=np.array(["a"]),
        test=np.zeros(1, bool),
    )
    with pytest.raises(Refusal, match="trained on waveforms"):
        train_autoencoder(tiny.config(), Run(tmp_path / "run"), NpzData(str(path), 1, seed=0))
