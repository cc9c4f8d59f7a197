"""Training on eight simulated devices gives the same losses as on one."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import transformers
from ml_collections import ConfigDict

from configs import jen1, jen1_fast
from jen1_jax.sharding import local_rows, make_mesh
from jen1_jax.text.vocabulary import train as vocabulary
from jen1_numpy.errors import Refusal
from tests import tiny
from tests.devices import run_on


@dataclass(frozen=True)
class Chip:
    """What a mesh reads of a TPU chip."""

    id: int
    coords: tuple[int, int, int]
    process_index: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0


def chips(slices=1):
    """The chips of slices of 4 x 4; a process has a square of four of them."""
    return [
        Chip(16 * n + 4 * y + x, (x, y, 0), 4 * n + y // 2 * 2 + x // 2, n)
        for n in range(slices)
        for y in range(4)
        for x in range(4)
    ]


def mesh_of(devices, **axes):
    return make_mesh(ConfigDict({"mesh": {"axes": axes}}), devices)


def test_the_processes_of_a_torus_load_each_row_once_whatever_the_order_of_the_chips():
    mesh = mesh_of(chips(), data=1, fsdp=-1, tensor=1)
    order = [chip.process_index for chip in mesh.devices.flat]
    assert order != sorted(order)
    rows = [local_rows(mesh, 64, 2, process).tolist() for process in range(4)]
    assert rows == [[r for r in range(64) if order[r // 4] == process] for process in range(4)]


def test_processes_that_a_tensor_axis_joins_load_the_same_rows():
    mesh = mesh_of(chips(), data=1, fsdp=2, tensor=8)
    rows = [local_rows(mesh, 8, 1, process).tolist() for process in range(4)]
    assert sorted(rows) == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2


def test_several_slices_are_joined_along_the_data_axis():
    mesh = mesh_of(chips(slices=2), data=4, fsdp=-1, tensor=2)
    assert mesh.devices.shape == (4, 4, 2)
    for n, part in enumerate(mesh.devices):
        assert {chip.slice_index for chip in part.flat} == {n // 2}
    with pytest.raises(Refusal, match=r"2 slices; set .* to a multiple of 2"):
        mesh_of(chips(slices=2), data=1, fsdp=-1, tensor=1)


def test_an_axis_may_use_a_part_of_a_dimension_of_the_torus():
    cube = [
        Chip(n, (n // 64, n // 8 % 8, n % 8), n // 4, 0, device_kind="TPU v5") for n in range(512)
    ]
    mesh = mesh_of(cube, data=32, fsdp=-1, tensor=1)
    assert mesh.devices.shape == (32, 16, 1)
    assert len({chip.coords for chip in mesh.devices.flat}) == 512


@pytest.mark.parametrize("preset", [jen1, jen1_fast])
def test_the_presets_split_parameters_and_batch_over_all_chips_of_a_slice(preset):
    config = preset.get_config()
    mesh = make_mesh(config, chips())
    assert mesh.shape["fsdp"] == 16
    for training in (config.train_autoencoder, config.train_diffusion):
        assert len(local_rows(mesh, training.batch_size, training.microbatches, 0)) > 0


def test_a_batch_that_the_mesh_cannot_split_is_refused():
    with pytest.raises(Refusal, match="batch of 40 cannot be split into 32 parts"):
        local_rows(mesh_of(chips(), data=1, fsdp=-1, tensor=1), 40, 2, 0)


PROGRAM = """
import json, sys, tempfile
from pathlib import Path
import jax, numpy as np
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.models.metrics import read_metrics
from jen1_jax.training.npz import NpzData
from tests import tiny

folder = Path(sys.argv[1])
config = tiny.config()
config.train_autoencoder.batch_size = 8
config.train_autoencoder.losses.mel = 0.0  # it only takes time to compile
with config.unlocked():
    config.mesh.axes = dict(json.loads(sys.argv[2]))
