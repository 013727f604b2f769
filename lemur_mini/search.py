"""python -m lemur_mini.search: choose hyper-parameters on the validation days.

Every trial trains before the validation days and is scored on them; test days are never
read. Every model gets the same number of trials. Finished trials are kept, so
the search goes on where it stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lemur_mini import pipeline
from lemur_mini.checkpoints import write_text_atomically
from lemur_mini.config import BASELINE, CLASSROOM
from lemur_mini.experiments import IDS
from lemur_mini.training import choose_device

RESULT = Path("data/results/search.json")
RATES = [  # of the Transformers and the ranker, and that of the ids by it
    {"learning_rate": rate, "id_rate": times}
    for rate, times in (
        *((4e-3, 1.0), (2e-3, 1.0), (2e-3, 3.0), (5e-4, 12.0)),
        *((1e-3, 6.0), (1e-3, 12.0), (1e-3, 24.0)),
    )
]
BEST = {"learning_rate": 1e-3, "id_rate": 12.0}
# Eight for each model. Variants of LEMUR inherit its settings and get trials for what
# is theirs alone.
TRIALS = {
    "rankmixer_longer": [
        *({"groups": BASELINE, "longer_merge": 1} | rates for rates in RATES),
        {"groups": BASELINE, "longer_merge": 4} | BEST,
    ],
    "lemur": [
        *(BEST | {"sqdc_weight": w} for w in (0.015, 0.005, 0.01, 0.02, 0.03)),
        BEST | {"sqdc_weight": 0.015, "id_rate": 24.0},
        BEST | {"sqdc_weight": 0.015, "id_rate": 6.0},
        {"learning_rate": 2e-3, "id_rate": 6.0, "sqdc_weight": 0.015},
    ],
    **{
        name: [
            *(changes | rates for rates in RATES),
            changes | {"learning_rate": 1e-3, "id_rate": 48.0},
        ]
        for name, changes in {
            "dlrm": {"groups": IDS, "ranker": "dlrm"},
            "rankmixer": {"groups": IDS},
            "din": {"groups": (*IDS, "din")},
        }.items()
    },
    # passes of pre-training, until validation stops improving: a second gives nothing
    "two_stage": [{"two_stage": passes} for passes in (1, 2)],
    "cic": [{"cic_weight": weight} for weight in (0.003, 0.01, 0.03)],
}


def main(arguments: list[str] | None = None) -> None:
    """Run the trials that the result file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--models", nargs="+", default=list(TRIALS), choices=TRIALS)
    options = parser.parse_args(arguments)
    prepared = pipeline.prepare(options.data, CLASSROOM, choose_device(options.device))
    for model in options.models:
        for changes in TRIALS[model]:
            done = json.loads(options.out.read_text()) if options.out.is_file() else []
            key = {
                "model": model,
                "seed": options.seed,
                "changes": json.loads(json.dumps(changes)),
            }
            if any(all(row[k] == key[k] for k in key) for row in done):
                continue
            row = key | trial(prepared, changes, options.seed)
            text = json.dumps([*done, row], indent=1) + "\n"
            write_text_atomically(options.out, text)
            print(f"{row['qauc']:.4f} {model} {changes}")


def trial(prepared: pipeline.Prepared, changes: dict, seed: int) -> dict:
    """Train on the days before validation, score the validation days."""
    dataset = prepared.dataset
    config = pipeline.config_for(CLASSROOM, dataset).but(**changes)
    run = pipeline.fit(prepared, config, seed, dataset.valid_start)
    result = pipeline.test(prepared, run, dataset.valid_start, dataset.test_start)
    kept = {k: result[k] for k in ("auc", "qauc", "log_loss", "cold_auc")}
    return kept | {"data": prepared.checksum, "train_seconds": round(run.seconds)}


if __name__ == "__main__":
    main()
