"""The conformance table as a test: no difference that is not listed."""

from __future__ import annotations

import pytest

from tests.conformance.corpus import cases, default_directory
from tests.conformance.run import listed, run

CASES = cases(default_directory())

pytestmark = pytest.mark.skipif(
    not CASES, reason=f"no corpus in {default_directory()}; TANDEM_CORPUS says where it is"
)


@pytest.mark.parametrize("protocol", sorted({c.protocol for c in CASES}))
def test_every_golden_record_is_decoded_field_by_field(protocol):
    outcomes = [run(c, listed()) for c in CASES if c.protocol == protocol]
    failed = {o.case.name: o.failure or o.unlisted[:5] for o in outcomes if not o.passed}
    assert not failed
    assert sum(o.flows.compared for o in outcomes) > 0


def test_the_list_of_deviations_has_nothing_that_is_not_met():
    known = listed()
    for case in CASES:
        if any(case.name.startswith(k.capture.split("*")[0]) for k in known):
            run(case, known)
    assert [k for k in known if not k.met] == []
