"""The options of `generate`, `vary`, `inpaint` and `extend`: their names, types and checks."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np

from jen1_numpy.errors import Refusal
from jen1_numpy.noise import Noise


class SamplingOptions(TypedDict, total=False):
    """Options that all four methods have, as keywords; None is the same as leaving one out.

    - `negative_prompt`: what to keep away from, for all pieces (default: music without a prompt).
      It needs guidance.
    - `steps`: of sampling, at least 1 (default: the configuration's).
    - `guidance_scale`: how closely to follow the prompt (default: the configuration's). 1 is the
      model as it was trained, and 0 ignores the prompt.
    - `start`, `total`: for a model with the conditioner "timing". The music begins `start` seconds
      into a piece (default: 0) that lasts `total` seconds (default: until the music ends).
    - `conditions`: values for the model's other conditioners by their names, like {"tempo": 120}.
    - `noise`: takes the place of the random noise from which each window starts. An array or list
      of arrays [frames, k], one for each window in the order of sampling, or a function of the
      piece and of its window, both counted from 0.

    `generate` takes one `start`, `total` and `conditions` for every piece, or one for all of them.
    """

    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    start: float | Sequence[float] | np.ndarray | None
    total: float | Sequence[float | None] | np.ndarray | None
    conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    noise: Noise | None


class AudioOptions(SamplingOptions, total=False):
    """The options of the methods that are given audio.

    - `sample_rate`: of the given audio, in Hz (default: the model's). Audio at another rate than
      the model's is resampled.
    """

    sample_rate: int | None


def resolve(
    options: Mapping[str, Any], defaults: Mapping[str, Any], kind: type = SamplingOptions
) -> dict[str, Any]:
    """All options of `kind`, with the defaults of the section `diffusion` for those left out.

    Raises `TypeError` for an unknown option, as Python does for a keyword, and `Refusal` for a
    value that cannot be used. `check_place` checks `start` and `total`, and `condition_values`
    checks `conditions`.
    """
    for name in options:
        if name not in kind.__annotations__:
            known = ", ".join(sorted(kind.__annotations__))
            raise TypeError(f"There is no option {name!r} here; the options are {known}.")
    resolved = dict.fromkeys(kind.__annotations__) | {
        "negative_prompt": "",
        "steps": defaults["sample_steps"],
        "guidance_scale": defaults["guidance_scale"],
        "start": 0.0,
        "conditions": {},
    }
    resolved |= {name: value for name, value in options.items() if value is not None}
    negative, steps, scale = (
        resolved[name] for name in ("negative_prompt", "steps", "guidance_scale")
    )
    if not isinstance(negative, str):
        raise Refusal(f"{negative!r} is not a prompt; give one negative prompt for all pieces.")
    if isinstance(steps, bool) or not (isinstance(steps, int | np.integer) and steps >= 1):
        raise Refusal(f"{steps!r} steps cannot be taken; give a whole number, at least 1.")
    if not (isinstance(scale, Real) and math.isfinite(scale)):
        raise Refusal(
            f"The guidance scale must be a finite number, and {scale!r} is not; "
            "1 samples the model as it was trained."
        )
    return resolved


def check_place(
    start: float, total: float | None, seconds: float, tolerance: float
) -> tuple[float, float]:
    """`start` and `total` of music that lasts `seconds`; raises `Refusal` where they do not fit.

    `total` may end up to `tolerance` seconds before the music does.
    """
    if not (isinstance(start, Real) and 0 <= start < math.inf):
        raise Refusal(f"Nothing starts {start!r} seconds into a piece; give a number, at least 0.")
    end = start + seconds
    if total is None:
        return start, end
    if not (isinstance(total, Real) and end - tolerance <= total < math.inf):
        raise Refusal(
            f"A piece of {total!r} seconds in total ends before the generated music, "
            f"at {end:.2f} s; give at least that."
        )
    return start, total


@runtime_checkable
class Conditioner(Protocol):
    """What the options need of a model's conditioner."""

    names: Sequence[str]
    null_rate: float

    def given(self, value: Any) -> dict[str, float]: ...


def condition_values(
    conditioners: Mapping[str, Conditioner], given: Any
) -> dict[str, dict[str, float]]:
    """The values of the model's conditioners, without "timing", for what a person gives by name.

    Raises `Refusal` for a name that the model does not have, for a value that makes no sense, and
    where a value is missing that every example had in training.
    """
    if not isinstance(given, Mapping):
        raise Refusal(f"Conditions are values by name, like {{'tempo': 120}}; {given!r} is not.")
    others = {name: each for name, each in conditioners.items() if name != "timing"}
    if unknown := given.keys() - others.keys():
        raise Refusal(
            f"This model has no condition {', '.join(map(repr, sorted(unknown)))}; it has "
            f"{', '.join(others) or 'none'} (unet.conditioning)."
        )
    values = {}
    for name, conditioner in others.items():
        if name in given:
            values[name] = conditioner.given(given[name])
        elif conditioner.null_rate > 0:
            values[name] = dict.fromkeys(conditioner.names, math.nan)
        else:
            raise Refusal(
                f"This model was trained with the condition {name!r} in every example; give it a "
                "value."
            )
    return values


def check_seed(seed: Any) -> None:
    if not (isinstance(seed, int | np.integer) and 0 <= seed < 2**32):
        raise Refusal(f"{seed!r} is not a seed; give a whole number from 0 to {2**32 - 1}.")


def check_numbers(diffusion: Mapping[str, Any]) -> None:
    """Refuses numbers of the section `diffusion` with which nothing can be sampled."""
    times = diffusion["guidance_interval"]
    numbers = len(times) == 2 and all(isinstance(time, Real) for time in times)
    if not numbers or not 0 <= times[0] < times[1] <= 1:
        raise Refusal(
            f"diffusion.guidance_interval is two rising times within 0 and 1; {times} is not."
        )
    if diffusion["reference_frames"] < 0:
        raise Refusal(
            "diffusion.reference_frames is a number of frames, or 0 for none; "
            f"{diffusion['reference_frames']} is not."
        )
    if diffusion["sample_steps"] < 1:
        raise Refusal(
            f"diffusion.sample_steps must be at least 1; {diffusion['sample_steps']} is not."
        )
    for name, most in (("guidance_rescale", 1), ("guidance_limit", math.inf)):
        check_range(diffusion, name, most)


def check_range(diffusion: Mapping[str, Any], name: str, most: float) -> None:
    """Refuses a field of the section `diffusion` that is not between 0 and `most`."""
    if not 0 <= diffusion[name] <= most:
        raise Refusal(
            f"diffusion.{name} must lie between 0 and {most}; {diffusion[name]} does not."
        )
