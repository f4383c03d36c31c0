"""The recurrent state-space model: distributions, gradients, published constants."""

from dataclasses import replace

import pytest
import torch

from wam_learning.latent_world_model.rssm import (
    FREE_NATS,
    RecurrentStateSpaceModel,
    RssmConfig,
    RssmState,
    compute_kl_losses,
    mix_uniform,
    sample_straight_through,
    symexp,
    symlog,
)

SMALL = RssmConfig(hidden=6, groups=3, classes=4, layer_width=8)


def test_shapes():
    model = RecurrentStateSpaceModel(SMALL, action_dim=2, embedding_dim=5)
    state = model.make_initial_state(7, torch.zeros(1))
    hidden = model.advance(state, torch.randn(7, 2))
    posterior = model.infer_posterior(hidden, torch.randn(7, 5))
    assert hidden.shape == (7, 6) and posterior.shape == (7, 3, 4)
    assert model.predict_prior(hidden).shape == (7, 3, 4)
    assert RssmState(hidden, sample_straight_through(posterior, None)).features().shape == (7, 18)


@pytest.mark.parametrize('change', [{'hidden': 0}, {'classes': 1}])
def test_sizes_that_make_no_model_are_refused(change):
    with pytest.raises(ValueError, match='want sizes from 1 and 2 classes or more'):
        replace(SMALL, **change)


def test_no_class_is_impossible():
    logits = torch.tensor([[100.0, 0.0, 0.0, 0.0]])
    probs = mix_uniform(logits, 0.01).exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(1))
    torch.testing.assert_close(probs[0], torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]))


def test_samples_are_one_hot_follow_the_probabilities_and_pass_gradients_to_them():
    logits = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    log_probs = mix_uniform(logits.expand(20_000, 1, 3))
    uniform = torch.rand(20_000, 1, 3, generator=torch.Generator().manual_seed(0))
    sample = sample_straight_through(log_probs, uniform)
    assert set(sample.detach().unique().round(decimals=4).tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(sample.mean(0), log_probs[0, 0].exp(), atol=0.01, rtol=0)
    worth = torch.tensor([1.0, 2.0, 5.0])
    (given,) = torch.autograd.grad((sample * worth).sum(-1).mean(), logits)
    (wanted,) = torch.autograd.grad((mix_uniform(logits).exp() * worth).sum(), logits)
    torch.testing.assert_close(given, wanted)  # as if the probabilities were the sample
    likeliest = sample_straight_through(log_probs[:1], None)
    assert likeliest[0].tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_each_half_of_the_divergence_moves_one_distribution_towards_the_other():
    torch.manual_seed(0)
    start = {name: torch.randn(1, 3, 4) * 3 for name in ('posterior', 'prior')}

    def compute(which):
        logits = {name: x.clone().requires_grad_() for name, x in start.items()}
        kl = compute_kl_losses(*(mix_uniform(logits[name]) for name in ('posterior', 'prior')))
        getattr(kl, which).sum().backward()
        return *(x.item() for x in kl), logits

    before, same, logits = compute('dynamics')
    assert before == same > FREE_NATS
    assert logits['posterior'].grad is None and logits['prior'].grad.abs().max() > 0
    moved = mix_uniform(start['prior'] - 0.1 * logits['prior'].grad)
    assert float(compute_kl_losses(mix_uniform(start['posterior']), moved)[0]) < before
    _, _, logits = compute('representation')
    assert logits['prior'].grad is None and logits['posterior'].grad.abs().max() > 0
    moved = mix_uniform(start['posterior'] - 0.1 * logits['posterior'].grad)
    assert float(compute_kl_losses(moved, mix_uniform(start['prior']))[0]) < before


def test_below_the_free_nats_nothing_moves():
    logits = torch.tensor([[[0.1, 0.0, 0.0]]], requires_grad=True)
    kl = compute_kl_losses(mix_uniform(logits), mix_uniform(torch.zeros(1, 1, 3)))
    assert kl.dynamics.tolist() == [FREE_NATS]
    kl.representation.sum().backward()
    assert logits.grad.abs().max() == 0


def test_symlog_and_its_inverse():
    x = torch.tensor([-100.0, -1.0, 0.0, 0.5, 1e4])
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert float(symlog(torch.tensor(torch.e - 1))) == pytest.approx(1.0)
