"""The examples in docs/ do what the text beside them says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax import tasks
from jen1_jax.config import load_config


@pytest.mark.slow
def test_the_fourth_task_of_the_worked_example_is_drawn(tmp_path):
    known = list(tasks.TASKS)
    text = Path(__file__).parents[1].joinpath("docs/extending.md").read_text()
    file = tmp_path / "outpainting.py"
    file.write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    try:
        config = load_config(str(file), {})
        drawn = tasks.draw(jax.random.key(0), jnp.full(20, 30), 32, 0, config.tasks)
    finally:
        for name in set(tasks.TASKS) - set(known):
            del tasks.TASKS[name]
    mask = np.asarray(drawn.mask[..., 0])[np.asarray(drawn.task) == len(known)]
    assert len(mask) == 4  # its share of 20, beside text-to-music's two
    for row in mask:
        given = np.flatnonzero(row)
        assert (
            (np.diff(given) == 1).all() and given[0] > 0 and given[-1] < 29 and not row[30:].any()
        )
        assert 0.2 - 2 / 30 <= 1 - len(given) / 30 <= 0.8
