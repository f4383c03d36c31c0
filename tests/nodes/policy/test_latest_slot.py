from threading import Thread

import pytest

from wam_policy.nodes.policy.inference_loop import LatestSlot


def test_newest_wins_and_losses_are_counted():
    slot = LatestSlot()
    assert slot.take() is None
    for item in 'abc':
        slot.put(item)
    assert slot.take() == 'c' and slot.take() is None
    assert slot.dropped == 2


def test_none_is_no_item():
    with pytest.raises(ValueError, match='None'):
        LatestSlot().put(None)


def test_two_threads_lose_nothing_uncounted():
    slot, taken, count = LatestSlot(), [], 20_000

    def put_all():
        for i in range(1, count + 1):
            slot.put(i)

    thread = Thread(target=put_all)
    thread.start()
    while thread.is_alive():
        if (item := slot.take()) is not None:
            taken.append(item)
    thread.join()
    if (item := slot.take()) is not None:
        taken.append(item)
    assert taken == sorted(taken) and taken[-1] == count
    assert len(taken) + slot.dropped == count
