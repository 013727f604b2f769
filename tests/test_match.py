"""Match against naive loops, and against what scikit-learn weighs."""

import dataclasses
import math
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lemur_mini.data.loading import Dataset
from lemur_mini.data.match import ALL, K1, B, Match, known, match, split
from lemur_mini.evaluation import auc

TEXTS = {
    "title": ["Slow bread", None, "bread bread oven", "A ActionMailer test", "oven"],
    "body": ["levain and slow heat", "slow cars", "", "read_table of mails", "rye rye"],
}
KNOWN = np.array([True, True, True, True, False])
QUERIES = ["slow bread", "mailer table", "rye", "nothing here", "", "Bread bread oven"]
PAIRS = np.array([(q, d) for q in range(len(QUERIES)) for d in range(5)]).T


def words(texts: list[str | None]) -> list[list[str]]:
    """Lowercase words and parts, by other means than the module's."""
    out = []
    for text in texts:
        row: list[str] = []
        for word in re.findall(r"\w+", text or ""):
            parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", word).replace("_", " ").split()
            row += [word.lower(), *(parts if len(parts) > 1 else [])]
        out.append([word.lower() for word in row])
    return out


def bm25(query: list[str], document: list[str], seen: list[list[str]]) -> float:
    """Robertson's formula, word by word."""
    mean, total = sum(map(len, seen)) / len(seen), 0.0
    for word in query:
        having, tf = sum(word in other for other in seen), document.count(word)
        rare = math.log(1 + (len(seen) - having + 0.5) / (having + 0.5))
        norm = K1 * (1 - B + B * len(document) / mean)
        total += rare * tf * (K1 + 1) / (tf + norm) if tf else 0.0
    return total


def cosine(query: list[str], document: list[str], seen: list[list[str]]) -> float:
    """TF-IDF cosine, word by word."""

    def vector(text: list[str]) -> dict[str, float]:
        def rare(word: str) -> float:
            return math.log((1 + len(seen)) / (1 + sum(word in o for o in seen))) + 1

        return {word: text.count(word) * rare(word) for word in text}

    q, d = vector(query), vector(document)
    size = math.hypot(*q.values()) * math.hypot(*d.values())
    return sum(q[w] * d[w] for w in q if w in d) / size if size else 0.0


def test_equals_a_naive_count():
    scorer = Match(TEXTS, KNOWN)
    found, queries = scorer(QUERIES, *PAIRS), words(QUERIES)
    joined = [f"{a or ''} {b or ''}" for a, b in zip(*TEXTS.values(), strict=True)]
    fields = [words(texts) for texts in (*TEXTS.values(), joined)]
    assert scorer.names[:2] == ("bm25 title", "cosine title")
    assert scorer.names[-1] == f"cosine {ALL}" and found.dtype == np.float32
    for row, (q, d) in enumerate(PAIRS.T):
        wanted = []
        for texts in fields:
            seen = [text for text, here in zip(texts, KNOWN, strict=True) if here]
            for measure in (bm25, cosine):
                wanted.append(measure(queries[q], texts[d], seen))
        np.testing.assert_allclose(found[row], wanted, rtol=1e-5, atol=1e-6)


def test_cosine_is_that_of_scikit_learn():
    """Where all words are known; a fixed vocabulary drops the others."""
    texts, every = ["slow bread", "bread oven", "rye in the oven"], np.ones(3, bool)
    vectoriser = TfidfVectorizer(analyzer=split).fit(texts)
    wanted = vectoriser.transform(["slow oven"]) @ vectoriser.transform(texts).T
    found = Match({"t": texts}, every)(["slow oven"], np.zeros(3, int), np.arange(3))
    np.testing.assert_allclose(found[:, 1], wanted.toarray()[0], rtol=1e-6)


def test_names_count_whole_and_by_their_parts():
    assert split("ActionMailer") == ["actionmailer", "action", "mailer"]
    assert split("HTTPServer2 read_table") == [
        *("httpserver2", "http", "server", "2", "read_table", "read", "table"),
    ]
    assert split("Bread, 42 ÜBER naïve") == ["bread", "42", "über", "naïve"]


def test_new_documents_and_new_words_match():
    """As if they had been there, unknown, from the start."""
    whole = Match(TEXTS, KNOWN)
    part = Match({name: texts[:4] for name, texts in TEXTS.items()}, KNOWN[:4])
    part(["zythum comes before it is in any document"], np.array([0]), np.array([0]))
    part = part.extended({name: texts[4:] for name, texts in TEXTS.items()})
    np.testing.assert_array_equal(part(QUERIES, *PAIRS), whole(QUERIES, *PAIRS))
    part = part.extended({"title": ["zythum"], "body": [None]})
    assert part(["zythum"], np.array([0]), np.array([5]))[0, 0] > 0


def test_weights_are_of_known_documents_alone(dataset: Dataset):
    there = known(dataset)
    assert 0 < there.sum() < len(there)  # some come later
    texts = {
        name: [
            text if here else "other words"
            for text, here in zip(texts, there, strict=True)
        ]
        for name, texts in dataset.texts.items()
    }
    log, other = dataset.log, dataclasses.replace(dataset, texts=texts)
    found, changed = match(dataset)[1], match(other)[1]
    same = there[log.item]
    np.testing.assert_array_equal(found[same], changed[same])


def test_the_log_and_serving_share_one_function(dataset: Dataset):
    scorer, found = match(dataset)
    log, row = dataset.log, 17
    text = dataset.queries[log.query[row]]
    again = scorer([text], np.array([0]), log.item[row : row + 1])
    np.testing.assert_array_equal(again[0], found[row])


def test_the_platform_shares_no_words(dataset: Dataset):
    """The control: queries and documents of a topic use different words, so that match
    must be worth nothing there."""
    found = match(dataset)[1]
    for column in found.T:
        assert abs(auc(dataset.log.label, column) - 0.5) < 0.03


@pytest.mark.parametrize("texts", [{}, {"t": [None, ""]}])
def test_nothing_to_match_is_zero(texts: dict):
    scorer = Match(texts, np.array([True, True]))
    found = scorer(["slow bread"], np.array([0, 0]), np.array([0, 1]))
    assert (found == 0).all()


def test_adding_documents_copies_no_catalogue():
    """Blocks that are there stay; few of them; the scores are those of one block."""
    many = {"t": [f"bread number {k}" for k in range(100)]}
    scorer = whole = Match(many, np.ones(100, bool))
    (first,) = scorer.fields["t"].blocks
    for k in range(60):
        scorer = scorer.extended({"t": [f"oven {k}"]})
    blocks = scorer.fields["t"].blocks
    assert blocks[0][0] is first[0] and len(blocks) <= 8
    assert len(whole.fields["t"].blocks) == 1
    both = whole.extended({"t": [f"oven {k}" for k in range(60)]})
    pairs = np.zeros(160, int), np.arange(160)
    asked = ["oven 7 bread number"]
    np.testing.assert_array_equal(scorer(asked, *pairs), both(asked, *pairs))