config.train_autoencoder.steps = int(sys.argv[3])
path = tiny.write_audio_npz(folder / "audio.npz")
run = Run(folder / "run")
source = Run.open(sys.argv[4]) if sys.argv[4] else None
data = NpzData(str(path), 8, 0, crop=3072)
train_autoencoder(config, run, data, source, progress=lambda text: None)
losses = [record["loss"] for record in read_metrics(run.path / "autoencoder" / "metrics.jsonl")]
print(json.dumps([jax.device_count(), losses]))
"""


def run(program, devices, *arguments):
    """The result that the program prints in its last line."""
    count, printed = json.loads(run_on(devices, program, *arguments).splitlines()[-1])
    assert count == devices
    return printed


def train(folder, axes, devices, steps=4, source=""):
    folder.mkdir(exist_ok=True)
    return run(PROGRAM, devices, folder, json.dumps(axes), steps, source)


@pytest.mark.slow
def test_eight_devices_give_the_loss_of_one_and_restore_its_checkpoint(tmp_path):
    one = train(tmp_path / "one", {"data": -1, "fsdp": 1, "tensor": 1}, devices=1)
    eight = train(tmp_path / "eight", {"data": 2, "fsdp": 2, "tensor": 2}, devices=8)
    assert eight == pytest.approx(one, rel=1e-4)
    # Each checkpoint is continued on another number of devices.
    more = train(tmp_path / "one", {"data": 4, "fsdp": 2, "tensor": 1}, devices=8, steps=6)
    fewer = train(tmp_path / "eight", {"data": -1, "fsdp": 1, "tensor": 1}, devices=1, steps=6)
    assert more[:4] == one and fewer[:4] == eight and len(more) == len(fewer) == 6
    assert more[4:] == pytest.approx(fewer[4:], rel=1e-3)
    # A decoder-only stage starts from a run that was trained on another number of devices.
    axes, source = {"data": 2, "fsdp": 2, "tensor": 2}, tmp_path / "one" / "run"
    stage = train(tmp_path / "stage", axes, devices=8, source=source)
    assert stage[0] < one[0]


TEXT = """
import json, sys
from pathlib import Path
import jax, numpy as np
from jen1_jax.models.run import Run
from jen1_jax.generation.model import Model
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.sharding import local_layout, make_mesh
from jen1_jax.models.metrics import read_metrics
from jen1_jax.training.npz import NpzData
from tests import tiny

folder, encoder, trained = map(Path, sys.argv[1:])
config = tiny.config()
several = jax.device_count() > 1
with config.unlocked():
    config.mesh.axes = dict(data=-1 if several else 1, fsdp=2 if several else 1, tensor=1)
    config.text.encoder, config.unet.text_features = str(encoder), 16
config.train_diffusion.update(batch_size=8, steps=2)
text = TextEncoder.frozen(str(encoder), 16, "float32", local_layout(config))
# On another mesh than in training, as each process has one of its own devices.
with jax.set_mesh(make_mesh(config, jax.devices()[:2])):
    embedding, _ = text.embed(tiny.CAPTIONS)
run = Run(folder)
data = NpzData(str(tiny.write_audio_npz(folder.parent / "audio.npz")), 8, seed=0)
train_diffusion(config, run, data, Run.open(trained), progress=lambda text: None)
losses = [record["loss"] for record in read_metrics(run.path / "diffusion" / "metrics.jsonl")]
loaded = Model.load(folder).text
matrices = [leaf for leaf in jax.tree.leaves(loaded.params) if leaf.ndim > 1]
parts = [matrix.addressable_shards[0].data.size / matrix.size for matrix in matrices]
same = np.array_equal(loaded.embed(tiny.CAPTIONS)[0], embedding)
print(json.dumps([jax.device_count(), [losses, embedding.tolist(), parts, same, text.fingerprint]]))
"""


@pytest.mark.slow
def test_a_sharded_frozen_text_encoder_embeds_as_on_one_device(tiny_run, tmp_path):
    layout = transformers.T5Config(
        feed_forward_proj="gated-gelu", vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2
    )
    transformers.T5EncoderModel(layout).save_pretrained(tmp_path / "encoder")
    vocabulary(tiny.CAPTIONS, tmp_path / "encoder" / "spiece.model", 64)
    one, eight = (
        run(TEXT, devices, tmp_path / str(devices), tmp_path / "encoder", tiny_run)
        for devices in (1, 8)
    )
    for losses, _, _, same, _ in (one, eight):
        assert len(losses) == 2 and same  # the loaded text encoder is that of training
    assert eight[0] == pytest.approx(one[0], rel=1e-4)
    np.testing.assert_allclose(eight[1], one[1], atol=2e-3)  # float16 values of about 1
    assert np.abs(one[1]).max() > 1
    assert set(one[2]) == {1.0} and set(eight[2]) == {1 / 8}  # the share of each matrix on a device
    assert eight[4] == one[4]


MUON = """
import json, sys
import jax, numpy as np
from jen1_jax.sharding import make_mesh, shardings
from jen1_jax.training.optimizer import OPTIMIZERS
from tests import tiny
from tests.layers.testing import normal

