"""Options get their defaults in one place, and what cannot be used is refused by name."""

import argparse

import numpy as np
import pytest

from configs.jen1 import get_config
from jen1_jax import cli
from jen1_jax.conditioning import Conditioner
from jen1_numpy.errors import Refusal
from jen1_numpy.options import (
    AudioOptions,
    SamplingOptions,
    check_place,
    check_seed,
    condition_values,
    resolve,
)

DEFAULTS = dict(get_config().diffusion)


def test_options_left_out_or_none_have_the_runs_values():
    expected = {
        "negative_prompt": "",
        "steps": DEFAULTS["sample_steps"],
        "guidance_scale": DEFAULTS["guidance_scale"],
        "start": 0.0,
        "total": None,
        "conditions": {},
        "noise": None,
    }
    assert resolve({}, DEFAULTS) == expected
    assert resolve(dict.fromkeys(expected), DEFAULTS) == expected
    assert resolve({"steps": 3}, DEFAULTS) == expected | {"steps": 3}
    with_audio = resolve({}, DEFAULTS, AudioOptions)
    assert with_audio == expected | {"sample_rate": None}


def test_an_unknown_option_is_a_type_error_that_lists_the_options():
    with pytest.raises(TypeError, match=r"'guidance' .* guidance_scale, .*, noise, start"):
        resolve({"guidance": 3.0}, DEFAULTS)
    with pytest.raises(TypeError, match="'sample_rate'"):  # only where audio is given
        resolve({"sample_rate": 48_000}, DEFAULTS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "0 steps"),
        ({"steps": 2.5}, "2.5 steps"),
        ({"steps": "4"}, "'4' steps"),
        ({"guidance_scale": "2"}, "scale must be a finite number, and '2' is not"),
        ({"guidance_scale": float("nan")}, "scale must be a finite number, and nan is not"),
        ({"negative_prompt": ["slow noise"]}, "one negative prompt"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(Refusal, match=message):
        resolve(options, DEFAULTS)


@pytest.mark.parametrize(
    "start, total, message",
    [
        (-1, None, "Nothing starts -1 seconds"),
        ("1", None, "Nothing starts '1' seconds"),
        (float("inf"), None, "Nothing starts inf seconds"),
        (5, 4, "4 seconds in total ends before the generated music, at 5.10 s"),
        (0, float("nan"), "nan seconds in total"),
        (0, "60", "'60' seconds in total"),
    ],
)
def test_places_outside_the_piece_are_refused(start, total, message, unchecked):
    with pytest.raises(Refusal, match=message):
        check_place(start, total, 0.1, tolerance=0.01)


def test_a_piece_lasts_at_least_until_the_music_ends():
    assert check_place(2.0, None, 0.5, tolerance=0.01) == (2.0, 2.5)
    assert check_place(2.0, 60.0, 0.5, tolerance=0.01) == (2.0, 60.0)
    assert check_place(2.0, 2.495, 0.5, tolerance=0.01) == (2.0, 2.495)


@pytest.mark.parametrize("seed", [1.5, -1, 2**32, "first", None])
def test_seeds_that_are_no_whole_number_of_32_bits_are_refused(seed, unchecked):
    with pytest.raises(Refusal, match="is not a seed; give a whole number"):
        check_seed(seed)


@pytest.mark.parametrize("command", ["generate", "inpaint", "extend", "vary"])
def test_the_command_line_has_every_option(command):
    [commands] = [
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    names = {action.dest for action in commands.choices[command]._actions}
    assert names >= SamplingOptions.__annotations__.keys()


class Tempo(Conditioner):
    names = fields = ("tempo",)

    def given(self, value):
        return {"tempo": float(value)}


def test_conditions_are_given_left_out_where_training_did_so_and_refused_otherwise():
    always, sometimes = Tempo(), Tempo()
    sometimes.null_rate = 0.1
    assert condition_values({"tempo": always}, {"tempo": 90}) == {"tempo": {"tempo": 90.0}}
    assert np.isnan(condition_values({"tempo": sometimes}, {})["tempo"]["tempo"])
    with pytest.raises(Refusal, match="condition 'tempo' in every example"):
        condition_values({"tempo": always}, {})
    with pytest.raises(Refusal, match="no condition 'key'; it has tempo"):
        condition_values({"tempo": sometimes}, {"key": "C"})
    for wrong in (120, None, "tempo=120", [("tempo", 120)]):
        with pytest.raises(Refusal, match="Conditions are values by name"):
            condition_values({"tempo": sometimes}, wrong)
