"""How far the clocks of sources are from ours, estimated from stamps and arrivals.

The time from a stamp to its arrival is transport plus the offset of the two clocks. Transport
varies and is never negative: the smallest of many is close to the offset. A camera on another
computer whose clock is 0.4 s behind looks like a camera that is always late; here it gets a name.
"""

from collections.abc import Sequence

NS_PER_S = 1_000_000_000
HALF_WINDOW_NS = 5 * NS_PER_S  # an offset is the smallest of the last 5 to 10 s
# What stamps and arrival of a healthy source may be apart: exposure, compression and a network
MAX_DELAY_NS = 150_000_000
MAX_APART_NS = 100_000_000  # cameras of one robot: exposures and compression differ by less
MAX_AHEAD_NS = 5_000_000  # jitter of synchronized clocks
UNSTAMPED_NS = 10 * 365 * 86_400 * NS_PER_S  # ten years: no clock is that wrong, it is not stamped


class ClockOffsets:
    """Keep the smallest delay of each source."""

    def __init__(self) -> None:
        # source -> start of the newer half of the window, its minimum, that of the half before
        self._minima: dict[str, tuple[int, int, int | None]] = {}

    def reset(self) -> None:
        """Forget everything, as after a jump of our clock."""
        self._minima = {}

    def update(self, source: str, stamp_ns: int, arrived_ns: int) -> None:
        """Note a message of `source`."""
        delay_ns = arrived_ns - stamp_ns
        start_ns, newer, older = self._minima.get(source, (arrived_ns, delay_ns, None))
        if not 0 <= arrived_ns - start_ns < 2 * HALF_WINDOW_NS:
            start_ns, newer, older = arrived_ns, delay_ns, None
        elif arrived_ns - start_ns >= HALF_WINDOW_NS:
            start_ns, newer, older = arrived_ns, delay_ns, newer
        self._minima[source] = start_ns, min(newer, delay_ns), older

    def min_delay_ns(self, source: str) -> int | None:
        """Return the smallest time from stamp to arrival lately; None before any message."""
        if source not in self._minima:
            return None
        _, newer, older = self._minima[source]
        return newer if older is None else min(newer, older)

    def describe(self, source: str) -> str:
        """Return what the stamps of `source` say about its clock; empty: nothing unusual."""
        delay_ns = self.min_delay_ns(source)
        return '' if delay_ns is None else describe_delay(delay_ns)

    def find_outlier(self, sources: Sequence[str]) -> str:
        """Return which of `sources` is offset from the others by more than MAX_APART_NS, or ''."""
        delays = {name: self.min_delay_ns(name) for name in sources}
        known = {name: delay_ns for name, delay_ns in delays.items() if delay_ns is not None}
        if len(known) < 2:
            return ''
        middle_ns = sorted(known.values())[(len(known) - 1) // 2]
        name = max(known, key=lambda each: abs(known[each] - middle_ns))
        apart_ns = known[name] - middle_ns
        if abs(apart_ns) <= MAX_APART_NS:
            return ''
        where = 'behind' if apart_ns > 0 else 'ahead of'
        return f'stamps of {name} are {abs(apart_ns) / NS_PER_S:.3f} s {where} the others'


def describe_delay(delay_ns: int) -> str:
    """Return what a smallest delay from stamp to arrival says about a clock; '' if nothing."""
    if abs(delay_ns) > UNSTAMPED_NS:
        return 'its messages are not stamped, or by a clock of another kind (use_sim_time?)'
    if delay_ns > MAX_DELAY_NS:
        return (
            f'its stamps are at least {delay_ns / NS_PER_S:.3f} s old on arrival: the clock of '
            'its source is behind, or its driver is that slow'
        )
    if delay_ns < -MAX_AHEAD_NS:
        return (
            f'its stamps are up to {-delay_ns / NS_PER_S:.3f} s in the future: the clock of its '
            'source is ahead; synchronize the clocks'
        )
    return ''
