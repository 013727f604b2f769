"""RankMixer, its sparse experts, and DLRM-MLP against what the papers write down."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemur_mini.baselines import DlrmMlp
from lemur_mini.config import Config
from lemur_mini.model import RANKERS
from lemur_mini.ranker import (
    FeatureTokens,
    PerTokenFeedForward,
    PerTokenLinear,
    RankMixer,
    RankMixerBlock,
    SparseExperts,
    mix,
)

B, T, D, K, E = 5, 4, 8, 2, 3
GROUPS = {"user": 3, "item": 5, "query": 2}
CONFIG = Config(token_width=D, ranker_layers=2, ranker_expansion=K, mlp=(6, 4))


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


def features(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g: torch.randn(B, n, generator=generator) for g, n in GROUPS.items()}


def built(module: nn.Module) -> nn.Module:
    """The module with every weight drawn anew, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return module


def linear(layer: PerTokenLinear, token: int) -> nn.Linear:
    """The plain layer that a per-token layer holds for one token."""
    plain = nn.Linear(*layer.weight.shape[1:])
    plain.weight.data = layer.weight[token].T
    plain.bias.data = layer.bias[token, 0]
    return plain


# --- RankMixer -----------------------------------------------------------------------


def test_mixing_gives_new_token_h_head_h_of_all_tokens():
    x, width = tokens(), D // T
    got = mix(x)
    assert got.shape == (B, T, D)
    for b in range(B):
        for h in range(T):
            for t in range(T):
                for i in range(width):
                    assert got[b, h, t * width + i] == x[b, t, h * width + i]


def test_mixing_twice_gives_the_tokens_back():
    assert torch.equal(mix(mix(tokens())), tokens())
    assert not torch.equal(mix(tokens()), tokens())


def test_per_token_feed_forward_is_one_plain_layer_for_each_token():
    layer, x = built(PerTokenFeedForward(T, D, K)), tokens()
    got = layer(x)
    for t in range(T):
        up, down = linear(layer.up, t), linear(layer.down, t)
        assert up.out_features == K * D
        torch.testing.assert_close(got[:, t], down(F.gelu(up(x[:, t]))))


def test_block_normalises_after_each_residual():
    """S = LN(Mix(X) + X), X' = LN(PFFN(S) + S)"""
    block, x = built(RankMixerBlock(T, D, K, experts=0)), tokens()
    first, second = block.norms
    s = first(mix(x) + x)
    torch.testing.assert_close(block(x), second(block.feed_forward(s) + s))


def test_a_fresh_block_gives_tokens_of_mean_zero_and_variance_one():
    out = RankMixerBlock(T, D, K, experts=0)(7 + 3 * tokens())
    torch.testing.assert_close(out.mean(-1), torch.zeros(B, T), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        out.var(-1, correction=0), torch.ones(B, T), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("count", "width", "wanted"), [(3, 8, 4), (4, 8, 4), (5, 8, 8), (5, 12, 6)]
)
def test_constant_tokens_fill_up_to_a_divisor_of_the_width(count, width, wanted):
    groups = {f"g{i}": i + 1 for i in range(count)}
    layer = built(FeatureTokens(groups, width))
    given = {g: torch.randn(B, n) for g, n in groups.items()}
    out = layer(given)
    assert out.shape == (B, wanted, width) and layer.count == wanted
    for t, (group, value) in enumerate(given.items()):
        torch.testing.assert_close(out[:, t], layer.project[group](value))
    for t in range(count, wanted):
        assert torch.equal(out[:, t], layer.constant[t - count].expand(B, -1))


def test_rankmixer_pools_the_blocks_and_reads_a_logit():
    model = built(RankMixer(GROUPS, CONFIG))
    x = model.tokens(features())
    assert len(model.blocks) == CONFIG.ranker_layers
    for block in model.blocks:
        x = block(x)
    pooled = sum(x[:, t] for t in range(T)) / T
    torch.testing.assert_close(model(features()), model.logit(pooled)[:, 0])


def test_parameters_are_close_to_the_papers_count():
    """# ~ 2 k L T D^2"""
    layers, width, expansion, count = 3, 64, 2, 8
    groups = {f"g{i}": 4 for i in range(count)}
    config = CONFIG.replace(
        ranker_layers=layers, token_width=width, ranker_expansion=expansion
    )
    found = sum(p.numel() for p in RankMixer(groups, config).blocks.parameters())
    paper = 2 * expansion * layers * count * width**2
    assert 1.0 < found / paper < 1.05


