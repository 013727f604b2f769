"""python -m lemur_mini: train the id baseline and LEMUR, print both by the ceiling."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from lemur_mini import continuing, doubts, evaluation, files, pipeline, plots
from lemur_mini.command import ONE_LINE, OptionError, parse
from lemur_mini.config import BASELINE_CHANGES, CLASSROOM, SCALES, Config
from lemur_mini.data.health import health
from lemur_mini.data.loading import Dataset
from lemur_mini.devices import choose_device
from lemur_mini.files import (
    DATA,
    require_folder,
    write_atomically,
    write_json,
    write_text_atomically,
)
from lemur_mini.interrupts import Stopped, keeping
from lemur_mini.parallel.process import process_of, scaled
from lemur_mini.parallel.ranks import ALONE, Ranks, join
from lemur_mini.preparation import variant, with_dense, with_ours
from lemur_mini.simulate import learnable
from lemur_mini.tracking import Tracker, tracker

NAMES = plots.NAMES


@dataclass(frozen=True)
class Options:
    """Train RankMixer + LONGER on ids and the full LEMUR from raw text and images, one
    pass in time order each; test both on the last days and print them beside the best
    that any model could reach."""

    data: str = str(DATA)
    """A folder with items.parquet and impressions.parquet, or the id of such a data set
    on the hub."""
    scale: Literal["classroom", "gpu"] = "classroom"
    """Sizes of the model: a laptop, or one GPU. Single fields: --config.*"""
    seed: int = 0
    """Of the first weights and of sampling."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes cuda, then mps, then cpu."""
    out: Path = Path("runs/main")
    """Folder for what is written."""
    resume: bool = False
    """Go on from the checkpoints in --out."""
    form: Literal["auto", "printed", "ours"] = "auto"
    """Of LEMUR: as the paper prints it, or with what we add (config.OURS); auto adds it
    on the shipped platform, whose pages were really shown."""
    bank: Literal["replicated", "sharded"] = "replicated"
    """Under torchrun: the memory bank whole on every rank, or cut by rows."""
    scale_batch: bool = False
    """Under torchrun: as many pages for each rank as one alone would take, so that the
    batch grows with ranks, and the learning rate with their square root."""
    numbers: Literal["auto", "on", "off"] = "auto"
    """Statistics and word match beside the paper's features: auto adds them to all data
    but the shipped platform, whose claims are the paper's. A run that goes on keeps
    what it has."""
    stream: bool = False
    """Train LEMUR alone on --data as it is read, and test nothing: a log that is larger
    than memory, in time order, or in parts or date= folders."""
    continue_: Annotated[Path | None, tyro.conf.arg(name="continue")] = None
    """The --out folder of a run: train its LEMUR on the days of --data that it has not
    seen, and write it back. After a stop, the same command goes on."""
    track: Literal["auto", "off"] = "auto"
    """Losses while they fall: auto writes them to --out/tensorboard where TensorBoard
    is installed; watch them with tensorboard --logdir."""
    config: Config = CLASSROOM
    """Every number of the model and its training, of both models where both have it."""


