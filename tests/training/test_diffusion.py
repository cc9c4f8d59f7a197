"""What goes into a diffusion step: the faults that made earlier JEN-1s fall in loss and sound like noise, one by one."""

import contextlib
from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.diffusion.objectives import scales
from jen1_jax.diffusion.schedules import make_schedule
from jen1_jax.errors import Refusal
from jen1_jax.models import diffusion as models
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run
from jen1_jax.tasks import TASKS
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training import diffusion
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.npz import NpzData
from jen1_jax.training.step import adamw, init_state
from jen1_jax.unet import UNet
from tests import tiny

HOP, K = 64, 6


@partial(jax.jit, static_argnames="null_text_rate")
def draw(step=0, null_text_rate=0.2):
    """What a step draws for 48 examples of 96 frames."""
    config = tiny.config()
    config.diffusion.null_text_rate = null_text_rate
    batch = {"latents": jnp.zeros((48, 96, K)), "valid_frames": jnp.full(48, 96)}
    return diffusion.draw(
        jax.random.key(1), jnp.int32(step), batch, config=config, hop=HOP, k=K, window=96
    )


def test_noise_is_gaussian_with_unit_variance():
    noise = np.asarray(draw()["noise"]).ravel()
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    uniform = np.asarray(
        jax.random.uniform(jax.random.key(0), noise.shape, minval=-(3**0.5), maxval=3**0.5)
    )
    assert stats.kstest(uniform, "norm").pvalue < 1e-3  # the test tells them apart


def test_every_example_draws_its_own_mask_noise_time_and_task():
    drawn = draw()
    inpainting = np.asarray(drawn["mask"])[np.asarray(drawn["task"]) == 1]
    assert len(inpainting) == 16 and len({mask.tobytes() for mask in inpainting}) > 12
    assert len({noise.tobytes() for noise in np.asarray(drawn["noise"])}) == 48
    assert len(set(np.asarray(drawn["time"]).tolist())) == 48
    assert [int((np.asarray(drawn["task"]) == n).sum()) for n in range(3)] == [16, 16, 16]


def test_another_step_draws_anew_and_the_same_step_draws_the_same():
    first, again, other = draw(step=3), draw(step=3), draw(step=4)
    np.testing.assert_array_equal(first["mask"], again["mask"])
    assert not np.array_equal(first["mask"], other["mask"])


def test_the_network_is_given_what_the_tasks_drew_and_nothing_of_the_rest():
    """Context where the mask says so, no text where it was left out, and each example's own mode."""
    rng, config, inputs = np.random.default_rng(0), tiny.config(), []
    batch = {
        "latents": jnp.asarray(rng.standard_normal((48, 96, K)), jnp.float32),
        "valid_frames": jnp.asarray(rng.integers(40, 97, 48)),
        "text_embedding": jnp.zeros((48, 3, 8)),
        "text_lengths": jnp.asarray(rng.integers(1, 4, 48)),
    }
    config.diffusion.null_text_rate = 0.5
    drawn = diffusion.draw(
        jax.random.key(1), jnp.int32(0), batch, config=config, hop=HOP, k=K, window=96
    )
    unet = Mock(
        spec=UNet,
        timing=False,
        apply=lambda variables, *given: inputs.extend(given) or jnp.zeros_like(given[0]),
    )
    text = Mock(spec=TextEncoder, trainable=False)
    found = diffusion.terms(
        {"diffusion": {"unet": {}}}, drawn, None,
        config=config, schedule=make_schedule(config.diffusion), unet=unet, codec=Mock(spec=Codec), text=text,
    )  # fmt: skip
    noisy, context, mask, log_snr, _, lengths, valid, causal, _ = map(np.asarray, inputs)
    real = np.arange(96) < np.asarray(batch["valid_frames"])[:, None]
    np.testing.assert_array_equal(valid[..., 0], real)
    given = (np.asarray(drawn["mask"])[..., 0] == 1) & real
    np.testing.assert_array_equal(mask[..., 0], given)
    np.testing.assert_array_equal(context, np.where(given[..., None], batch["latents"], 0))
    assert (
        0.1 < given[np.asarray(drawn["task"]) > 0].mean() < 0.9
        and not given[np.asarray(drawn["task"]) == 0].any()
    )
    np.testing.assert_array_equal(lengths, np.where(drawn["null_text"], 0, batch["text_lengths"]))
    assert 0.2 < (lengths == 0).mean() < 0.8
    np.testing.assert_array_equal(causal, drawn["causal"])
    assert (
        causal[np.asarray(drawn["task"]) == list(TASKS).index("continuation")].all()
        and 0.3 < causal.mean() < 0.7
    )
    alpha, sigma = scales(jnp.asarray(log_snr)[:, None, None])
    clean = np.where(real[..., None], batch["latents"], 0)
    np.testing.assert_allclose(noisy, alpha * clean + sigma * drawn["noise"], atol=1e-5)
    for number, name in enumerate(TASKS):  # padding counts in no loss
        counts = np.asarray(found[name][1])
        np.testing.assert_array_equal(
            counts, np.where(np.asarray(drawn["task"]) == number, real.sum(1), 0)
        )


