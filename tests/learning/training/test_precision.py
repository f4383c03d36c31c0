"""Half precision is used where it is computed, not imitated."""

import pytest
import torch

from wam_learning.training.precision import BF16_CAPABILITIES, has_native_bf16


@pytest.mark.parametrize('has', [None, *BF16_CAPABILITIES, 'avx2'])
def test_a_cpu_has_it_or_not(monkeypatch, has) -> None:
    found = {} if has is None else {'avx512_bf16': False, has: True}
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: found, raising=False)
    assert has_native_bf16(torch.device('cpu')) == (has in BF16_CAPABILITIES)


def test_where_nobody_knows_it_is_not_used(monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    assert not has_native_bf16(torch.device('cpu'))
    assert not has_native_bf16(torch.device('meta'))
