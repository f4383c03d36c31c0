"""Which ROS domain a test run gets."""

import socket

from cli import domain


def test_a_domain_with_an_open_port_is_passed_over():
    seed = domain.find_free_domain(0) - domain.DOMAIN_IDS.start
    first = domain.find_free_domain(seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(('127.0.0.1', domain.PORT_BASE + domain.DOMAIN_ID_GAIN * first + 10))
        assert first in domain.find_used_domains()
        assert domain.find_free_domain(seed) not in {first, *domain.find_used_domains()}


def test_seeds_lead_to_different_domains_within_the_range():
    found = {domain.find_free_domain(seed, tables=()) for seed in range(1000)}
    assert found == set(domain.DOMAIN_IDS)


def test_where_all_are_taken_there_still_is_one(tmp_path):
    table = tmp_path / 'udp'
    ports = [domain.PORT_BASE + domain.DOMAIN_ID_GAIN * number for number in domain.DOMAIN_IDS]
    table.write_text('header\n' + ''.join(f'1: 00000000:{port:04X} 0:0\n' for port in ports))
    assert domain.find_used_domains([table]) == set(domain.DOMAIN_IDS)
    assert domain.find_free_domain(7, [table]) == domain.DOMAIN_IDS[7]