def options_of(arguments: list[str] | None) -> Options:
    """What the command line says; fields of --config start from those of --scale."""
    prog = "python -m lemur_mini"
    usual = Options(config=SCALES["classroom"])
    options = parse(Options, arguments, prog=prog, default=usual)
    if options.scale != usual.scale:
        usual = Options(scale=options.scale, config=SCALES[options.scale])
        options = parse(Options, arguments, prog=prog, default=usual)
    if options.config.scale != usual.config.scale:
        raise OptionError(f"--config.scale is a name; use --scale {options.scale}")
    if options.seed < 0:
        raise OptionError(f"--seed {options.seed} is negative; use 0 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 2 for what the reader can mend, 130
    for Ctrl-C, 143 for SIGTERM."""
    ranks = ALONE
    try:
        options = options_of(arguments)
        device = choose_device(options.device)
        ranks, device = join(device, options.bank == "sharded")
        with ranks.together():
            if options.stream or options.continue_:
                print(grow(options, device, ranks))
                return 0
            print(text_table(run(options, device, ranks)))
            print(f"written: {options.out}/report.json, report.png, checkpoints")
    except ONE_LINE as error:
        if ranks.has_the_word():
            print(f"lemur_mini: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if ranks.has_the_word():
            print(f"\nstopped{how_to_go_on(options, stopped)}")
        return getattr(stopped, "code", 130)
    return 0


def how_to_go_on(options: Options, stopped: KeyboardInterrupt) -> str:
    """What to do after a stop: --resume is promised where a checkpoint of these very
    settings is there to go on from."""
    if options.stream or options.continue_:
        run = options.continue_ or options.out
        return f"; --continue {run} --data {options.data} goes on from its last step"
    if isinstance(stopped, Stopped) and stopped.saved:
        return f"; --resume --out {options.out} goes on from {stopped.saved.name}"
    return " before there was a checkpoint"


def grow(options: Options, device: torch.device, ranks: Ranks = ALONE) -> str:
    """Begin on a stream, or go on with new days of one; says what was done."""
    together = {
        "process": process_of(ranks),
        "deal": ranks.deal(),
        "track": None if ranks.rank else tracked(options, "lemur"),
    }
    if options.continue_:
        require_alone(options)
        wanted = vars(options.config).items() - vars(SCALES[options.scale]).items()
        wanted = dict(sorted(wanted))
        run = continuing.go_on(
            options.continue_, options.data, device, wanted, **together
        )
    else:
        config = with_numbers(options)
        config = with_ours(config) if options.form == "ours" else config
        config = scaled(config, ranks.size) if options.scale_batch else config
        seed, out = options.seed, options.out
        run = continuing.begin(options.data, config, seed, device, out, **together)
    last = [record["ctr"] for record in run.log[-10:]]
    return (
        f"{run.step} steps, loss of the last pages before they were learnt "
        f"{sum(last) / max(len(last), 1):.4f}\n"
        f"written: {options.continue_ or options.out}/{continuing.NAME}"
    )


def require_alone(options: Options) -> None:
    """Raise OptionError where --continue stands with what a run has decided already."""
    usual, own = Options(), ("seed", "out", "resume", "form", "numbers", "stream")
    for name in own:
        if getattr(options, name) != getattr(usual, name):
            raise OptionError(
                f"--continue keeps the {name} of the run; leave "
                f"--{name.replace('_', '-')} out"
            )


def run(options: Options, device: torch.device, ranks: Ranks = ALONE) -> dict:
    """Do what the options say; returns the report that is also written."""
    config, lemur = config_of(options)
    if options.scale_batch:
        config, lemur = (scaled(c, ranks.size) for c in (config, lemur))
    print(f"reading {options.data}")
    prepared = pipeline.prepare(options.data, lemur, device)
    dataset = prepared.dataset
    config, lemur = (pipeline.config_for(c, dataset) for c in (config, lemur))
    print(
        f"{len(dataset.log.label):,} impressions, {len(dataset.users):,} users, "
        f"{len(dataset.items):,} documents, device {device}"
    )
    pipeline.require_period(prepared, dataset.test_start, None, "test on")
    require_folder(options.out)
    if not ranks.rank:
        say_health(dataset)
    configs = {"rankmixer_longer": variant(config, BASELINE_CHANGES), "lemur": lemur}
    models, logs = train_and_test(options, prepared, configs, process_of(ranks))
    report = provenance(options, prepared, device) | {
        "ranks": ranks.size,
        "ceiling": pipeline.ceiling(prepared, dataset.test_start, None),
        "learnable": learnable.stored(prepared.checksum, dataset.test_start),
        "means": pipeline.smoothed_baseline(prepared, dataset.test_start, None),
        "trees": pipeline.trees(prepared, dataset.test_start, None),
        "numbers": list(config.dense),
        "models": models,
        "training_log": logs,
    }
    before = pipeline.shown_between(prepared, None, dataset.test_start)
    found = doubts.of_log(dataset) + doubts.of_report(report, dataset.log.label[before])
    report["doubts"] = found
    if not ranks.rank:
        write(options.out, report, prepared)
    return report


def config_of(options: Options) -> tuple[Config, Config]:
    """The configuration `with_numbers`; and that of LEMUR, with what we add to the
    paper's form where they ask for it."""
    shipped, config = options.data == str(DATA), with_numbers(options)
    ours = options.form == "ours" or (options.form == "auto" and shipped)
    return config, with_ours(config) if ours else config


def with_numbers(options: Options) -> Config:
    """The configuration with statistics and match where the options add them."""
    auto = options.numbers == "auto" and options.data != str(DATA)
    add = auto or options.numbers == "on"
    return with_dense(options.config) if add else options.config


def say_health(dataset: Dataset) -> None:
    """What is not used, what leaks, and what was repaired or missing, on the screen."""
    for line in health(dataset).warnings():
        print(line)
    for what, number in dataset.counts.items():
        if number and not what.startswith("ignored column"):  # these are said above
            print(f"counted: {number:,} {what}")


def train_and_test(
    options: Options,
    prepared: pipeline.Prepared,
    configs: dict[str, Config],
    process: pipeline.OneProcess,
) -> tuple[dict, dict]:
    """Measures and training log of both models, by name."""
    models, logs, known = {}, {}, []
    start = prepared.dataset.test_start
    with keeping(known):
        for name, config in configs.items():
            path = options.out / f"{name}.safetensors"
            trained = pipeline.fit(
                prepared,
                config,
                options.seed,
                start,
                path,
                options.resume,
                NAMES[name],
                process,
                track=tracked(options, name) if process.leads else None,
            )
            known.append(path)
            models[name] = pipeline.evaluate_period(prepared, trained, start, None)
            models[name] |= cost(trained)
            logs[name] = trained.log
    return models, logs


def tracked(options: Options, name: str) -> Tracker | None:
    """Who is told the losses of this model."""
    folder = (options.continue_ or options.out) / "tensorboard" / name
    return tracker(folder) if options.track == "auto" else None


def provenance(
    options: Options, prepared: pipeline.Prepared, device: torch.device
) -> dict:
    """What was run, on what, when, and with which versions."""
    dataset = prepared.dataset
    return {
        "data": {
            "source": "shipped" if options.data == str(DATA) else options.data,
            "name": dataset.name,
            "checksum": prepared.checksum,
            "impressions": len(dataset.log.label),
            "users": len(dataset.users),
            "documents": len(dataset.items),
            "counts": {k: v for k, v in dataset.counts.items() if v},
        },
        "scale": options.scale,
        "form": options.form,
        "seed": options.seed,
    } | files.provenance(" ".join(["python -m lemur_mini", *sys.argv[1:]]), device)


def cost(trained) -> dict:
    """What a training took."""
    impressions = trained.step * trained.config.batch_pages * trained.config.page_size
    return {
        "train_seconds": round(trained.seconds, 1),
        "impressions_per_second": round(impressions / max(trained.seconds, 1e-9)),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
    }


def write(out: Path, report: dict, prepared: pipeline.Prepared) -> None:
    """Report, figure and tokenizer, each whole or not at all."""
    write_json(out / "report.json", report)
    figure = plots.report_figure(report, report["training_log"]["lemur"])
    write_atomically(out / "report.png", lambda part: plots.save_figure(figure, part))
    tokenizer = prepared.tokenizer.backend_tokenizer.to_str(pretty=True)
    write_text_atomically(out / "tokenizer.json", tokenizer)


def text_table(report: dict) -> str:
    """The result as text: one line a model, and the ceiling."""
    lines = [f"{'':28}{'AUC':>8}{'QAUC':>8}{'cold AUC':>10}{'seconds':>9}"]
    for name, model in report["models"].items():
        lines.append(
            f"{NAMES[name]:28}{model['auc']:8.4f}{model['qauc']:8.4f}"
            f"{model['cold_auc']:10.4f}{model['train_seconds']:9.0f}"
        )
    trees, means = report["trees"], report["means"]
    learnt, best = report["learnable"], report["ceiling"]
    lines.append(
        f"{'boosted trees':28}{trees['auc']:8.4f}{trees['qauc']:8.4f}"
        f"{trees['cold_auc']:10.4f}{trees['train_seconds']:9.0f}"
    )
    lines.append(
        f"{'means of document and user':28}{means['auc']:8.4f}{means['qauc']:8.4f}"
        f"{means['cold_auc']:10.4f}"
    )
    values = [report["models"][name]["qauc"] for name in NAMES]
    if learnt:
        lines.append(
            f"{'what can be learnt':28}{learnt['auc']:8.4f}{learnt['qauc']:8.4f}"
        )
    if best:
        lines.append(
            f"{'ceiling (true chances)':28}{best['auc']:8.4f}{best['qauc']:8.4f}"
        )
        share = evaluation.gap_closed(*values, best["qauc"])
        lines.append(f"LEMUR closes {share:.0%} of the gap in QAUC")
    if learnt:
        share = evaluation.gap_closed(*values, learnt["qauc"])
        lines.append(f"and reaches {share:.0%} of what can be learnt")
    lines += [f"doubt: {line}" for line in report["doubts"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
