"""python -m tests.benchmarks.serving: what serving costs, to data/results/serving.json.

Milliseconds to add a document; requests a second and waiting times of clients while
documents are added and all vectors are swapped; recall of the graph beyond 100,000
documents; the exported ranker beside the model."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import torch

from lemur_mini import Ranker, files, pipeline
from lemur_mini.config import CLASSROOM
from lemur_mini.files import ROOT, write_json
from lemur_mini.serving import nearest, program
from lemur_mini.serving.journal import Journal
from lemur_mini.serving.server import running

PATH = ROOT / "data" / "results" / "serving.json"
CLIENTS, SHOWN = (1, 4, 16), 24


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: median and 99th percentile."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def timed(call, repeats: int) -> dict[str, float]:
    """... of a call, after three that warm up."""
    taken = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return percentiles(taken[3:])


def adding(ranker: Ranker, count: int) -> dict:
    """Milliseconds a document, one by one and 16 at a time, with texts and covers."""
    dataset, taken = ranker.prepared.dataset, {}
    for size in (1, 16):
        seconds = []
        for k in range(count):
            new = [_copy(dataset, 10**6 * size + size * k + j) for j in range(size)]
            began, cpu = time.perf_counter(), time.process_time()
            ranker.add_documents(new)
            wall = time.perf_counter() - began
            seconds.append((wall / size, (time.process_time() - cpu) / size))
        wall, cpu = np.array(seconds[1:]).T
        mean = {"cpu_mean": round(1000 * float(cpu.mean()), 2)}
        taken[f"{size} at a time"] = percentiles(wall.tolist()) | mean
    return taken


def _copy(dataset, name: int) -> dict:
    row = name % len(dataset.items)
    texts = {field: values[row] for field, values in dataset.texts.items()}
    return {"item_id": name, "image": dataset.images[row]} | texts


def serve(folder: Path) -> None:
    """In a process of its own: serve, and swap all vectors for their opposites and
    back, five times a second, until standard input ends."""
    torch.set_num_threads(1)
    ranker, over = Ranker.from_pretrained(folder), threading.Event()
    rows = np.arange(ranker.model.sizes.documents)
    states = [-ranker.model.bank.vectors.clone(), ranker.model.bank.vectors.clone()]

    def swap():
        for turn in range(10**9):
            if over.wait(0.2):
                return
            ranker.refresh(rows, states[turn % 2])

    journal = Journal(folder / "journal.jsonl")
    with running(ranker, journal=journal) as url:
        print(url, flush=True)
        swaps = threading.Thread(target=swap)
        swaps.start()
        sys.stdin.read()
        over.set()
        swaps.join()


def load_test(ranker: Ranker, seconds: float) -> list[dict]:
    """Clients of a server in another process; see `serve`."""
    with tempfile.TemporaryDirectory() as folder:
        ranker.save_pretrained(folder)
        command = [sys.executable, "-m", "tests.benchmarks.serving", "--serve", folder]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            url = process.stdout.readline().strip()
            rows = [crowd(url, ranker, count, seconds) for count in CLIENTS]
            process.stdin.close()
    return rows


def crowd(url: str, ranker: Ranker, count: int, seconds: float) -> dict:
    """So many clients rank the same page over and over, one adds documents and tells
    what was watched; no answer may be of two states, nothing added may be lost."""
    names = ranker.known.names
    page = {"user": names["users"][0], "query": names["queries"][0]}
    page["items"] = names["items"][:SHOWN]
    wanted = _two_states(ranker, page)
    before = httpx.get(f"{url}/health").json()["documents"]
    taken, torn, added, over = [], [], [], time.monotonic() + seconds

    def ask():
        with httpx.Client(base_url=url, timeout=60) as client:
            while time.monotonic() < over:
                began = time.perf_counter()
                answer = client.post("/rank", json=page).json()["ranked"]
                taken.append(time.perf_counter() - began)
                found = np.array([hit["chance"] for hit in answer])
                torn.append(min(np.abs(found - one).max() for one in wanted) > 1e-3)

    def tell():
        with httpx.Client(base_url=url, timeout=60) as client:
            while time.monotonic() < over:
                name = 10**7 + before + len(added)
                new = {"item_id": name, "title": "something new"}
                answer = client.post("/documents", json={"documents": [new]})
                added.append(answer.status_code == 200)
                seen = {"user": "guest", "item": name}
                added[-1] &= client.post("/watched", json=seen).status_code == 200
                time.sleep(0.05)

    people = [threading.Thread(target=ask) for _ in range(count)]
    people.append(threading.Thread(target=tell))
    for each in people:
        each.start()
    for each in people:
        each.join()
    now = httpx.get(f"{url}/health").json()["documents"]
    facts = {"clients": count, "requests": len(taken), "torn": int(sum(torn))}
    facts |= {"per_second": round(len(taken) / seconds, 1)} | percentiles(taken)
    return facts | {"added": sum(added), "lost": sum(added) - (now - before)}


def _two_states(ranker: Ranker, page: dict) -> list[np.ndarray]:
    out, rows = [], np.arange(ranker.model.sizes.documents)
    for _ in range(2):
        ranker.refresh(rows, -ranker.model.bank.vectors)
        ranked = ranker.rank_ids(page["user"], page["query"], page["items"])
        out.append(np.array([chance for _, chance in ranked]))
    return out


def recall(ranker: Ranker, count: int, asked: int = 200) -> dict:
    """Share of the ten nearest that the graph finds among vectors like the bank's, and
    what a search takes."""
    rng, bank = np.random.default_rng(0), ranker.model.bank.vectors.numpy()
    near = bank[rng.integers(len(bank), size=count)]
    near = near + 0.3 * near.std() * rng.normal(size=near.shape)
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    texts = ranker.known.names["queries"][:asked]
    query = np.stack([ranker.query_vector(text).numpy() for text in texts])
    facts, found = {"vectors": count, "width": bank.shape[1]}, {}
    for name, exact, faiss in (
        ("numpy", 0, False),
        ("faiss, exact", count, True),
        ("faiss, graph", 0, True),
    ):
        began = time.perf_counter()
        engine = nearest.engine_of(vectors, exact, faiss)
        facts[name] = {"build_s": round(time.perf_counter() - began, 1)}
        one = query[:1]
        facts[name] |= timed(lambda e=engine, q=one: e.search(q, 10), 50)
        found[name] = [set(row.tolist()) for row in engine.search(query, 10)[1]]
    for name, sets in found.items():
        pairs = zip(sets, found["numpy"], strict=True)
        hits = float(np.mean([len(a & b) / 10 for a, b in pairs]))
        facts[name]["recall_at_10"] = round(hits, 4)
    return facts


def exported(ranker: Ranker, repeats: int) -> dict:
    """Milliseconds a page of 24 candidates: the model, and its two exported forms."""
    import onnxruntime

    from lemur_mini.serving.export import load_program

    model, facts = ranker.model, {"candidates": SHOWN}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        began = time.perf_counter()
        graph, onnx = program.export_ranker(model, Path(folder))
        facts["export_s"] = round(time.perf_counter() - began, 1)
        facts["onnx_mb"] = round(onnx.stat().st_size / 1e6, 1)
        given = _page(ranker)
        called, loaded = program.Program(model), load_program(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx, options)
        arrays = [value.numpy() for value in given]
        feeds = dict(zip(program.inputs_of(model), arrays, strict=True))
        feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
        forms = {
            "eager": lambda: called(*given).numpy(),
            "torch.export": lambda: loaded(*given).numpy(),
            "onnxruntime": lambda: session.run(None, feeds)[0],
        }
        for name, call in forms.items():
            gap = float(np.abs(call() - forms["eager"]()).max())
            facts[name] = timed(call, repeats) | {"largest_difference": gap}
    return facts


def _page(ranker: Ranker) -> tuple[torch.Tensor, ...]:
    names, model = ranker.known.names, ranker.model
    batch = ranker.batch([(names["users"][0], names["queries"][0], np.arange(SHOWN))])
    known = dict(zip(program.inputs_of(model), program.example(model, 1), strict=True))
    return tuple(
        value if getattr(batch, name, None) is None else getattr(batch, name)
        for name, value in known.items()
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and write data/results/serving.json."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving")
    add = parser.add_argument
    add("--serve", type=Path, help="for this program's own use")
    add("--seconds", type=float, default=5.0, help="of each crowd of clients")
    add("--vectors", type=int, default=101_000)
    add("--documents", type=int, default=25)
    add("--only", help="one part; the others stay as they are stored")
    add("--out", type=Path, default=PATH)
    options = parser.parse_args(arguments)
    if options.serve:
        return serve(options.serve)
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    prepared = pipeline.prepare(ROOT / "data", CLASSROOM, cpu)
    ranker = Ranker.load(ROOT / "data/models/lemur.safetensors", prepared)
    parts = {
        "load_test": lambda: load_test(ranker, options.seconds),
        "add_documents_ms": lambda: adding(ranker, options.documents),
        "recall": lambda: recall(ranker, options.vectors),
        "exported_ms": lambda: exported(ranker, 100),
    }
    facts = json.loads(options.out.read_text()) if options.only else {}
    facts |= files.provenance("python -m tests.benchmarks.serving", cpu)
    facts["cores"] = os.cpu_count()
    for name in [options.only] if options.only else parts:
        facts[name] = parts[name]()
        facts["load"] = round(os.getloadavg()[0], 1)
        write_json(options.out, facts)


if __name__ == "__main__":
    main()
