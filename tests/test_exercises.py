"""Exercises of the course: right answers in any type, and a hint for each mistake."""

from types import SimpleNamespace

import make
import numpy as np
import pytest
import torch

from lemur_mini import exercises, losses, ranker, training
from lemur_mini.exercises import mine
from lemur_mini.exercises.compare import same
from lemur_mini.exercises.kinds import Value
from lemur_mini.memory_bank import MemoryBank
from lemur_mini.sequence import DecoderLayer

BY_NAME = exercises.ALL
ATTENTION = torch.nn.functional.scaled_dot_product_attention
MISTAKES = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, exercise in BY_NAME.items()
    for number in range(len(exercise.mistakes))
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(mine.VARIABLE, str(tmp_path / "my_parts"))


@pytest.fixture
def given(config, prepared):
    """What the notebooks hand over to an exercise, made where it is asked for."""

    def step():
        pages = prepared.pages
        batches = [pages.batch(np.arange(n, n + 4), 8) for n in (100, 104)]
        model = training.make_model(config, prepared.sizes, 0, torch.device("cpu"))
        run = training.Run(model, prepared.features, seed=0, total=4)
        return {"run": run, "batches": batches}

    def one_item():
        ask, only = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
        return {"printed": DecoderLayer(16, 4, literal=True), "ask": ask, "only": only}

    def full():
        return {"full": prepared.pages.batch(np.arange(200, 216), 8)}

    def norms():
        zero = {"document encoder": 0.0, "  its image stem": 0.0, "query encoder": 0.0}
        return {"norms": zero | {"ids": 0.1, "decoders": 0.2}}

    def log():
        index = prepared.pages.between(None, None)
        long = [page for page in index if prepared.pages.history([page], 8).max() >= 0]
        names = {"log": prepared.dataset.log, "pages": prepared.pages}
        return names | {"sample": np.array(long[-10:])}

    def rate():
        asked = np.arange(6) < 3
        pages = SimpleNamespace(user=np.array([1, 1, 1, 2, 2, 3]), query=np.full(6, 5))
        return {"pages": pages, "test": np.arange(6), "reformulated": asked}

    def parts():
        quality, taste = np.array([0.1, 0.9, 0.5]), np.array([0.3, 0.0, 0.9])
        read = {"quality": quality, "taste": taste}
        return {
            "parts": read,
            "total": quality + taste,
            "qauc": lambda x: (x**2) @ [1, 2, 4],
        }

    def orders():
        return {"ranked": [np.arange(20), np.r_[4:12, 19, 0:4]]}

    def arms():
        ids = {"asked": [4, 1], "changed": [1, 1]}
        return {"arms": {"ids": ids, "LEMUR": {"asked": [5, 2], "changed": [1, 0]}}}

    def served():
        draw = np.random.default_rng(0)
        return {"both": [tuple(draw.random((2, 12))) for _ in range(3)]}

    def shown():
        draw = np.random.default_rng(1)
        return {"label": draw.integers(2, size=800), "qid": np.arange(800) // 8}

    def vectors():
        draw = torch.Generator().manual_seed(3)
        query, document = (torch.randn(n, 3, generator=draw) for n in (4, 5))
        return {"query": query, "document": document}

    makers = {
        "0.1": orders,
        "9.4": arms,
        "10.3": served,
        "13.3": shown,
        "14.1": vectors,
        "1.2": log,
        "1.3": rate,
        "1.4": parts,
        "6.1": one_item,
        "7.1": full,
        "7.2": step,
        "7.3": norms,
    }
    return lambda name: makers.get(name, dict)()


def answer_of(exercise, made, context):
    """A value, or the code itself."""
    return made(**context) if isinstance(exercise, Value) else made


@pytest.mark.parametrize("name", BY_NAME)
def test_the_right_answer_is_right(name, given):
    exercise, context = BY_NAME[name], given(name)
    answer = answer_of(exercise, exercise.right, context)
    assert exercise.verdict(answer, context) == ""
    assert not exercise.unsolved(answer, context)


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_a_typical_mistake_gets_its_own_hint(name, number, given):
    exercise, context = BY_NAME[name], given(name)
    mistake = exercise.mistakes[number]
    answer = answer_of(exercise, mistake.wrong, context)
    told = exercises.judge(name, lambda: answer, context)
    assert told.startswith("not yet. ") and told.endswith(mistake.hint)


@pytest.mark.parametrize("name", BY_NAME)
def test_hints_differ_and_any_other_answer_gets_one(name, given):
    exercise, context = BY_NAME[name], given(name)
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(set(hints)) == len(hints) > 0 and exercise.hint
    other = -12345.0 if isinstance(exercise, Value) else (lambda *_: torch.ones(1))
    told = exercises.judge(name, lambda: other, context)
    assert told.startswith("not yet")


@pytest.mark.parametrize(
    ("found", "wanted", "order"),
    [
        (np.bool_(True), True, True),
        (np.float32(0.25), 0.25, True),
        (torch.tensor([1, 2]), [1, 2], True),
        (np.array([1.0, 2.0]), (1, 2), True),
        ([3, 1, 2], [1, 2, 3], False),
        ({"b", "a"}, ["a", "b"], False),
        ((0.75, np.array([1, 2])), (0.75, [1, 2]), True),
        ("a", "a", True),
    ],
)
def test_the_type_of_a_right_answer_does_not_matter(found, wanted, order):
    assert same(found, wanted, 1e-6, order)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [([2, 1], [1, 2]), ("a", 1), (None, 0.0), ([1, 2, 3], [1, 2]), (0.26, 0.25)],
)
def test_another_answer_is_another(found, wanted):
    assert not same(found, wanted, 1e-6)


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("3.2", lambda *_: ..., "not solved yet"),
        ("5.1", (lambda *_: ..., MemoryBank.write), "not solved yet"),
        ("5.1", (MemoryBank.read, lambda *_: ...), "not solved yet"),
        ("5.2", (..., ...), "not solved yet"),
        ("3.2", lambda *_: 1 / 0, "not yet: ZeroDivisionError: division by zero."),
        (
            "3.2",
            lambda q, *rest: losses.sqdc(q.detach(), *rest),
            "All values are right; only the gradient is not.",
        ),
        ("4.2", lambda x: x[:, :1], "the shape is (1, 1, 4), not (1, 2, 4)"),
        ("6.3", lambda target, history, mask: None, "there is nothing, not a number"),
    ],
)
def test_what_is_unsolved_fails_or_differs_is_said(name, answer, told):
    assert told in exercises.judge(name, lambda: answer, {})


