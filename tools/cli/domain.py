"""A ROS domain in which nobody on this machine is."""

from collections.abc import Iterable
from pathlib import Path

# above that, DDS ports run into those that the kernel hands out
DOMAIN_IDS = range(1, 101)
PORT_BASE, DOMAIN_ID_GAIN = 7400, 250  # of domain 0, and how many each domain has (RTPS 9.6.1.1)
UDP_SOCKET_TABLES = (Path('/proc/net/udp'), Path('/proc/net/udp6'))


def find_free_domain(seed: int, tables: Iterable[Path] = UDP_SOCKET_TABLES) -> int:
    """Return a domain none of whose ports is open, `seed` says where to begin to look.

    Programs that start at the same moment do not see each other yet: give each its own seed,
    the process number for example. Where all domains are taken, the first one looked at is it.
    """
    busy = find_used_domains(tables)
    order = [DOMAIN_IDS[(seed + i) % len(DOMAIN_IDS)] for i in range(len(DOMAIN_IDS))]
    return next((domain for domain in order if domain not in busy), order[0])


def find_used_domains(tables: Iterable[Path] = UDP_SOCKET_TABLES) -> set[int]:
    """Return the domains in which a UDP port is open."""
    lines = [
        line.split()
        for table in tables
        if table.is_file()
        for line in table.read_text().splitlines()[1:]
    ]
    ports = [int(words[1].rpartition(':')[2], 16) for words in lines if len(words) > 1]
    return {(port - PORT_BASE) // DOMAIN_ID_GAIN for port in ports}
