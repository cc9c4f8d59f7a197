"""The mutants in benchmarks/mutants.py fit the current code."""

import pytest

from benchmarks.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_changes_code_that_occurs_once_and_names_an_existing_test(name):
    mutant = MUTANTS[name]
    assert (ROOT / mutant.file).read_text().count(mutant.before) == 1
    assert mutant.before != mutant.after
    file, _, test = mutant.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).is_file()