@partial(jax.jit, static_argnames="window")
def windows(batch, step=0, window=96):
    return diffusion.draw(
        jax.random.key(step),
        jnp.int32(step),
        batch,
        config=tiny.config(),
        hop=HOP,
        k=K,
        window=window,
    )


def test_longer_examples_give_windows_of_their_valid_part_that_know_where_they_begin():
    """Frame f of example i holds f; half of the examples are valid to their end, a quarter to frame 50, a quarter to frame 20."""
    valid = np.tile([96, 96, 50, 20], 64)
    batch = {
        "latents": np.broadcast_to(np.arange(96.0)[:, None], (256, 96, K)),
        "valid_frames": valid,
    }
    before = 75_001  # frames of the piece that come before the clip
    batch |= {
        "start": np.full(256, before * HOP / 48_000, np.float32),
        "total": np.full(256, 200.0, np.float32),
    }
    drawn = [jax.tree.map(np.asarray, windows(batch, step, window=32)) for step in range(4)]
    firsts = np.stack([each["latents"][:, 0, 0] for each in drawn])
    for first, each in zip(firsts, drawn, strict=True):
        np.testing.assert_array_equal(
            each["latents"], first[:, None, None] + np.arange(32.0)[:, None] + np.zeros(K)
        )
        np.testing.assert_array_equal(each["valid_frames"], np.minimum(valid, 32))
        np.testing.assert_allclose(each["start"], (before + first) * HOP / 48_000, rtol=1e-6)
        np.testing.assert_array_equal(each["total"], 200)
        assert each["mask"].shape == (256, 32, 1) and each["noise"].shape == (256, 32, K)
    assert (firsts[:, valid == 20] == 0).all()
    for frames in (96, 50):
        found, last = firsts[:, valid == frames], frames - 32
        inside = found[(found > 0) & (found < last)]
        grid = np.prod(tiny.config().unet.factors)
        assert set(found.flat) == {0, *range(-before % grid, last, grid), last}
        # half a window's share at each end, and what rounding down to the grid adds at the beginning
        shares = np.array([17 + (-before - 1) % grid, 17]) / (last + 33)
        np.testing.assert_allclose([np.mean(found == 0), np.mean(found == last)], shares, atol=0.08)
        np.testing.assert_allclose(inside.mean(), last / 2, atol=0.06 * last)
    assert len(set(firsts[:, 0])) > 1


def test_a_share_of_the_examples_is_cut_to_a_random_length_before_its_mask_is_drawn():
    config, grid = tiny.config(), np.prod(tiny.config().unet.factors)
    valid = np.tile([96, 96, 40, 2], 100)
    batch = {"latents": jnp.zeros((400, 96, K)), "valid_frames": jnp.asarray(valid)}
    batch |= {"start": jnp.full(400, 30.0), "total": jnp.full(400, 90.0)}
    config.data.short_rate = 0.5
    drawn = diffusion.draw(
        jax.random.key(0), jnp.int32(0), batch, config=config, hop=HOP, k=K, window=96
    )
    found, mask = np.asarray(drawn["valid_frames"]), np.asarray(drawn["mask"])[..., 0]
    assert (found <= valid).all() and (found[valid == 2] == 2).all() and found.min() == 2
    cut = found[valid == 96]
    assert (
        0.4 < (cut < 96).mean() < 0.6
        and cut[cut < 96].min() < grid + 6
        and 45 < cut[cut < 96].mean() < 55
    )
    assert not (mask * (np.arange(96) >= found[:, None])).any()
    ends = np.where(found < valid, 30 + found * HOP / 48_000, 90)  # of a piece that ends there
    np.testing.assert_allclose(drawn["total"], ends, rtol=1e-6)
    inpainted = np.asarray(drawn["task"]) == list(TASKS).index("inpainting")
    share = (1 - mask.sum(1) / found)[inpainted & (found > 10)]
    assert share.min() > 0.1 and share.max() < 0.9  # of what is left, not of the whole window


