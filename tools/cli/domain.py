"""A ROS domain in which nobody on this machine is."""

from collections.abc import Iterable
from pathlib import Path

# above that, DDS ports run into those that the kernel hands out
DOMAINS = range(1, 101)
FIRST_PORT, PORTS = 7400, 250  # of domain 0, and how many each domain has (RTPS 9.6.1.1)
SOCKETS = (Path('/proc/net/udp'), Path('/proc/net/udp6'))


def free(seed: int, tables: Iterable[Path] = SOCKETS) -> int:
    """Return a domain none of whose ports is open, `seed` says where to begin to look.

    Programs that start at the same moment do not see each other yet: give each its own seed,
    the process number for example. Where all domains are taken, the first one looked at is it.
    """
    busy = taken(tables)
    order = [DOMAINS[(seed + i) % len(DOMAINS)] for i in range(len(DOMAINS))]
    return next((domain for domain in order if domain not in busy), order[0])


def taken(tables: Iterable[Path] = SOCKETS) -> set[int]:
    """Return the domains in which a UDP port is open."""
    lines = [
        line.split()
        for table in tables
        if table.is_file()
        for line in table.read_text().splitlines()[1:]
    ]
    ports = [int(words[1].rpartition(':')[2], 16) for words in lines if len(words) > 1]
    return {(port - FIRST_PORT) // PORTS for port in ports}
