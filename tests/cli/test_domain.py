"""Which ROS domain a test run gets."""

import socket

from cli import domain


def test_a_domain_with_an_open_port_is_passed_over():
    seed = domain.free(0) - domain.DOMAINS.start
    first = domain.free(seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(('127.0.0.1', domain.FIRST_PORT + domain.PORTS * first + 10))
        assert first in domain.taken()
        assert domain.free(seed) not in {first, *domain.taken()}


def test_seeds_lead_to_different_domains_within_the_range():
    found = {domain.free(seed, tables=()) for seed in range(1000)}
    assert found == set(domain.DOMAINS)


def test_where_all_are_taken_there_still_is_one(tmp_path):
    table = tmp_path / 'udp'
    ports = [domain.FIRST_PORT + domain.PORTS * number for number in domain.DOMAINS]
    table.write_text('header\n' + ''.join(f'1: 00000000:{port:04X} 0:0\n' for port in ports))
    assert domain.taken([table]) == set(domain.DOMAINS)
    assert domain.free(7, [table]) == domain.DOMAINS[7]
