"""python -m lemur_mini.reproduce search: hyper-parameters by validation days.

Every trial trains before the validation days and is scored on them; test days are never
read. Every model gets the same number of trials. Finished trials are kept, so
the search goes on where it stopped. A feed has trials of its own: give it --data and
--out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lemur_mini import pipeline
from lemur_mini.config import BASELINE, CLASSROOM
from lemur_mini.devices import choose_device
from lemur_mini.files import write_json
from lemur_mini.reproduce.variants import IDS

RESULT = Path("data/results/search.json")
RATES = [  # of the Transformers and the ranker, and that of the ids by it
    {"learning_rate": rate, "id_lr_multiplier": times}
    for rate, times in (
        *((4e-3, 1.0), (2e-3, 1.0), (2e-3, 3.0), (5e-4, 12.0)),
        *((1e-3, 6.0), (1e-3, 12.0), (1e-3, 24.0)),
    )
]
BEST = {"learning_rate": 1e-3, "id_lr_multiplier": 12.0}
# Eight for each model. Variants of LEMUR inherit its settings and get trials for what
# is theirs alone.
TRIALS = {
    "rankmixer_longer": [
        *({"groups": BASELINE, "longer_merge": 1} | rates for rates in RATES),
        {"groups": BASELINE, "longer_merge": 4} | BEST,
    ],
    "lemur": [
        *(BEST | {"sqdc_weight": w} for w in (0.015, 0.005, 0.01, 0.02, 0.03)),
        BEST | {"sqdc_weight": 0.015, "id_lr_multiplier": 24.0},
        BEST | {"sqdc_weight": 0.015, "id_lr_multiplier": 6.0},
        {"learning_rate": 2e-3, "id_lr_multiplier": 6.0, "sqdc_weight": 0.015},
    ],
    **{
        name: [
            *(changes | rates for rates in RATES),
            changes | {"learning_rate": 1e-3, "id_lr_multiplier": 48.0},
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
# Where there are no queries, beside FEED_CHANGES; eight for each model again.
HALF, TWICE = {"learning_rate": 5e-4}, {"learning_rate": 2e-3}
SMALL = {"batch_pages": 16}  # a sitting is then many steps, not one or two
FEED_TRIALS = {
    "rankmixer_longer": [
        {"groups": BASELINE} | changes
        for changes in (
            *(BEST, HALF, TWICE, {"learning_rate": 4e-3}),
            *(
                {"id_lr_multiplier": 24.0},
                TWICE | {"id_lr_multiplier": 6.0},
                SMALL,
                SMALL | HALF,
            ),
        )
    ],
    "lemur": [
        *(BEST, TWICE, TWICE | {"encoder_lr_multiplier": 2.0}),
        TWICE
        | {"encoder_lr_multiplier": 0.3, "forward_share": 1.0, "backward_share": 0.25},
        SMALL
        | {"encoder_lr_multiplier": 0.3, "forward_share": 0.3, "backward_share": 0.3},
        *(TWICE | {"token_width": 128}, {"sqdc_weight": 0.003}, {"sqdc_weight": 0.03}),
    ],
}


def main(arguments: list[str] | None = None) -> None:
    """Run the trials that the result file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--models", nargs="+", help="default: all that have trials")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    prepared = pipeline.prepare(options.data, CLASSROOM, device)
    trials = FEED_TRIALS if prepared.sizes.feed else TRIALS
    if unknown := set(options.models or ()) - set(trials):
        parser.error(f"no trials of {', '.join(unknown)}; of {', '.join(trials)}")
    for model in options.models or trials:
        for changes in trials[model]:
            once(prepared, model, changes, options.seed, options.out)


def once(prepared: pipeline.Prepared, model: str, changes: dict, seed: int, out: Path):
    """Run a trial and add it to the file, unless it is there."""
    key = {"model": model, "seed": seed, "data": prepared.checksum}
    key["changes"] = json.loads(json.dumps(changes))
    done = finished(out)
    if any(all(row[k] == key[k] for k in key) for row in done):
        return
    row = key | trial(prepared, changes, seed)
    write_json(out, [*done, row])
    print(f"QAUC {row['qauc']:.4f}, AUC {row['auc']:.4f}: {model} {changes}")


def finished(path: Path) -> list[dict]:
    """The trials that a result file holds, none where there is no file. Stops with a
    message at a file that is not a search's, rather than write over it."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text("utf-8"))
        if all({"model", "seed", "changes", "data"} <= set(row) for row in rows):
            return rows
    except (ValueError, TypeError):
        pass
    raise SystemExit(
        f"{path}: not the result of a search; move it away, or give another --out"
    )


def trial(prepared: pipeline.Prepared, changes: dict, seed: int) -> dict:
    """Train on the days before validation, score the validation days."""
    dataset = prepared.dataset
    config = pipeline.config_for(CLASSROOM, dataset).replace(**changes)
    period = dataset.valid_start, dataset.test_start
    pipeline.require_period(prepared, *period, "choose on")
    run = pipeline.fit(prepared, config, seed, dataset.valid_start)
    result = pipeline.evaluate_period(prepared, run, *period)
    kept = {k: result[k] for k in ("auc", "qauc", "log_loss", "cold_auc")}
    return kept | {"train_seconds": round(run.seconds)}