@pytest.mark.slow
def test_text_is_left_out_at_the_configured_rate_only():
    assert not np.asarray(draw(null_text_rate=0.0)["null_text"]).any()
    assert np.asarray(draw(null_text_rate=1.0)["null_text"]).all()
    assert 0.1 < np.mean([draw(step)["null_text"] for step in range(10)]) < 0.3


@pytest.fixture(scope="module")
def parts(tiny_run):
    run = Run.open(tiny_run)
    config, codec = run.config, load_codec(run)
    from jen1_jax.text.prompts import TextEncoder

    text = TextEncoder.open(run.text)
    return config, codec, text, models.make_unet(config, codec.k, text), run


@pytest.mark.slow
def test_text_encoder_and_projections_are_trained_and_saved(parts):
    """Every parameter of the text encoder and of the network moved in training, and the checkpoint's EMA holds them all."""
    config, codec, text, unet, run = parts
    optimizer, _ = adamw(config.train_diffusion)
    players = {"diffusion": diffusion.player(config, unet, codec, text, optimizer)}
    abstract = jax.eval_shape(lambda: init_state(players, jax.random.key(0)))
    checkpoints = Checkpoints(run.checkpoints("diffusion"))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    trained, _ = checkpoints.restore(
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), abstract
        )
    )
    fresh = init_state(players, jax.random.key(config.seed))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), trained.params, fresh.params)
    still = [
        jax.tree_util.keystr(path)
        for path, value in jax.tree_util.tree_leaves_with_path(moved)
        if not value
    ]
    assert not still
    assert set(trained.params["diffusion"]) == {"unet", "text"}
    assert jax.tree.structure(trained.ema) == jax.tree.structure(trained.params)


def test_generation_uses_the_ema_and_not_the_raw_parameters(parts, tiny_model):
    config, codec, text, unet, run = parts
    checkpoints = Checkpoints(run.checkpoints("diffusion"))
    optimizer, _ = adamw(config.train_diffusion)
    players = {"diffusion": diffusion.player(config, unet, codec, text, optimizer)}
    abstract = jax.eval_shape(lambda: init_state(players, jax.random.key(0)))
    ema = checkpoints.restore_ema("diffusion", models.abstract_diffusion(unet, text))[0]
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state, _ = checkpoints.restore(
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), abstract
        )
    )
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
    assert same(tiny_model.sampler.params, ema["unet"])
    assert same(ema["unet"], state.ema["diffusion"]["unet"]) and not same(
        ema["unet"], state.params["diffusion"]["unet"]
    )


