"""The modelled bytes of a step, against loops over what is really exchanged."""

import pytest

from lemur_mini.config import CLASSROOM
from lemur_mini.cost import links

COUNTED = {"gflops": {"p20_q20": 2000.0}, "params": {"lemur": 10.0}}
CONFIG = CLASSROOM.replace(batch_pages=4, page_size=3, history_long=5, history_short=3)
CONFIG = CONFIG.replace(width=8, id_width=6)


def test_bytes_are_those_of_a_loop_over_what_comes_from_other_ranks():
    ranks, pages, got = 4, 8, dict.fromkeys(("gather", "bank", "ids"), 0)
    documents = pages * CONFIG.page_size
    for place in range(documents):
        if place % ranks:  # not rank 0's own: its vector there, its gradient back
            got["gather"] += 2 * 8 * links.HALF
    for place in range(pages):
        got["gather"] += 2 * 8 * links.HALF * bool(place % ranks)
    for page in range(0, pages, ranks):
        for _ in range(CONFIG.history_long):
            got["bank"] += 8 * links.FULL * (ranks - 1) / ranks
        for _ in (
            "user",
            "query",
            *range(CONFIG.page_size),
            *range(CONFIG.history_long),
        ):
            got["ids"] += 2 * 6 * links.FULL * (ranks - 1) / ranks
        assert page < pages
    got["bank"] += documents * 8 * links.FULL * (ranks - 1) / ranks
    found = links.traffic(CONFIG, ranks, pages, "none", dense=100)
    assert {name: found[name] for name in got} == pytest.approx(got)
    # a ring: every rank receives its share of the sums, and then of the results
    pieces = 2 * (ranks - 1)
    assert found["reduce"] == pytest.approx(pieces * 100 / ranks * links.FULL)


def test_alone_nothing_is_exchanged():
    cost = links.step(COUNTED, 1, links.LINKS["100 Gb/s"])
    assert sum(cost.bytes.values()) == 0
    assert cost.total == cost.seconds["compute"] + cost.seconds["SQDC"]
    assert links.efficiency(COUNTED, 1, links.LINKS["NVLink"]) == 1


def test_a_faster_link_and_a_larger_batch_lose_less():
    kinds = sorted(links.LINKS.values())
    found = [links.efficiency(COUNTED, 8, link) for link in kinds]
    assert found == sorted(found) and 0 < found[0] < found[-1] < 1
    large = links.efficiency(COUNTED, 8, kinds[0], 16 * links.PAPER.batch_pages)
    assert large > 1.15 * found[0]  # the gradients do not grow with the batch
