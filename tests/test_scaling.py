"""The modelled bytes of a step, against loops over what is really exchanged."""

import pytest

from lemur_mini import scaling
from lemur_mini.config import CLASSROOM

COUNTED = {"gflops": {"p20_q20": 2000.0}, "params": {"lemur": 10.0}}
CONFIG = CLASSROOM.but(pages=4, page=3, history_long=5, history_short=3)
CONFIG = CONFIG.but(width=8, id_width=6)


def test_bytes_are_those_of_a_loop_over_what_comes_from_other_ranks():
    ranks, pages, got = 4, 8, dict.fromkeys(("gather", "bank", "ids"), 0)
    documents = pages * CONFIG.page
    for place in range(documents):
        if place % ranks:  # not rank 0's own: its vector there, its gradient back
            got["gather"] += 2 * 8 * scaling.HALF
    for place in range(pages):
        got["gather"] += 2 * 8 * scaling.HALF * bool(place % ranks)
    for page in range(0, pages, ranks):
        for _ in range(CONFIG.history_long):
            got["bank"] += 8 * scaling.FULL * (ranks - 1) / ranks
        for _ in ("user", "query", *range(CONFIG.page), *range(CONFIG.history_long)):
            got["ids"] += 2 * 6 * scaling.FULL * (ranks - 1) / ranks
        assert page < pages
    got["bank"] += documents * 8 * scaling.FULL * (ranks - 1) / ranks
    found = scaling.traffic(CONFIG, ranks, pages, "none", dense=100)
    assert {name: found[name] for name in got} == pytest.approx(got)
    # a ring: every rank receives its share of the sums, and then of the results
    pieces = 2 * (ranks - 1)
    assert found["reduce"] == pytest.approx(pieces * 100 / ranks * scaling.FULL)


def test_alone_nothing_is_exchanged():
    cost = scaling.step(COUNTED, 1, scaling.LINKS["100 Gb/s"])
    assert sum(cost.bytes.values()) == 0
    assert cost.total == cost.seconds["compute"] + cost.seconds["SQDC"]
    assert scaling.efficiency(COUNTED, 1, scaling.LINKS["NVLink"]) == 1


def test_a_faster_link_and_a_larger_batch_lose_less():
    links = sorted(scaling.LINKS.values())
    found = [scaling.efficiency(COUNTED, 8, link) for link in links]
    assert found == sorted(found) and 0 < found[0] < found[-1] < 1
    large = scaling.efficiency(COUNTED, 8, links[0], 16 * scaling.PAPER.pages)
    assert large > 1.15 * found[0]  # the gradients do not grow with the batch
