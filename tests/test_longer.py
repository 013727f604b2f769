"""LONGER: token merge, masks and who sees whom."""

import pytest
import torch
from torch import Tensor, nn

from lemur_mini.config import Config
from lemur_mini.longer import Longer

P, S, L, K, E, D = 3, 2, 8, 2, 4, 8
CONFIG = Config(longer_merge=K, longer_recent=3, history_long=L, history_short=L)


def built(**changes) -> Longer:
    torch.manual_seed(0)
    return Longer(E, D, 2, CONFIG.replace(**changes)).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """target, user, history, mask: a full history, one of three items, an empty one"""
    torch.manual_seed(1)
    mask = torch.zeros(P, L, dtype=torch.bool)
    mask[0], mask[1, :3] = True, True
    return torch.randn(P, S, E), torch.randn(P, E), torch.randn(P, L, E), mask


def attention_sizes(model: Longer, *arguments) -> list[tuple[int, int]]:
    """Number of queries and of keys of every attention in one forward pass."""
    sizes = []
    hooks = [
        block.attention.register_forward_hook(
            lambda _, given, out: sizes.append((given[0].shape[1], given[1].shape[1]))
        )
        for block in (model.cross, model.self_attention)
    ]
    model(*arguments)
    for hook in hooks:
        hook.remove()
    return sizes


def test_token_merge_lays_k_adjacent_items_side_by_side():
    model, (_, _, history, mask) = built(), inputs()
    tokens, valid = model.tokens(history, mask)
    assert tokens.shape == (P, L // K, D)
    for p in range(P):
        for g in range(L // K):
            places = range(g * K, (g + 1) * K)
            items = [
                (history[p, j] + model.position[j]) * mask[p, j].float() for j in places
            ]
            torch.testing.assert_close(tokens[p, g], model.merged(torch.cat(items)))
            assert valid[p, g] == any(mask[p, j] for j in places)


def test_attention_sees_a_kth_of_the_history():
    """L / K merged items and user and cls as keys; targets, user, cls, recent ask."""
    asking, sequence = S + 2 + CONFIG.longer_recent, L // K
    sizes = attention_sizes(built(), *inputs())
    assert sizes[0] == (asking, 2 + sequence)
    assert sizes[1][1] == asking  # then the askers are the keys
    one = attention_sizes(built(longer_merge=1), *inputs())
    assert one[0] == (asking, 2 + L)


def test_inner_transformer_works_inside_one_group():
    """Changing one item changes its own merged token and no other."""
    model, (_, _, history, mask) = built(longer_inner=True), inputs()
    before, _ = model.tokens(history, mask)
    history[0, 2] += 1.0
    after, _ = model.tokens(history, mask)
    changed = (before != after).any(dim=-1)
    assert changed[0].tolist() == [False, True, False, False]
    assert not changed[1:].any()


def test_inner_transformer_is_torchs_on_each_group_of_items():
    model, (_, _, history, mask) = built(longer_inner=True), inputs()
    tokens, _ = model.tokens(history, mask)
    whole = (history + model.position)[0, 2:4]
    wanted = model.merged(model.inner(whole[None])[0].flatten())
    torch.testing.assert_close(tokens[0, 1], wanted)
    half = (history + model.position)[1, 2:3]  # item 3 is padding
    joined = torch.cat([model.inner(half[None])[0, 0], torch.zeros(E)])
    torch.testing.assert_close(tokens[1, 1], model.merged(joined))


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_what_lies_in_the_padding_changes_nothing(inner, training):
    model = built(longer_inner=inner).train(training)
    target, user, history, mask = inputs()
    wanted = model(target, user, history, mask)
    noise = torch.where(mask[..., None], history, torch.full_like(history, 7.0))
    assert wanted.isfinite().all()
    torch.testing.assert_close(model(target, user, noise, mask), wanted)


@pytest.mark.parametrize("inner", [False, True])
def test_longer_padding_changes_nothing(inner):
    model, (target, user, history, mask) = built(longer_inner=inner), inputs()
    short = model(target[1:], user[1:], history[1:, :4], mask[1:, :4])
    torch.testing.assert_close(model(target, user, history, mask)[1:], short)


def test_padding_leaves_no_gradient_and_no_nan():
    model, (target, user, history, mask) = built(longer_inner=True), inputs()
    history.requires_grad_()
    model.train()(target, user, history, mask).square().sum().backward()
    heard = history.grad.abs().sum(-1) > 0
    assert torch.equal(heard, mask)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_targets_do_not_see_one_another():
    model, (target, user, history, mask) = built(), inputs()
    before = model(target, user, history, mask)
    target[:, 1] += 1.0
    after = model(target, user, history, mask)
    torch.testing.assert_close(after[:, 0], before[:, 0], rtol=0, atol=0)
    assert (after[:, 1] != before[:, 1]).any(dim=-1).all()


def test_a_target_alone_gets_what_it_gets_on_a_page():
    model, (target, user, history, mask) = built(), inputs()
    page = model(target, user, history, mask)
    alone = model(target[:, 1:], user, history, mask)
    torch.testing.assert_close(page[:, 1:], alone)


def test_user_target_and_history_are_all_heard():
    model, given = built(), inputs()
    before = model(*given)
    for place in range(3):
        moved = [x.clone() for x in given]
        moved[place] += 1.0
        changed = (model(*moved) != before).any(dim=-1)
        assert changed[0].all(), f"input {place} makes no difference"


def test_the_order_of_the_history_matters():
    model, (target, user, history, mask) = built(), inputs()
    turned = model(target, user, history.flip(1), mask)[0]
    assert not torch.allclose(turned, model(target, user, history, mask)[0])


def test_one_block_is_attention_and_feed_forward_with_residuals():
    model, (_, _, history, mask) = built(), inputs()
    block, (sequence, valid) = model.cross, model.tokens(history, mask)
    query = nn.functional.pad(sequence[:, :1], (0, 0, 0, 1))
    first, second, third = block.norms
    mixed = query + block.attention(first(query), second(sequence), valid)
    wanted = mixed + block.feed_forward(third(mixed))
    torch.testing.assert_close(block(query, sequence, valid), wanted)


@pytest.mark.parametrize("merge", [1, 2, 4])
def test_ids_projected_once_give_the_same_with_the_same_gradients(merge):
    """`looked_up` against `tokens`, for what targets read."""
    torch.manual_seed(0)
    config = Config(
        history_long=12, history_short=2, longer_recent=3, longer_merge=merge
    )
    longer = Longer(8, 16, 2, config).double()
    table = torch.randn(7, 8, dtype=torch.double, requires_grad=True)
    target, user = torch.randn(2, 3, 8).double(), torch.randn(2, 8).double()
    rows = torch.randint(7, (2, 12))
    mask = torch.arange(12) < torch.tensor([[12], [5]])
    found = []
    plain, groups = longer.tokens(table[rows], mask)
    for tokens in (plain, longer.looked_up(table, rows, mask)):
        out = longer.read(target, user, tokens, groups)
        grads = torch.autograd.grad(out.square().sum(), [table, *longer.parameters()])
        found.append([out, *grads])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other)
