"""The memory bank against a python dict."""

import random

import pytest
import torch

from lemur_mini.memory_bank import MemoryBank

DOCUMENTS, WIDTH = 9, 3


def filled(seed: int = 0) -> tuple[MemoryBank, dict[int, tuple[list[float], int]]]:
    """A bank after five steps of random writes, and the dict that went along."""
    generator = random.Random(seed)
    bank, known = MemoryBank(DOCUMENTS, WIDTH), {}
    for step in range(5):
        rows = generator.sample(range(DOCUMENTS - 3), 2)  # the last three never
        vectors = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(step))
        bank.write(torch.tensor(rows), vectors, step)
        known |= {r: (v.tolist(), step) for r, v in zip(rows, vectors, strict=True)}
    return bank, known


def test_read_is_a_dictionary_look_up():
    bank, known = filled()
    for row in range(DOCUMENTS):
        vector, found = bank.read(torch.tensor([row]))
        assert found.item() == (row in known)
        assert vector[0].tolist() == known.get(row, ([0.0] * WIDTH,))[0]


def test_the_bank_knows_some_documents_and_lacks_others():
    _, known = filled()
    assert 2 < len(known) < DOCUMENTS - 2


def test_read_keeps_the_shape_and_treats_padding_as_a_miss():
    bank, known = filled()
    row = next(iter(known))
    rows = torch.tensor([[row, -1, row], [-1, DOCUMENTS - 1, -1]])
    vectors, found = bank.read(rows)
    assert found.tolist() == [[True, False, True], [False, False, False]]
    assert vectors.shape == (2, 3, WIDTH)
    assert vectors[0, 0].tolist() == known[row][0]
    assert vectors[~found].count_nonzero() == 0


def test_padding_is_a_miss_even_when_the_last_document_is_known():
    bank = MemoryBank(DOCUMENTS, WIDTH)
    bank.write(torch.arange(DOCUMENTS), torch.ones(DOCUMENTS, WIDTH), 0)
    vectors, found = bank.read(torch.tensor([-1, 0]))
    assert found.tolist() == [False, True]
    assert vectors[0].tolist() == [0.0] * WIDTH


def test_age_is_the_steps_since_the_last_write():
    bank, known = filled()
    wanted = [10 - known[row][1] for row in range(DOCUMENTS) if row in known]
    assert bank.age(torch.arange(DOCUMENTS), 10).tolist() == wanted


def test_age_leaves_padding_out():
    bank = MemoryBank(DOCUMENTS, WIDTH)
    bank.write(torch.arange(DOCUMENTS), torch.ones(DOCUMENTS, WIDTH), 4)
    assert bank.age(torch.tensor([2, -1]), 7).tolist() == [3]


def test_coverage_is_the_share_of_known_rows_without_padding():
    bank, known = filled()
    rows = [*range(DOCUMENTS), -1, -1]
    assert bank.coverage(torch.tensor(rows)) == pytest.approx(len(known) / DOCUMENTS)


def test_a_step_zero_write_counts_as_written():
    bank = MemoryBank(DOCUMENTS, WIDTH)
    bank.write(torch.tensor([4]), torch.ones(1, WIDTH), 0)
    assert bank.coverage(torch.tensor([4])) == 1
    assert bank.age(torch.tensor([4]), 0).tolist() == [0]


def test_grow_keeps_what_is_known_and_makes_room():
    bank, known = filled()
    before = bank.read(torch.arange(DOCUMENTS))
    age = bank.age(torch.arange(DOCUMENTS), 9)
    bank.grow(DOCUMENTS + 2)
    after = bank.read(torch.arange(DOCUMENTS + 2))
    assert torch.equal(after[0][:DOCUMENTS], before[0])
    assert after[1].tolist() == [*before[1].tolist(), False, False]
    assert torch.equal(bank.age(torch.arange(DOCUMENTS + 2), 9), age)
    bank.write(torch.tensor([DOCUMENTS + 1]), torch.ones(1, WIDTH), 5)
    assert bank.read(torch.tensor([DOCUMENTS + 1]))[0].tolist() == [[1.0] * WIDTH]


def test_grow_never_shrinks():
    bank, known = filled()
    bank.grow(2)
    assert bank.read(torch.arange(DOCUMENTS))[1].sum() == len(known)


def test_no_gradient_passes_the_bank():
    bank = MemoryBank(DOCUMENTS, WIDTH)
    vectors = torch.ones(2, WIDTH, requires_grad=True) * 2
    bank.write(torch.tensor([1, 5]), vectors, 0)
    assert not bank.read(torch.tensor([1, 5]))[0].requires_grad
    assert list(bank.parameters()) == []


def test_written_and_read_vectors_are_copies():
    bank, vectors, rows = MemoryBank(DOCUMENTS, WIDTH), torch.ones(1, WIDTH), [3]
    bank.write(torch.tensor(rows), vectors, 0)
    vectors.fill_(7.0)
    bank.read(torch.tensor(rows))[0].fill_(8.0)
    assert bank.read(torch.tensor(rows))[0].tolist() == [[1.0] * WIDTH]


def test_the_bank_is_saved_with_the_model():
    bank, known = filled()
    other = MemoryBank(DOCUMENTS, WIDTH)
    other.load_state_dict(bank.state_dict())
    rows = torch.arange(DOCUMENTS)
    assert torch.equal(other.read(rows)[0], bank.read(rows)[0])
    assert torch.equal(other.age(rows, 9), bank.age(rows, 9))
