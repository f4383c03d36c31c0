"""Steps follow the wall clock; a machine that is too slow slows simulated time openly."""

from hypothesis import given
from hypothesis import strategies as st

from wam_sim.pacer import MAX_LAG_NS, Pacer

STEP_NS = 2_000_000


def test_no_step_is_due_before_its_time() -> None:
    pacer = Pacer(STEP_NS, 1_000)
    assert pacer.count_due_steps(1_000) == 0
    assert pacer.count_due_steps(1_000 + STEP_NS - 1) == 0
    assert pacer.count_due_steps(1_000 + STEP_NS) == 1
    assert pacer.count_due_steps(1_000 + 5 * STEP_NS) == 5
    assert pacer.wait_s(1_000, 5) == 5 * STEP_NS / 1e9


@given(st.lists(st.integers(0, 30_000_000), min_size=1, max_size=200))
def test_short_stalls_are_caught_up_exactly(waits_ns: list[int]) -> None:
    pacer, wall_ns, steps = Pacer(STEP_NS, 0), 0, 0
    for wait_ns in waits_ns:
        wall_ns += wait_ns
        due = pacer.count_due_steps(wall_ns)
        steps += due
        pacer.record_steps(due, wall_ns)
        assert pacer.drop_excess_lag(wall_ns) == 0
        assert steps == wall_ns // STEP_NS


def test_a_slow_machine_gives_time_up_and_says_so() -> None:
    """Half speed: no growing debt, and the real-time factor is one half."""
    pacer, wall_ns = Pacer(STEP_NS, 0), 0
    for _ in range(4000):
        steps = min(pacer.count_due_steps(wall_ns), 5)
        wall_ns += steps * 2 * STEP_NS or STEP_NS
        pacer.record_steps(steps, wall_ns)
        pacer.drop_excess_lag(wall_ns)
        assert pacer.count_due_steps(wall_ns) * STEP_NS <= MAX_LAG_NS + 2 * STEP_NS
    assert abs(pacer.real_time_factor - 0.5) < 0.01
    assert pacer.dropped_ns > 0.4 * wall_ns
