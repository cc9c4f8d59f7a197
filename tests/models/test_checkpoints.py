"""Which checkpoints are kept, what a damaged one costs, and on which meshes one is restored."""

import json
import resource
import time
from contextlib import suppress

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jen1_jax.models.checkpoints import Checkpoints
from jen1_numpy.errors import Refusal
from tests.devices import ended, free_port, run_on, started


def state(step: int):
    array = jax.random.normal(jax.random.key(step), (64, 256))
    return {"ema": {"net": {"w": array}}, "params": {"net": {"w": array + 1}}}


@pytest.fixture(autouse=True)
def all_closed(monkeypatch):
    """Closes what a test has opened: Orbax's threads must not outlive a folder that is damaged."""
    opened, begin = [], Checkpoints.__init__

    def remember(self, *arguments, **rules):
        begin(self, *arguments, **rules)
        opened.append(self)

    monkeypatch.setattr(Checkpoints, "__init__", remember)
    yield
    for checkpoints in opened:
        with suppress(ValueError):  # a save that failed
            checkpoints.close()


def shapes():
    device = SingleDeviceSharding(jax.devices()[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
    return jax.tree.map(place, jax.eval_shape(lambda: state(0)))


def saved(directory, steps, losses=None, **rules) -> Checkpoints:
    checkpoints = Checkpoints(directory, **rules)
    for step in steps:
        checkpoints.save(step, state(step), {"step": step}, (losses or {}).get(step))
    checkpoints.close()
    return Checkpoints(directory, **rules)


def assert_same(found, step):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state(step)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_newest_the_round_and_the_best_checkpoints_are_kept(tmp_path):
    losses = {10: 0.9, 20: np.nan, 30: 0.5, 40: 0.2, 50: 0.4, 70: 0.7}
    found = saved(tmp_path / "all", range(10, 80, 10), losses, keep=2, keep_every=30)
    assert found.steps == [30, 40, 60, 70] and found.best == 40
    assert saved(tmp_path / "newest", (10, 20, 30), keep=2).steps == [20, 30]


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("record", "cut off"),
        ("record", "missing"),
        ("state", "cut off"),
        ("state", "missing"),
        ("state", "another number"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, part, damage):
    saved(tmp_path, (10, 20), keep=2)
    folder = tmp_path / "20" / part
    file = max(folder.rglob("ocdbt.process_0/d/*" if part == "state" else "d/*"), key=_size)
    if damage == "missing":
        file = folder / "_METADATA"
        file.unlink()
    elif damage == "another number":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(file.read_bytes()[: _size(file) // 2])
    checkpoints, warnings = Checkpoints(tmp_path, keep=2), []
    found, record = checkpoints.restore(shapes(), warn=warnings.append)
    assert_same(found, 10)
    assert record == {"step": 10} and checkpoints.latest == 10
    assert len(warnings) == 1 and str(tmp_path / "20") in warnings[0] and "step 10" in warnings[0]
    assert len(list(tmp_path.glob("damaged-20-*/state"))) == 1  # nothing is lost
    checkpoints.save(20, state(20), {"step": 20})
    checkpoints.close()
    assert_same(Checkpoints(tmp_path).restore(shapes())[0], 20)


def _size(path):
    return path.stat().st_size


def test_nothing_is_renamed_if_all_checkpoints_are_damaged(tmp_path):
    saved(tmp_path, (10, 20), keep=2)
    for step in (10, 20):
        (tmp_path / str(step) / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(Refusal, match=r"/20 cannot be read.*/10 cannot be read"):
        Checkpoints(tmp_path).restore(shapes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20"]


def test_a_refused_record_is_no_damage(tmp_path):
    def refuse(record):
        raise Refusal(f"not step {record['step']}")

    with pytest.raises(Refusal, match="not step 20"):
        saved(tmp_path, (10, 20), keep=2).restore(shapes(), refuse)


def test_a_save_that_fails_in_the_background_raises_soon(tmp_path):
    checkpoints = saved(tmp_path, (10,))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as on a full disk
    try:
        checkpoints.save(20, state(20), {"step": 20})
        with pytest.raises(Exception, match=r"File too large"):
            for _ in range(1000):
                time.sleep(0.01)
                checkpoints.raise_failure()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints.raise_failure()  # once is enough
    assert Checkpoints(tmp_path).steps == [10]


@pytest.mark.parametrize("average", [True, False])
def test_without_an_average_the_parameters_are_read(tmp_path, average):
    content = state(10) | ({} if average else {"ema": {}})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, content, {"step": 10})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    params, _ = checkpoints.restore_ema("net", checkpoints.shapes("net"))
    expected = content["ema" if average else "params"]["net"]["w"]
    np.testing.assert_array_equal(params["w"], expected)


MESHES = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jen1_jax.models import checkpoints
from jen1_jax.models.checkpoints import Checkpoints

checkpoints.CHUNK = 2**12  # so that every share has several chunks
count = jax.device_count()
mesh = jax.make_mesh((count,), ("fsdp",), axis_types=(AxisType.Auto,))
noise = np.random.default_rng(0).normal(size=(48, 384))
values = {"a": noise.astype(np.float32), "b": np.arange(5)}
split = {"a": P(None, "fsdp") if count > 1 else P(), "b": P()}
put = lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec))
place = lambda tree: jax.tree.map(put, tree, split)
found = Checkpoints(sys.argv[1])
if found.latest is None:
    state = place(values)
else:
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), place(values)
    )
    state, _ = found.restore(like)
same = all(np.array_equal(state[name], values[name]) for name in values)
found.save((found.latest or 0) + 1, state, {"devices": count})
found.close()
print(json.dumps([count, same]))
"""


@pytest.mark.slow
def test_a_state_is_restored_bit_for_bit_on_fewer_devices(tmp_path):
    for devices in (8, 4, 1):
        printed = run_on(devices, MESHES, tmp_path).splitlines()[-1]
        assert json.loads(printed) == [devices, True]


PROCESSES = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jen1_jax.models.checkpoints import Checkpoints

root, port, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, process)
mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
values = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
sharding = NamedSharding(mesh, P("fsdp"))
state = {"w": jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])}
abstract = {"w": jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=sharding)}
checkpoints = Checkpoints(root, keep=2)
for step in (10, 20):
    checkpoints.save(step, state, {"step": step})
checkpoints.close()
if process == 0:  # cut off what process 1 has written and will read
    files = (root / "20" / "state" / "ocdbt.process_1" / "d").iterdir()
    file = max(files, key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1000])
multihost_utils.sync_global_devices("damaged")
checkpoints, warnings = Checkpoints(root, keep=2), []
found, record = checkpoints.restore(abstract, warn=warnings.append)
(shard,) = found["w"].addressable_shards
assert np.array_equal(shard.data, values[shard.index]) and record == {"step": 10}
assert checkpoints.steps == [10] and "/20 cannot be read" in warnings[0], warnings
print("from step", checkpoints.latest)
"""


@pytest.mark.slow
def test_processes_agree_on_the_checkpoint_that_all_can_read(tmp_path):
    port = free_port()
    found = ended([started(1, PROCESSES, tmp_path, port, process) for process in range(2)])
    assert [status for status, *_ in found] == [0, 0], found
    assert all(printed.endswith("from step 10\n") for _, printed, _ in found)  # after Gloo's lines
