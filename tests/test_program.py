"""The ranker without Python: the same logits, whatever runs the program."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lemur_mini.data.errors import DataError
from lemur_mini.data.features import encode_queries, query_limit
from lemur_mini.serving import program
from lemur_mini.serving.export import load_program
from tests.test_artefact import FORMS, asked, made


def inputs(ranker, pages: int, shown: int, history: int):
    """A program's inputs for the first requests, histories cut to a length; and what
    the ranker says to them."""
    rng, model = np.random.default_rng(0), ranker.model
    rows = [rng.integers(0, 120, shown) for _ in range(pages)]
    some = asked(ranker)[:: max(1, 28 // pages)][:pages]
    batch = ranker.batch([(u, q, r) for (u, q, _), r in zip(some, rows, strict=True)])
    batch = replace(batch, history=batch.history[:, :history])
    texts, limit = [text for _, text, _ in some], query_limit(model.config)
    tokens, length = encode_queries(ranker.known.tokenizer, texts, limit)
    tokens = torch.nn.functional.pad(tokens, (0, 1 + limit - tokens.shape[1])).long()
    known = {"tokens": tokens, "length": length}
    names = program.inputs_of(model)
    with torch.no_grad():
        query = target = None
        if model.config.has_content:
            query = model.query_encoder(tokens, length)
            query = model.running_norms["query"](query)
            target = model.bank.read(batch.item)[0]
        logits = model.rank(batch, query, target)
    return tuple(known[n] if n in known else getattr(batch, n) for n in names), logits


@pytest.mark.parametrize("form", FORMS)
def test_the_program_says_what_the_model_says(folder, config, form):
    ranker = made(folder, config, form)
    called = program.Program(ranker.model)
    for sizes in ((1, 1, 4), (3, 5, 8), (2, 9, 6)):
        given, wanted = inputs(ranker, *sizes)
        with torch.no_grad():
            found = called(*given)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for name, value in zip(
        program.inputs_of(ranker.model), program.example(ranker.model), strict=True
    ):
        assert value.dtype == dict(zip(called.names, given, strict=True))[name].dtype


@pytest.mark.slow
def test_exported_programs_run_at_every_size(folder, config, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    ranker = made(folder, config, "ours")
    graph, onnx = program.export_ranker(ranker.model, tmp_path)
    loaded, session = load_program(graph), runtime.InferenceSession(onnx)
    for sizes in ((1, 1, 6), (3, 5, 8), (2, 9, 6)):
        given, wanted = inputs(ranker, *sizes)
        with torch.no_grad():
            torch.testing.assert_close(loaded(*given), wanted, rtol=1e-4, atol=1e-5)
        names = [value.name for value in session.get_inputs()]
        feeds = dict(
            zip(
                program.inputs_of(ranker.model), (v.numpy() for v in given), strict=True
            )
        )
        (found,) = session.run(None, {name: feeds[name] for name in names})
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_said(folder, config, tmp_path):
    ranker = made(folder, config.replace(longer_inner=True))
    with pytest.raises(DataError, match="longer_inner"):
        program.export_ranker(ranker.model, tmp_path)
    assert not list(tmp_path.iterdir())
