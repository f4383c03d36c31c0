"""Whether the machine or the code is to blame: what a watching program saw decides."""

import time

import pytest

from tests.machine import MachineMonitor, MachineSample, describe_shortage

IDLE_SAMPLES = [MachineSample(at_s, 1e-4, 0.010, 7.0) for at_s in range(1, 11)]


@pytest.mark.parametrize(
    'sample, words',
    [
        (lambda at_s: MachineSample(at_s, 0.5, 0.010, 7.0), 'waited for 50% of the time'),
        (lambda at_s: MachineSample(at_s, 1e-4, 0.040, 7.0), 'took 4.0 times as long'),
        (
            lambda at_s: MachineSample(at_s, 1e-4, 0.010, 7.0 + 0.5 * (at_s - 11)),
            'held up everything',
        ),
    ],
)
def test_what_was_lacking_is_told(sample, words) -> None:
    samples = IDLE_SAMPLES + [sample(at_s) for at_s in range(11, 21)]
    assert words in describe_shortage(samples, 10.5)
    assert not describe_shortage(samples, 21.5)


def test_a_quiet_machine_lacks_nothing() -> None:
    assert not describe_shortage(IDLE_SAMPLES, 0.0)
    assert not describe_shortage([], 0.0)


def test_it_is_watched_from_a_process_of_its_own() -> None:
    watched = MachineMonitor()
    try:
        assert not watched.describe_shortage(0.0)  # nothing to read yet
        time.sleep(2.5)
        assert isinstance(watched.describe_shortage(0.0), str)
        assert len(watched._samples) >= 1
        assert all(0.0 < sample.work_s < 1.0 for sample in watched._samples)
    finally:
        watched.close()
    assert watched._process.returncode is not None
