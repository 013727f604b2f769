"""FLOPs, bytes and seconds of one step by part, at every scale, beside the roof."""

from __future__ import annotations

from lemur_mini.config import SCALES
from lemur_mini.cost.accounting import parts
from tests.benchmarks.common import CPU, row, store


def main() -> None:
    """As `python -m lemur_mini.cost --parts` prints them; the paper's counted."""
    found, rows = {scale: parts(scale, CPU) for scale in SCALES}, []
    for scale, facts in found.items():
        lines = facts["parts"]
        if not facts["roof"]:
            continue
        total = sum(line["seconds"] for line in lines)
        best = sum(line["seconds"] * line["reached"] for line in lines)
        encode = sum(x["seconds"] for x in lines if x["part"].startswith("encode"))
        where = f"({scale} proportions, {facts['pages']} pages)"
        rows.append(row(f"encoders, of the step's time {where}", encode / total))
        rows.append(
            row(f"the machine's roof, of the step's time {where}", best / total)
        )
    store("parts", rows, found)


if __name__ == "__main__":
    main()
