"""Breaks one line of the model at a time and checks that a test fails.

    python -m benchmarks.mutants [NAME ...]

A test that passes on broken code tests nothing. For each mutant, which is a copy of the code with
one changed line, it prints whether the test failed, and exits with 1 if one did not. It needs what
the tests need, and takes as long as the named tests, most of which compile a network.
tests/test_mutants.py checks that the lines below occur in the code.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("benchmarks", "configs", "data_pipeline", "docs", "jen1_jax", "jen1_numpy", "jen1_torch")
PARTS += ("tests", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """`before`, which occurs once in `file`, is replaced by `after`; then `test` must fail."""

    file: str
    before: str
    after: str
    test: str


DRAW = "tests/training/test_draw.py"
LOSS = "tests/training/test_diffusion_loss.py"
NETWORK = f"{LOSS}::test_the_network_is_given_what_the_tasks_drew_and_nothing_else"
SAMPLING = "tests/generation/test_sampling.py"
DENOISER = "tests/models/test_denoiser.py"
MUTANTS = {
    "training sees the answer": Mutant(
        "jen1_jax/training/diffusion_loss.py",
        "        clean * mask,\n",
        "        clean,\n",
        NETWORK,
    ),
    "training keeps every text": Mutant(
        "jen1_jax/training/diffusion_loss.py",
        'jnp.where(batch["null_text"], 0, batch["text_lengths"])',
        'batch["text_lengths"]',
        NETWORK,
    ),
    "training is never causal": Mutant(
        "jen1_jax/training/diffusion_loss.py",
        '        batch["causal"],\n',
        '        batch["causal"] & False,\n',
        NETWORK,
    ),
    "training counts padding": Mutant(
        "jen1_jax/training/diffusion_loss.py",
        'tasks.loss_mask(batch["mask"], valid, config.tasks.loss_on)',
        'tasks.loss_mask(batch["mask"], jnp.ones_like(valid), config.tasks.loss_on)',
        f"{LOSS}::test_an_example_counts_in_its_own_task_with_its_valid_frames",
    ),
    "the loss averages over padding": Mutant(
        "jen1_jax/training/diffusion_loss.py",
        "mean = jnp.sum(error * counted, axis=1) / jnp.maximum(counted.sum(axis=1), 1)",
        "mean = jnp.mean(error * counted, axis=1)",
        f"{LOSS}::test_the_loss_is_the_mean_over_the_frames_that_count",
    ),
    "conditions are never left out": Mutant(
        "jen1_jax/training/draw.py",
        "conditioner.leave_out(key, name, each, conditions[name])",
        "conditions[name]",
        f"{DRAW}::test_conditions_are_left_out_at_their_own_rate",
    ),
    "noise is uniform": Mutant(
        "jen1_jax/training/draw.py",
        'jax.random.normal(named_key(key, "noise"), (size, window, k))',
        '3**0.5 * jax.random.uniform(named_key(key, "noise"), (size, window, k), minval=-1)',
        f"{DRAW}::test_noise_is_gaussian_with_unit_variance",
    ),
    "all examples share a mask": Mutant(
        "jen1_jax/tasks.py",
        "jax.random.fold_in(key, index), valid)",
        "key, valid)",
        f"{DRAW}::test_every_example_draws_its_own_mask_noise_time_and_task",
    ),
    "the unguided half loses the context": Mutant(
        "jen1_jax/generation/sampling.py",
        "inputs = [twice(x) for x in (latents * shown, shown.astype(jnp.float32))]",
        "inputs = [jnp.concatenate([x, 0 * x]) if guided else x "
        "for x in (latents * shown, shown.astype(jnp.float32))]",
        f"{SAMPLING}::test_context_frames_stay_and_only_they_are_shown_at_the_end",
    ),
    "guidance is left out": Mutant(
        "jen1_jax/generation/sampling.py",
        "jnp.where(inside, step.guidance_scale, 1.0)",
        "jnp.where(inside, 1.0, 1.0)",
        f"{SAMPLING}::test_guidance_is_applied_once_and_only_with_text",
    ),
    "given frames are generated again": Mutant(
        "jen1_jax/generation/sampling.py",
        "return jnp.where(shown, latents, clean) * valid",
        "return clean * valid",
        f"{SAMPLING}::test_context_frames_stay_and_only_they_are_shown_at_the_end",
    ),
    "a margin is never shown": Mutant(
        "jen1_jax/generation/sampling.py",
        "shown = jnp.where(log_snr[:, None, None] < step.margin_log_snr, given, context)",
        "shown = context",
        f"{SAMPLING}::test_generated_frames_continue_the_margin_as_the_process_does",
    ),
    "windows begin anywhere": Mutant(
        "jen1_numpy/windows.py",
        "start = (round(place) if is_hole else math.floor(place)) * self._grid - offset",
        "start = first - lead",
        "tests/generation/test_windows.py::test_windows_begin_on_the_grid_and_hold_their_hole",
    ),
    "latents are never masked in training": Mutant(
        "jen1_jax/training/autoencoder_losses.py",
        '{"params": params["autoencoder"]}, audio, batch["mask_key"][0]\n    )\n    decoded',
        '{"params": params["autoencoder"]}, audio\n    )\n    decoded',
        "tests/training/test_autoencoder_losses.py",
    ),
    "attention sees the future": Mutant(
        "jen1_jax/layers/attention.py",
        "    if causal is not False:",
        "    if False:",
        f"{DENOISER}::test_a_causal_example_depends_on_no_later_frame_and_a_bidirectional_one_on_all",
    ),
    "padding enters the network": Mutant(
        "jen1_jax/unet.py",
        'name="stem")(constrain(x * valids[0]), causal)',
        'name="stem")(constrain(x), causal)',
        f"{DENOISER}::test_the_content_of_padding_changes_nothing_and_its_output_is_zero",
    ),
    "the EMA stands still": Mutant(
        "jen1_jax/training/step.py",
        "average = lambda e, p: e + (1 - decay) * (p - e)",
        "average = lambda e, p: e",
        "tests/training/test_step.py::test_the_decay_of_the_ema_rises_to_its_configured_value",
    ),
    "a task's mean is over the batch": Mutant(
        "jen1_jax/training/step.py",
        "jnp.sum(each * shares[key]) / jnp.maximum(counts[key], 1)",
        "jnp.sum(each * shares[key]) / jnp.maximum(sum(counts.values()), 1)",
        "tests/training/test_step.py::test_loss_is_the_sum_of_each_tasks_mean_over_its_own_elements",
    ),
    "whitening does not scale": Mutant(
        "jen1_jax/autoencoder/whitening.py",
        "forward = (self.basis / self.scale).astype(np.float32)",
        "forward = self.basis.astype(np.float32)",
        "tests/autoencoder/test_whitening.py",
    ),
}


def noticed(mutant: Mutant) -> bool:
    """Whether the mutant's test fails on a copy of the code with the mutant's line."""
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(folder, part))
        file = Path(folder, mutant.file)
        text = file.read_text()
        if text.count(mutant.before) != 1:
            raise SystemExit(
                f"{mutant.file} does not contain {mutant.before!r} exactly once; "
                "update benchmarks/mutants.py."
            )
        file.write_text(text.replace(mutant.before, mutant.after))
        pytest = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command = [sys.executable, *pytest, mutant.test]
        environment = os.environ | {"PYTHONPATH": folder}
        found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if found.returncode not in (0, 1) or "error" in found.stdout.splitlines()[-1]:
            raise SystemExit(
                f"{mutant.test} could not be run:\n{found.stdout[-2000:]}{found.stderr[-2000:]}"
            )
        return found.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ", ".join(MUTANTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {known}")
    results = {}
    for name in parser.parse_args().names or MUTANTS:
        results[name] = noticed(MUTANTS[name])
        print(f"{name:40} {'noticed' if results[name] else 'NOT NOTICED'}", flush=True)
    print(json.dumps({"mutants": len(results), "noticed": sum(results.values())}))
    sys.exit(0 if all(results.values()) else 1)


if __name__ == "__main__":
    main()
