"""The short form of the fault kit; scripts/fault_check.py, the long one, tries others each time."""

import os
import sys

import pytest

from faults import runner
from faults.campaigns import CAMPAIGNS

SEED = int(os.environ.get("CNN_TEST_SEED") or 0)  # the same in each run: a change of code alone makes it fail

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and /proc")


@pytest.mark.parametrize("name", [name for name, campaign in CAMPAIGNS.items() if campaign.short])
def test_faults(name):
    report = runner.run(name, SEED, CAMPAIGNS[name].short)
    print("\n".join(runner.table([report])))
    assert not report.faults, "\n\n".join("\n".join(fault) for fault in report.faults[:3])
    assert report.trials() >= CAMPAIGNS[name].short