@pytest.mark.slow
def test_waveforms_encoded_in_the_step_give_the_loss_of_their_latents(parts, tmp_path):
    config, codec, text, unet, _ = parts
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0)
    batch = next(data.batches(0))
    tokens, lengths = text.tokenize([str(caption) for caption in batch["caption"]])
    common = {
        "tokens": tokens,
        "text_lengths": lengths,
        "start": batch["start"],
        "total": batch["total"],
    }
    waveform = {"audio": batch["audio"], "valid_samples": batch["valid_samples"]} | common
    latents = np.zeros((4, batch["audio"].shape[1] // codec.hop, codec.k), np.float32)
    for row in range(4):
        latents[row] = codec.encode(batch["audio"][row])
    encoded = {"latents": latents, "valid_frames": -(-batch["valid_samples"] // codec.hop)} | common
    optimizer, _ = adamw(config.train_diffusion)
    player = diffusion.player(config, unet, codec, text, optimizer)
    params = {"diffusion": player.init(jax.random.key(0))}

    @partial(jax.jit, static_argnums=2)
    def terms(batch, frozen, _):
        drawn = diffusion.draw(
            jax.random.key(0),
            jnp.int32(0),
            batch,
            config=config,
            hop=codec.hop,
            k=codec.k,
            window=96,
        )
        return player.terms(params, drawn, frozen)

    ours = terms(waveform, {"autoencoder": codec.params}, 0)
    theirs = terms(encoded, None, 1)
    for name in ours:
        np.testing.assert_allclose(ours[name][0], theirs[name][0], rtol=2e-3)
        np.testing.assert_array_equal(ours[name][1], theirs[name][1])


@pytest.mark.slow
@pytest.mark.parametrize("timing", [True, False])
def test_the_loss_depends_on_where_in_its_piece_an_example_lies_where_it_is_asked_for(
    parts, tiny_model, timing
):
    config, codec, text = parts[0].copy_and_resolve_references(), *parts[1:3]
    config.unet.timing = timing
    player = diffusion.player(
        config,
        models.make_unet(config, codec.k, text),
        codec,
        text,
        adamw(config.train_diffusion)[0],
    )
    tokens, lengths = map(jnp.asarray, text.tokenize(["two tones"] * 6))
    batch = {
        "latents": jnp.ones((6, 96, codec.k)),
        "valid_frames": jnp.full(6, 96),
        "tokens": tokens,
        "text_lengths": lengths,
    }
    rng = np.random.default_rng(0)  # so that what is heard is heard well
    params = {"diffusion": {"unet": tiny_model.sampler.params, "text": tiny_model.text_params}}
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), params
    )

    @jax.jit
    def losses(params, batch):
        drawn = diffusion.draw(
            jax.random.key(0),
            jnp.int32(0),
            batch,
            config=config,
            hop=codec.hop,
            k=codec.k,
            window=96,
        )
        return sum(each for each, _ in player.terms(params, drawn, None).values())

    at = lambda start, total: np.asarray(
        losses(params, batch | {"start": jnp.full(6, start), "total": jnp.full(6, total)})
    )
    for other in (at(30.0, 90.0), at(0.0, 180.0)):
        changed = other != at(0.0, 90.0)
        assert changed.all() if timing else not changed.any()


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
    with pytest.raises(Refusal, match=f"0123456789ab.*{own[:12]}.*encode the data again"):
        diffusion.train_diffusion(
            run.config, run, write_latents(tmp_path / "latents.npz", "0123456789abcdef")
        )


@pytest.mark.parametrize("missing", ["start", "total"])
def test_data_that_do_not_know_where_in_their_piece_they_begin_are_refused_where_it_is_asked_for(
    tiny_run, tmp_path, missing
):
    path = tiny.write_audio_npz(tmp_path / "audio.npz")
    arrays = dict(np.load(path))
    del arrays[missing]
    np.savez(path, **arrays)
    run = Run.open(tiny_run)
    with pytest.raises(Refusal, match=r"audio\.npz does not say it.*--config\.unet\.timing=False"):
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
    """A frame more or less is how lengths are rounded."""
    run, trained = Run.open(tiny_run), []
    data = write_latents(
        tmp_path / "latents.npz", run.record["fingerprints"]["autoencoder"], frames
    )
    monkeypatch.setattr(
        diffusion, "fit", lambda name, **given: trained.append(given["draw"].keywords["window"])
    )
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
    with pytest.raises(Refusal, match=r"was trained with another `data\.seconds`"):
        diffusion.train_diffusion(
            config,
            run,
            write_latents(tmp_path / "latents.npz", record["fingerprints"]["autoencoder"], 192),
        )
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
        ("unet", dict(dtype="int8"), "float32 or bfloat16"),
        ("unet", dict(head_dim=3), "head_dim must be even"),
        ("unet", dict(factors=(0, 2)), "at least 1"),
        ("unet", dict(null_text="nothing"), "'nothing'"),
        ("unet", dict(remat="some"), "'some'"),
        ("diffusion", dict(times="often"), "'often'"),
        ("tasks", dict(loss_on="some"), "'some'"),
        ("tasks", dict(max_spans=0), "max_spans >= 1"),
        ("tasks", dict(ratios=dict(text_to_music=-1.0)), "must not be negative"),
        ("tasks", dict(weights=dict(text_to_music=-1.0)), "not negative"),
    ],
)
def test_settings_that_no_sample_would_survive_are_refused_before_training(
    tmp_path, section, setting, refused
):
    config, data = (
        tiny.config(),
        NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 6, seed=0),
    )
    config[section].update(setting)
    with pytest.raises(Refusal, match=refused):
        diffusion.train_diffusion(config, Run(tmp_path / "run"), data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective, refused", [("v", True), ("epsilon", True), ("x0", False)])
def test_a_network_too_narrow_to_carry_the_noise_is_refused(parts, objective, refused):
    config, codec, text = parts[0].copy_and_resolve_references(), *parts[1:3]
    config.update(dict(diffusion=dict(objective=objective), unet=dict(channels=2 * codec.k - 1)))
    with (
        pytest.raises(Refusal, match="at least 12, twice") if refused else contextlib.nullcontext()
    ):
        models.make_unet(config, codec.k, text)


def test_latents_are_no_data_for_the_autoencoder(tmp_path):
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
