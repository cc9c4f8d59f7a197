"""What every kind of conditioning has in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.conditioning import Conditioner, conditioner
from jen1_jax.conditioning.conditioner import check_fields, embed, leave_out
from jen1_numpy.errors import Refusal


class Tempo(Conditioner):
    names, fields, null_rate = ("tempo",), ("meta",), 0.25

    def features(self, values):
        return jnp.stack([values["tempo"], jnp.log(values["tempo"])], axis=-1)


def test_an_unknown_value_gives_a_vector_of_zeros_and_a_known_one_its_features():
    tempo = np.float32([100, np.nan, 80])
    found = jax.jit(lambda tempo: embed({"tempo": Tempo()}, {"tempo": {"tempo": tempo}}))(tempo)
    expected = [[100, np.log(100)], [0, 0], [80, np.log(80)]]
    np.testing.assert_allclose(found["tempo"], expected, rtol=1e-6)


class Flat(Tempo):
    def features(self, values):
        return values["tempo"]  # of the shape [batch]


def test_features_that_are_no_vector_for_each_example_are_refused():
    with pytest.raises(Refusal, match=r"'flat' gives features of the shape \(3,\)"):
        embed({"flat": Flat()}, {"flat": {"tempo": np.ones(3, np.float32)}})


def test_no_gradient_is_nan_where_a_value_is_unknown():
    """A gradient by the weights that read the vectors, as in training."""
    conditions = {"tempo": {"tempo": np.float32([np.nan, 90])}}
    loss = lambda weight: (embed({"tempo": Tempo()}, conditions)["tempo"] @ weight).sum()
    assert np.isfinite(jax.grad(loss)(jnp.ones(2))).all()


def test_values_are_left_out_at_the_null_rate_and_independently_of_other_conditioners():
    values = {"tempo": jnp.ones(4000)}
    one, other = (
        np.isnan(leave_out(jax.random.key(0), name, Tempo(), values)["tempo"])
        for name in ("tempo", "other")
    )
    assert 0.22 < one.mean() < 0.28 and 0.05 < (one & other).mean() < 0.08


def test_a_conditioner_without_a_window_keeps_its_values():
    conditions = {"tempo": {"tempo": np.ones(2)}}
    part = np.float32([1, 2]), np.float32([3, 4])
    assert conditioner.window({"tempo": Tempo()}, conditions, *part) == conditions


def test_data_without_a_field_are_refused_by_its_name():
    check_fields({"tempo": Tempo()}, ["caption", "meta"], "DATA")
    with pytest.raises(Refusal, match="'tempo', which needs the fields meta, and DATA lacks"):
        check_fields({"tempo": Tempo()}, ["caption"], "DATA")
