"""Seeds of the sampling noise: which queries share them, and that they repeat."""

import pytest

from wam_policy.core.session.model_requests import NEW_NOISE, NoiseSeeds


def draw_seeds(new_noise: str, seed: int = 3, sessions: int = 5, queries: int = 6):
    """Return the seeds of some sessions, one list each."""
    seeds, found = NoiseSeeds(seed, new_noise), []
    for _ in range(sessions):
        seeds.on_reset()
        found.append([seeds.next_seed() for _ in range(queries)])
    return found


def test_a_session_has_noise_of_its_own() -> None:
    found = draw_seeds('session')
    assert all(len(set(one)) == 1 for one in found)
    assert len({one[0] for one in found}) == 5


def test_each_query_may_have_noise_of_its_own() -> None:
    assert len({seed for one in draw_seeds('query') for seed in one}) == 30


def test_noise_may_stay_the_same() -> None:
    assert {seed for one in draw_seeds('never') for seed in one} == {3}


@pytest.mark.parametrize('new_noise', NEW_NOISE)
def test_equal_seeds_repeat_and_fit_the_protocol(new_noise) -> None:
    found = draw_seeds(new_noise)
    assert found == draw_seeds(new_noise)
    assert all(0 <= seed < 2**31 for one in found for seed in one)
    assert new_noise == 'never' or found != draw_seeds(new_noise, seed=4)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="'always': want one of session, query, never"):
        NoiseSeeds(0, 'always')