config, several = tiny.config(), jax.device_count() > 1
with config.unlocked():
    config.mesh.axes = dict(data=2, fsdp=2, tensor=2) if several else dict(data=1, fsdp=1, tensor=1)
block = lambda seed: {"kernel": normal(seed, 2, 3, 8, 16), "bias": normal(seed, 2, 16)}
tree = lambda seed: {"unet": {"down_1_residual": block(seed), "time": {"kernel": normal(9, 8, 4)}}}
mesh, optimizer = make_mesh(config), OPTIMIZERS["muon"](config.train_diffusion).transformation
place = lambda tree: jax.device_put(tree, shardings(tree, mesh, config.mesh.rules))
with jax.set_mesh(mesh):
    params = place(tree(0))
    state = place(optimizer.init(params))
    layouts = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    update, found = jax.jit(optimizer.update, out_shardings=layouts), []
    for seed in (1, 2):
        changes, state = update(place(tree(seed)), state, params)
        found.append([np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(changes)])
    parts = {leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(state)}
print(json.dumps([jax.device_count(), [sum(found, []), sorted(parts)]]))
"""


@pytest.mark.slow
def test_muon_updates_sharded_matrices_as_on_one_device():
    (one, whole), (eight, parts) = (run(MUON, devices) for devices in (1, 8))
    for ours, theirs in zip(eight, one, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-7)
    assert whole == [1.0] and 1 / 4 in parts  # the momentum is sharded like its matrix


STEP = """
import json
import jax, jax.numpy as jnp, numpy as np, optax
from jen1_jax.sharding import local_rows, make_mesh, put_batch, shardings
from jen1_jax.training.step import Trainable, init_state, make_step
from jen1_jax.unet import UNet
from tests import tiny
from tests.layers.testing import normal

config, several = tiny.config(), jax.device_count() > 1
with config.unlocked():
    axes = dict(data=2, fsdp=2, tensor=2) if several else dict(data=1, fsdp=1, tensor=1)
    config.mesh.axes = axes
    config.unet.update(remat="full", scan=True, num_blocks=(2, 2), conditioning=())