@pytest.mark.parametrize("name", RANKERS)
def test_every_feature_group_reaches_the_logit(name):
    model = built(RANKERS[name](GROUPS, CONFIG))
    before = model(features())
    assert before.shape == (B,)
    for group in GROUPS:
        changed = features() | {group: features()[group] + 1}
        assert (model(changed) != before).all(), group


@pytest.mark.parametrize("name", RANKERS)
def test_samples_of_a_batch_do_not_mix(name):
    model = built(RANKERS[name](GROUPS, CONFIG))
    alone = {g: x[2:3] for g, x in features().items()}
    torch.testing.assert_close(model(features())[2:3], model(alone))


# --- sparse mixture of experts -------------------------------------------------------


def test_sparse_experts_serve_the_papers_sum():
    """G = ReLU(h(s)), out = sum_j G_j e_j(s); closed gates cost nothing."""
    layer, x = built(SparseExperts(T, D, K, E)).eval(), tokens()
    got, closed = layer(x), 0
    opinions = [expert(x) for expert in layer.experts]
    for t in range(T):
        router = linear(layer.inference_router, t)
        for b in range(B):
            wanted = torch.zeros(D)
            for j, gate in enumerate(router(x[b, t]).tolist()):
                closed += gate <= 0
                wanted += max(gate, 0.0) * opinions[j][b, t]
            torch.testing.assert_close(got[b, t], wanted, rtol=1e-4, atol=1e-5)
    assert 0 < closed < B * T * E


def test_the_training_router_is_not_used_for_serving():
    layer, x = built(SparseExperts(T, D, K, E)), tokens()
    served, trained = layer.eval()(x), layer.train()(x)
    nn.init.constant_(layer.train_router.bias, 5.0)
    assert torch.equal(layer.eval()(x), served)
    assert not torch.allclose(layer.train()(x), trained)


def test_both_routers_learn_from_the_task():
    layer = built(SparseExperts(T, D, K, E)).train()
    layer(tokens()).square().mean().backward()
    for router in (layer.train_router, layer.inference_router):
        assert (router.weight.grad.abs().sum(dim=(1, 2)) > 0).all()  # every token


def test_the_l1_penalty_reaches_the_inference_router_alone():
    model = built(RankMixer(GROUPS, CONFIG.replace(experts=E))).train()
    model(features())
    model.penalty().backward()
    last = model.blocks[-1].feed_forward  # what lies before it also feeds its router
    assert last.inference_router.weight.grad.abs().sum() > 0
    untouched = [last.train_router, *last.experts]
    assert all(p.grad is None for m in untouched for p in m.parameters())


def test_the_penalty_is_the_mean_open_gate_of_all_blocks():
    model = built(RankMixer(GROUPS, CONFIG.replace(experts=E))).train()
    x, gates = model.tokens(features()), []
    for block in model.blocks:
        s = block.norms[0](mix(x) + x)
        gates += block.feed_forward.inference_router(s).clamp(min=0).flatten().tolist()
        x = block(x)
    model(features())
    assert model.penalty().item() == pytest.approx(sum(gates) / len(gates), rel=1e-5)


def test_a_step_down_the_penalty_closes_gates():
    layer, x = built(SparseExperts(T, D, K, E)), tokens()
    layer(x)
    before = layer.penalty
    (slope,) = torch.autograd.grad(before, layer.inference_router.weight)
    layer.inference_router.weight.data -= slope
    layer(x)
    assert layer.penalty < before


@pytest.mark.parametrize("name", RANKERS)
def test_without_experts_there_is_no_penalty(name):
    model = RANKERS[name](GROUPS, CONFIG)
    model(features())
    assert model.penalty().item() == 0


# --- DLRM-MLP ------------------------------------------------------------------------


def test_dlrm_is_concatenation_and_plain_layers():
    model = built(DlrmMlp(GROUPS, CONFIG))
    first, _, second, _, last = model.layers
    assert [m.out_features for m in (first, second, last)] == [*CONFIG.mlp, 1]
    x = torch.cat([features()[g] for g in GROUPS], dim=1)
    for layer in (first, second):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    wanted = (x @ last.weight.T + last.bias)[:, 0]
    torch.testing.assert_close(model(features()), wanted)
