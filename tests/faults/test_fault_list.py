"""Every fault of tests/faults/run.py can still be made."""

from __future__ import annotations

import pytest

from faults.run import FAULTS, REPOSITORY, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_that_it_changes_is_there_once(fault: Fault) -> None:
    assert (REPOSITORY / "dydist" / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    tests = [word for word in fault.tests.split() if word.startswith("tests/")]
    assert all((REPOSITORY / word).exists() for word in tests)