unet, size = UNet(out_channels=4, **config.unet), 32
batch = {"noisy": normal(0, size, 16, 4), "text": normal(1, size, 3, 8),
    "valid": (np.arange(16) < 4 + np.arange(size)[:, None] % 13)[..., None].astype(np.float32),
    "causal": np.arange(size) % 3 == 0, "task": np.arange(size) % 5 // 2}

def losses(params, b, frozen):
    zero = jnp.zeros_like(b["noisy"])
    y = unet.apply({"params": params["model"]}, b["noisy"], zero, zero[..., :1], zero[:, 0, 0],
        b["text"], jnp.full(len(zero), 3), b["valid"], b["causal"])
    error = jnp.sum((y - b["noisy"]) ** 2 * b["valid"], axis=(1, 2)) / b["valid"].sum((1, 2))
    return {"even": error, "odd": error}

def init(key):
    first = jax.tree.map(lambda x: x[:1], batch)
    zero = jnp.zeros_like(first["noisy"])
    return unet.init(key, zero, zero, zero[..., :1], zero[:, 0, 0], first["text"],
        jnp.ones(1, int), first["valid"], first["causal"])["params"]

counts = lambda b: {name: b["valid"].sum((1, 2)) * (b["task"] == n)
    for n, name in enumerate(("even", "odd"))}
trainables = {"model": Trainable(init, losses, counts, {"even": 1.0, "odd": 0.5}, optax.sgd(1.0))}
begin = lambda key: init_state(trainables, key)
found = []
for parts in (1, 4):  # the second time on devices in another order
    mesh = make_mesh(config, jax.devices()[::3] + jax.devices()[1::3] + jax.devices()[2::3]
        if parts > 1 else None)
    with jax.set_mesh(mesh):
        layout = shardings(jax.eval_shape(begin, jax.random.key(0)), mesh, config.mesh.rules)
        state = jax.jit(begin, out_shardings=layout)(jax.random.key(0))
        step = make_step(trainables, lambda key, step, batch: batch, ema_decay=0.9,
            microbatches=parts, layout=layout.params)
        placed = put_batch(batch, mesh, local_rows(mesh, size, parts), size)
        program = jax.jit(step, out_shardings=(layout, None)).lower(state, placed).compile()
        state, metrics = program(state, placed)
        updated = [np.asarray(leaf).sum().item() for leaf in jax.tree.leaves(state.params)]
        updated += [float(metrics[name]) for name in sorted(metrics)]
        memory = program.memory_analysis().temp_size_in_bytes
        found.append([updated, program.cost_analysis()["flops"], memory])
print(json.dumps([jax.device_count(), found]))
"""


@pytest.mark.slow
def test_accumulation_equals_one_batch_and_each_device_holds_a_part_of_its_own_rows():
    (one, one_cut), (eight, cut) = (run(STEP, devices) for devices in (1, 8))
    for updated, *_ in (one_cut, eight, cut):
        np.testing.assert_allclose(updated, one[0], rtol=1e-4, atol=1e-5)
    flops, memory = ([part[n] for part in (one, one_cut, eight, cut)] for n in (1, 2))
    # A loop counts with one of its turns. What is not of the batch is not a quarter.
    assert flops[1] < 0.35 * flops[0] and flops[2] < 0.2 * flops[0] and flops[3] < 0.35 * flops[2]
    assert memory[1] < 0.3 * memory[0] and memory[3] < 0.7 * memory[2]


GRADIENTS = """
import json, re
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from jen1_jax.layers.conv import Conv1d
from jen1_jax.sharding import BATCH_AXES, make_mesh, reducing_in, shardings
from jen1_jax.training.step import Trainable, init_state, make_step
from tests import tiny
from tests.layers.testing import normal

config, several = tiny.config(), jax.device_count() > 1
with config.unlocked():
    config.mesh.axes = dict(data=2 if several else 1, fsdp=-1, tensor=1)
mesh, layer = make_mesh(config), Conv1d(16, 3, dtype="bfloat16")
x = normal(0, 8, 10, 8)
params = jax.device_get(layer.init(jax.random.key(0), x))
loss = lambda params, x: jnp.mean(layer.apply(params, x).astype(jnp.float32) ** 2)
layout = shardings(params, mesh, config.mesh.rules)
inputs = jax.device_put(params, layout), jax.device_put(x, NamedSharding(mesh, P(BATCH_AXES)))
found = []
for dtype in ("float32", "bfloat16"):
    with jax.set_mesh(mesh), reducing_in(dtype):
        program = jax.jit(jax.grad(loss), out_shardings=layout).lower(*inputs)
        gradient = jax.tree.leaves(program.compile()(*inputs))
    sums = re.findall(r"reduce_scatter.*?-> tensor<(\\S+)>", program.as_text(), re.DOTALL)
    found.append([[np.asarray(leaf, "f").ravel().tolist() for leaf in gradient], sums])

def losses(params, x, frozen):
    return {"square": jnp.mean(layer.apply(params["model"], x).astype(jnp.float32) ** 2, (1, 2))}

trainables = {"model": Trainable(lambda key: params, losses, lambda x: {"square": jnp.ones(len(x))},
    {"square": 1.0}, optax.sgd(1.0))}
begin = lambda key: init_state(trainables, key)
with jax.set_mesh(mesh):
    layout = shardings(jax.eval_shape(begin, jax.random.key(0)), mesh, config.mesh.rules)
    state = jax.jit(begin, out_shardings=layout)(jax.random.key(0))
    step = make_step(trainables, lambda key, step, x: x, ema_decay=0.0, layout=layout.params,
        gather_once=("kernel",))
    state, _ = jax.jit(step, out_shardings=(layout, None))(state, inputs[1])
moved = jax.tree.map(jnp.subtract, params, jax.device_get(state.params["model"]))
found.append([np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(moved)])
print(json.dumps([jax.device_count(), found]))
"""


@pytest.mark.slow
def test_the_gradient_of_a_kernel_is_summed_where_it_is_stored_in_the_given_type():
    ((one, _), _, moved), ((eight, sums), (rounded, rounded_sums), also_moved) = (
        run(GRADIENTS, devices) for devices in (1, 8)
    )
    for ours, theirs, roughly in zip(eight, one, rounded, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        largest = np.abs(theirs).max()
        assert 1e-4 < np.abs(np.subtract(roughly, theirs)).max() / largest < 2e-2
    assert sums == ["3x2x16xf32"] and rounded_sums == ["3x2x16xbf16"]
    # A kernel that is gathered once has a gradient in bfloat16.
    for ours, theirs, gradient in zip(also_moved, moved, one, strict=True):
        largest = np.abs(gradient).max()
        np.testing.assert_allclose(ours, theirs, atol=largest / 2**8)
        np.testing.assert_allclose(ours, gradient, atol=largest / 2**5)
