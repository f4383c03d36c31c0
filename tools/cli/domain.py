"""Find a ROS domain that no program on this machine uses."""

from collections.abc import Iterable
from pathlib import Path

# ports of higher domains overlap with the kernel's ephemeral ports
DOMAIN_IDS = range(1, 101)
PORT_BASE, DOMAIN_ID_GAIN = 7400, 250  # first port of domain 0, ports per domain (RTPS 9.6.1.1)
UDP_SOCKET_TABLES = (Path('/proc/net/udp'), Path('/proc/net/udp6'))


def find_free_domain(seed: int, tables: Iterable[Path] = UDP_SOCKET_TABLES) -> int:
    """Return a domain without an open port, searching from an offset given by `seed`.

    Programs that start at the same time do not see each other's ports: use different seeds, for
    example the process id. If all domains are in use, returns the first one searched.
    """
    busy = find_used_domains(tables)
    order = [DOMAIN_IDS[(seed + i) % len(DOMAIN_IDS)] for i in range(len(DOMAIN_IDS))]
    return next((domain for domain in order if domain not in busy), order[0])


def find_used_domains(tables: Iterable[Path] = UDP_SOCKET_TABLES) -> set[int]:
    """Return the domains with an open UDP port."""
    lines = [
        line.split()
        for table in tables
        if table.is_file()
        for line in table.read_text().splitlines()[1:]
    ]
    ports = [int(words[1].rpartition(':')[2], 16) for words in lines if len(words) > 1]
    return {(port - PORT_BASE) // DOMAIN_ID_GAIN for port in ports}
