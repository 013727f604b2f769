"""What the stored runs say, for notebooks and tables."""

from __future__ import annotations

import json

from lemur_mini import plots
from lemur_mini.evaluation import mean_and_interval
from lemur_mini.files import RESULTS
from lemur_mini.reproduce import claims


def stored_runs(name: str, scale: str = "classroom") -> dict[tuple[str, int], dict]:
    """The stored runs of a data set at a scale, by variant and seed."""
    return claims.load(RESULTS / f"{name}-{scale}")


def spread(values: list[float], digits: int = 4) -> str:
    """Mean, and the half width of its interval where there are several seeds."""
    mean, half = mean_and_interval(values)
    more = "" if half is None else f" ± {half:.{digits}f}"
    return f"{mean:.{digits}f}{more}"


def spread_of_shares(values: list[float]) -> str:
    """Mean share in per cent, with the half width of its interval over seeds."""
    mean, half = mean_and_interval(values)
    return f"{mean:.0%}" if half is None else f"{mean:.0%} ± {100 * half:.0f}"


def claim_rows(name: str = "platform", scale: str = "classroom") -> list[dict]:
    """What the stored runs say of every claim."""
    return claims.measure_all(stored_runs(name, scale))


def reports(name: str) -> list[dict]:
    """What the main command would report, by seed, from the stored runs."""
    runs = stored_runs(name)
    found = []
    for seed in claims.seeds_of(runs, *plots.NAMES):
        pair = {model: runs[model, seed] for model in plots.NAMES}
        facts = {k: pair["lemur"][k] for k in ("seed", "device", "date", "ceiling")}
        models = {
            model: run["test"] | {"train_seconds": run["seconds"]}
            for model, run in pair.items()
        }
        logs = {model: run["log"] for model, run in pair.items()}
        found.append(facts | {"models": models, "training_log": logs})
    return found


def alone(name: str) -> dict:
    """The report of the main command on a data set, with the machine to itself."""
    return json.loads((RESULTS / f"main-{name}.json").read_text("utf-8"))
