#!/usr/bin/env bash
# Checks in about 15 minutes that training works on these devices, and writes OUT/acceptance.json,
# which may be published: versions, devices, and the figures and the verdict of each check.
#
#   bash launch/acceptance.sh [-- --config.FIELD=VALUE ...]
#
# It trains the U-Net of the preset `compose` with a small text encoder on built-in music, in the
# latents of the released autoencoder:
#   same loss      all devices and one of them alone give the same losses
#   step, memory   a step's time and the memory of a device, against `jen1 plan`
#   stop, resume   SIGTERM in the middle ends the training with the status 75; the same command goes
#                  on from the checkpoint in STORE, and ends as the training that was not stopped
# What follows -- changes the configuration. On several hosts call it on all of them at once, for
# example with `srun`. The variables below may be set on the command line, as in
# `TOPOLOGY=v5e:4x4 STORE=/data/acceptance bash launch/acceptance.sh`.
set -euo pipefail

OUT=${OUT:-$PWD/acceptance}  # a new folder of this host
STORE=${STORE:-$OUT/store}   # a folder where the real run will keep checkpoints; all hosts see it
TOPOLOGY=${TOPOLOGY:-}       # of a TPU slice, as in `jen1 plan`; empty: nothing is planned
BATCH=${BATCH:-64}           # a multiple of the number of devices
STEPS=${STEPS:-1200}         # a multiple of 60; enough to be stopped in the middle
CLIP=${CLIP:-5.12}           # seconds
CLIPS=${CLIPS:-96}
TOLERANCE=${TOLERANCE:-0.01} # of losses, relative
PYTHON=${PYTHON:-}           # that has the project installed; default: the checkout's .venv

stop() { echo "acceptance.sh: $*" >&2; exit 1; }
stage() { echo "$(date '+%F %T') $*"; }

