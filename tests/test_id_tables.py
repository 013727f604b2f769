"""Tables of ids that learn sparsely, against loops and against dense gradients."""

import math

import pytest
import torch

from lemur_mini import checkpoints, pipeline, training
from lemur_mini.id_tables import EPSILON, Table, clip
from lemur_mini.training import Run, make_model, train_step

ROWS = torch.tensor([[1, 3, 1], [4, 0, 3]])


def drawn(sparse: bool = True) -> Table:
    torch.manual_seed(0)
    return Table(6, 4, sparse)


def backward(table: Table) -> None:
    weight = torch.arange(24.0).view(2, 3, 4)
    (table(ROWS) * weight).sum().backward()


def test_learning_is_row_wise_adagrad_as_in_a_loop():
    table = drawn()
    weight, squares = table.weight.detach().clone(), [0.0] * 6
    for _ in range(3):
        table.weight.grad = None
        backward(table)
        gradient = torch.zeros(6, 4)
        for page in range(2):
            for place in range(3):
                for e in range(4):
                    row = ROWS[page, place]
                    gradient[row, e] += 12 * page + 4 * place + e
        table.learn(0.1, 0.5)
        for row in range(6):
            mine = [0.5 * float(g) for g in gradient[row]]
            squares[row] += sum(g * g for g in mine) / 4
            for e in range(4):
                if row in ROWS:
                    size = math.sqrt(squares[row]) + EPSILON
                    weight[row, e] -= 0.1 * mine[e] / size
    torch.testing.assert_close(table.weight.detach(), weight)
    torch.testing.assert_close(table.squares, torch.tensor(squares))
    untouched = [2, 5]
    assert torch.equal(table.weight[untouched], drawn().weight[untouched])


def test_the_gradient_is_that_of_a_dense_table():
    sparse, dense = drawn(), drawn(sparse=False)
    backward(sparse)
    backward(dense)
    values = sparse.gradient()
    assert values.shape == (4, 4)  # distinct rows
    assert torch.equal(sparse.weight.grad.to_dense(), dense.weight.grad)
    assert len(drawn().gradient()) == 0
    (silent := drawn()).learn(1.0)  # no gradient: nothing happens
    assert torch.equal(silent.weight, drawn().weight)


@pytest.mark.parametrize("most", [1e-2, 1e6])
def test_clipping_is_that_of_all_gradients_together(most):
    tables, other = [drawn(), drawn(False)], torch.nn.Parameter(torch.ones(3))
    for table in tables:
        backward(table)
    other.grad = torch.tensor([1.0, 2.0, 3.0])
    twin = torch.nn.Parameter(torch.ones(3))
    twin.grad = other.grad.clone()
    norm, scale = clip([other], tables[:1], most, lambda x: x)
    wanted = torch.nn.utils.clip_grad_norm_([twin, tables[1].weight], most)
    torch.testing.assert_close(norm, wanted)
    torch.testing.assert_close(other.grad, twin.grad)
    torch.testing.assert_close(
        tables[0].weight.grad.to_dense() * scale, tables[1].weight.grad
    )


def test_a_table_grows_by_rows_like_the_unknown():
    table = drawn()
    before = table.weight.detach().clone()
    backward(table)
    table.learn(0.0)
    sums = table.squares.clone()
    table.grow(4)
    assert len(table.weight) == 6
    table.grow(9)
    assert torch.equal(table.weight[:6], before)
    assert torch.equal(table.weight[6:], before[:1].expand(3, -1))
    assert torch.equal(table.squares, torch.cat([sums, torch.zeros(3)]))
    assert table(torch.tensor([8])).shape == (1, 4)


def test_only_ids_of_the_batch_move(prepared, config):
    config = config.replace(id_optimizer="adagrad")
    model = make_model(config, prepared.sizes, 0, torch.device("cpu")).train()
    run = Run(model, prepared.features, 0, total=9)
    batch = prepared.pages.batch(torch.arange(5).numpy(), config.history_long)
    before = {k: t.weight.detach().clone() for k, t in model.ids.items()}
    train_step(run, batch)
    met = {"user": batch.user, "query": batch.query}
    met["item"] = torch.cat([batch.item.flatten(), batch.history.flatten()])
    for name, table in model.ids.items():
        moved = (table.weight != before[name]).any(dim=1)
        known = set((met[name] + 1).tolist())  # 0: padding, which weighs nothing
        assert set(torch.nonzero(moved).flatten().tolist()) <= known, name
        assert moved.any() and torch.equal(moved, table.squares > 0), name
    assert not any(table.weight in run.optimizer.state for table in model.ids.values())


def test_a_run_with_sparse_tables_goes_on_from_its_checkpoint(
    prepared, config, tmp_path
):
    config = config.replace(id_optimizer="adagrad", checkpoint_every=3)
    until = int(prepared.pages.start[36])
    path = tmp_path / "model.safetensors"
    whole = pipeline.fit(prepared, config, 0, until)

    def stop(run):
        checkpoints.save(run, path, prepared.fingerprint)
        if run.step == 6:
            raise KeyboardInterrupt

    model = make_model(config, prepared.sizes, 0, torch.device("cpu"))
    run = Run(model, prepared.features, 0, whole.total)
    pages = prepared.pages.cut_at(until)
    with pytest.raises(KeyboardInterrupt):
        training.train(run, pages, pages.between(None, until), stop, None)
    again = pipeline.fit(prepared, config, 0, until, path, resume=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert (whole.model.ids["item"].squares > 0).any()
    served = checkpoints.load_model(path, data=prepared.fingerprint)
    for name, table in again.model.ids.items():
        assert torch.equal(served.ids[name].weight, table.weight)


def test_another_optimizer_is_refused(config):
    with pytest.raises(ValueError, match="id_optimizer sgd is unknown; use adamw or"):
        config.replace(id_optimizer="sgd")
