"""The list of breakages in benchmarks/mutants.py is that of the code as it is."""

import pytest

from benchmarks.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_breaks_one_line_and_names_a_test(name):
    mutant = MUTANTS[name]
    assert (ROOT / mutant.file).read_text().count(
        mutant.before
    ) == 1 and mutant.before != mutant.after
    file, _, test = mutant.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).is_file()