def test_the_first_row_that_differs_is_named():
    def careless(q, k, v, mask):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    told = exercises.judge("2.1", lambda: careless, {})
    assert told.startswith(
        "not yet. Row 1 and row 2 are padded, row 1, at [1, 0, 0, 0]"
    )
    assert told.endswith("Padding is not masked.")


# --- parts that students keep -----------------------------------------------------


def double(x):
    """Twice the mixing, which is none."""
    return x.clone()


def my_mix(x):
    b, t, d = x.shape
    return x.reshape(b, t, t, d // t).transpose(1, 2).reshape(b, t, d)


def leaning_mix(x):
    return my_mix(x)


def test_a_right_part_is_kept_under_its_name():
    assert exercises.judge("4.2", lambda: my_mix, {}) == "right; kept for notebook 07"
    assert list(mine.parts()) == ["mix"]
    x = torch.arange(16.0).view(1, 4, 4)
    assert torch.equal(mine.parts()["mix"](x), ranker.mix(x))


def test_a_part_that_does_not_stand_alone_is_not_kept():
    told = exercises.judge("4.2", lambda: leaning_mix, {})
    assert told.startswith("right; not kept") and "my_mix" in told
    assert mine.parts() == {}


def test_a_wrong_part_is_not_kept():
    assert exercises.judge("4.2", lambda: double, {}).startswith("not yet")
    assert mine.parts() == {}


@pytest.mark.skipif(not make.HERE.is_dir(), reason="no notebooks here")
def test_where_notebooks_are_built_nothing_is_kept(monkeypatch):
    monkeypatch.setenv(mine.VARIABLE, "")
    assert exercises.judge("4.2", lambda: my_mix, {}) == "right"
    assert mine.parts() == {}
    assert make.PARTS == mine.VARIABLE


SOLVED = {  # exercise: its notebook
    "2.1": "02_encoders",
    "3.2": "03_sqdc",
    "4.2": "04_ranker",
    "4.4": "04_ranker",
    "5.1": "05_memory_bank",
    "6.2": "06_sequences",
    "6.3": "06_sequences",
    "7.2": "07_joint_training",
}


def functions_of(name, folder):
    """The code of an exercise as its solution has it, from a file of its own."""
    cells = make.read(make.HERE / "solutions" / f"{SOLVED[name]}.ipynb").cells
    places = [n for n, c in enumerate(cells) if f'course.exercise("{name}"' in c.source]
    path, scope = folder / f"solution_{name}.py", {}
    path.write_text(mine.HEAD + cells[places[0] - 1].source, "utf-8")
    exec(compile(path.read_text("utf-8"), str(path), "exec"), scope)
    named = scope.get("read"), scope.get("write")
    own = [f for f in scope.values() if getattr(f, "__globals__", None) is scope]
    return named if named[0] else own[0]


def counted(name, part, calls):
    """The same part, which notes that it was called."""

    def called(*arguments):
        calls.append(name)
        return part(*arguments)

    return called


def loss_after(run, batches):
    """Of the last batch, after a step on each of the others."""
    for batch in batches[:-1]:
        training.train_step(run, batch)
    options = training.step_options(run, batches[-1])
    return run.model.losses(batches[-1], run.features, options).total.item()


def test_parts_of_the_solutions_train_the_module_s_model(tmp_path, prepared, config):
    pages, device, calls = prepared.pages, torch.device("cpu"), []
    batches = [pages.batch(np.arange(n, n + 4), 8) for n in range(100, 116, 4)]
    begun = [
        training.Run(
            training.make_model(config, prepared.sizes, 0, device),
            prepared.features,
            seed=0,
            total=8,
        )
        for _ in range(2)
    ]
    given = {"7.2": {"run": begun[0], "batches": batches[:2]}}
    for name in SOLVED:
        answer = functions_of(name, tmp_path)
        told = exercises.judge(name, lambda answer=answer: answer, given.get(name, {}))
        assert told == "right; kept for notebook 07", name
    parts = mine.parts()
    assert tuple(parts) == mine.NAMES
    watched = {name: counted(name, part, calls) for name, part in parts.items()}
    ours = loss_after(begun[0], batches)
    with mine.in_place(watched):
        theirs = loss_after(begun[1], batches)
    assert set(calls) == set(mine.NAMES)  # every part did its work
    assert theirs == pytest.approx(ours, rel=1e-3)
    assert torch.nn.functional.scaled_dot_product_attention is ATTENTION


def test_a_wrong_part_in_place_trains_another_model(prepared, config):
    pages = prepared.pages
    batches = [pages.batch(np.arange(n, n + 4), 8) for n in (100, 104)]
    runs = []
    for _ in range(2):
        model = training.make_model(config, prepared.sizes, 0, torch.device("cpu"))
        runs.append(training.Run(model, prepared.features, seed=0, total=8))
    with mine.in_place({"mix": double}):
        other = loss_after(runs[0], batches)
    assert other != pytest.approx(loss_after(runs[1], batches), rel=1e-3)
