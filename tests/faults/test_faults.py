"""The short form of the fault kit: some trials of each campaign, other ones each run."""

import sys

import helpers
import pytest

from faults import runner
from faults.campaigns import CAMPAIGNS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and /proc")


@pytest.mark.parametrize("name", [name for name, campaign in CAMPAIGNS.items() if campaign.short])
def test_faults(name):
    report = runner.run(name, helpers.SEED, CAMPAIGNS[name].short)
    print("\n".join(runner.table([report])))
    assert not report.faults, "\n\n".join("\n".join(fault) for fault in report.faults[:3])
    assert report.trials() >= CAMPAIGNS[name].short