[ $# -eq 0 ] || [ "$1" = -- ] || stop 'usage: acceptance.sh [-- --config.FIELD=VALUE ...]'
[ $# -eq 0 ] || shift
for folder in "$OUT" "$STORE/all" "$STORE/stopped"; do
  [ ! -e "$folder" ] || stop "$folder exists; name other folders with OUT and STORE."
done
[[ $STEPS =~ ^[1-9][0-9]*$ && $((STEPS % 60)) -eq 0 ]] || stop "STEPS is a multiple of 60, not $STEPS."
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$root/.venv/bin/python}
[ -x "$PYTHON" ] || stop 'the project is not installed: source launch/setup.sh; setup train,tpu'
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$root"
source launch/pods/xla_flags.sh

text=(encoder= dtype=float32 max_length=32 d_model=128 d_kv=32 d_ff=256 num_layers=2 num_heads=4)
settings=(--config compose "${text[@]/#/--config.text.}" --config.unet.text_features=128)
settings+=("--config.data.seconds=$CLIP")
fields=(batch_size="$BATCH" steps="$STEPS" log_every=$((STEPS / 60)) checkpoint_every="$STEPS")
settings+=("${fields[@]/#/--config.train_diffusion.}" "$@")

# Python with one device, as if there were no other process.
alone=(env -u SLURM_STEP_NODELIST -u OMPI_COMM_WORLD_SIZE -u JOB_COMPLETION_INDEX)
alone+=(-u MEGASCALE_NUM_SLICES TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost)
alone+=(TPU_WORKER_ID=0 TPU_VISIBLE_CHIPS=0 TPU_PROCESS_BOUNDS="1,1,1")
alone+=(TPU_CHIPS_PER_PROCESS_BOUNDS="1,1,1" CUDA_VISIBLE_DEVICES=0)
alone+=(XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=1" "$PYTHON")
train=(-m jen1_jax.cli train diffusion "${settings[@]}" --autoencoder weights/compose)
train+=(--config.data.dir="$OUT/latents" --workdir)

failed() { # NAME: stops with the end of its output
  tail -n 20 "$OUT/$1.log" >&2
  stop "$1 failed; $OUT/$1.log has all of its output."
}

stage 'encoding built-in music'
"${alone[@]}" -m jen1_jax.cli data encode --source synthetic --clips "$CLIPS" --seconds "$CLIP" \
  --autoencoder weights/compose --out "$OUT/latents" >"$OUT/encode.log" 2>&1 || failed encode
stage 'training on one device'
"${alone[@]}" "${train[@]}" "$OUT/one" >"$OUT/one.log" 2>&1 || failed one
stage 'training on all devices'
"$PYTHON" "${train[@]}" "$STORE/all" >"$OUT/all.log" 2>&1 || failed all

stage 'training on all devices, stopped and resumed'
"$PYTHON" "${train[@]}" "$STORE/stopped" >"$OUT/stopped.log" 2>&1 &
training=$!
# Only the first host prints, and so only it sends the signal.
until grep -q '^diffusion [0-9]*/' "$OUT/stopped.log" 2>/dev/null; do
  kill -0 $training 2>/dev/null || break
  sleep 0.1
done
kill -TERM $training 2>/dev/null || true
stopped=0 resumed=0
wait $training || stopped=$?
"$PYTHON" "${train[@]}" "$STORE/stopped" >"$OUT/resumed.log" 2>&1 || resumed=$?

planned=''
if [ -n "$TOPOLOGY" ]; then
  stage 'planning the same training'
  "$PYTHON" -m jen1_jax.cli plan "${settings[@]}" --topology "$TOPOLOGY" \
    --json "$OUT/plan.json" >"$OUT/plan.log" 2>&1 ||
    planned="jen1 plan failed: $(tail -n 1 "$OUT/plan.log")"
else
  planned='TOPOLOGY is not set'
fi

"${alone[@]}" - "$OUT" "$STORE" "$TOLERANCE" "$stopped" "$resumed" "$planned" <<'PYTHON'
import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import sys
from pathlib import Path

import jax

from jen1_numpy.files import write_text

out, store, tolerance = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
stopped, resumed, unplanned = int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]


def records(run):
    lines = (run / "diffusion" / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record for record in map(json.loads, lines)}


def difference(first, second, until=math.inf):
    """The largest relative difference of the losses at the steps that both logged."""
    steps = [step for step in first.keys() & second.keys() if step <= until]
    return max(abs(first[s]["loss"] - second[s]["loss"]) / first[s]["loss"] for s in steps)


def check(passed, **figures):
    """`passed` None: not measured."""
    words = {True: "passed", False: "failed", None: "not measured"}
    return {"verdict": words[passed], **figures}


one, all_ = records(out / "one"), records(store / "all")
last = all_[max(all_)]
checks = {}
apart = difference(one, all_, until=60)  # later, rounding errors have grown
checks["same loss on one device and on all"] = check(
    apart <= tolerance, largest_difference=apart, tolerance=tolerance
)

speeds = [record["steps_per_second"] for record in all_.values()]
seconds = 1 / statistics.median(speed for speed in speeds if speed)  # 0: it has only compiled
peak = last.get("device_peak_gib")
step, memory = {"measured_seconds": seconds}, {"measured_gib": peak}
if unplanned or jax.devices()[0].platform != "tpu":
    why = unplanned or "these devices are no TPUs"
    checks["step time as planned"] = check(None, **step, why=why)
    checks["memory as planned"] = check(None, **memory, why=why)
else:
    plan = json.loads((out / "plan.json").read_text())
    bounds, total = plan["step_seconds"], plan["memory"]["total"] / 2**30
    fair = bounds["overlapped"] <= seconds <= 2 * bounds["summed"]
    checks["step time as planned"] = check(fair, **step, planned_seconds=bounds)
    near = abs(peak / total - 1) <= 0.15
    checks["memory as planned"] = check(near, **memory, planned_gib=total)

checks["SIGTERM ends the training with 75"] = check(stopped == 75, status=stopped)
log = (out / "resumed.log").read_text()
found = re.search(r"going on from step (\d+)", log)
if resumed == 0 and found:
    apart = difference(all_, records(store / "stopped"))
    figures = {"from_step": int(found[1]), "largest_difference": apart, "tolerance": tolerance}
    verdict = 0 < int(found[1]) < max(all_) and apart <= tolerance
else:
    verdict, figures = False, {"status": resumed, "last_line": log.splitlines()[-1:]}
figures |= {"seconds_of_saving": sum(r.get("seconds/checkpoint", 0.0) for r in all_.values())}
checks["resumed from the store"] = check(verdict, **figures)

packages = ["jen1-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"]
packages += [name for name in ("libtpu",) if importlib.util.find_spec(name)]
failed = [name for name, each in checks.items() if each["verdict"] == "failed"]
report = {
    "date": datetime.date.today().isoformat(),
    "versions": {"python": platform.python_version()}
    | {name: importlib.metadata.version(name) for name in packages},
    "device_kind": jax.devices()[0].device_kind,
    "topology": os.environ.get("TOPOLOGY", ""),
    "final_loss": last["loss"],
    "checks": checks,
    "verdict": check(not failed)["verdict"],
}
write_text(out / "acceptance.json", json.dumps(report, indent=1))
for name, each in checks.items():
    print(f"{each['verdict']:>12}  {name}  {({k: v for k, v in each.items() if k != 'verdict'})}")
print(f"written to {out / 'acceptance.json'}")
sys.exit(bool(failed))
PYTHON
