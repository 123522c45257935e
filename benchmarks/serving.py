"""Load test of `dedn serve`: are answers lost or wrong under load, and does the server's memory grow?

    python benchmarks/serving.py                        # a small model with random weights
    python benchmarks/serving.py runs/quickstart ...    # also models of your own
    python benchmarks/serving.py --quick                # few requests, nothing written

Every answer is compared with the pipeline's answer to the same image and candidates in this process.
"""

import argparse
import base64
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import environment, processor

PACKAGES = ("dedn-hf", "torch", "transformers", "timm", "pillow", "starlette", "uvicorn", "h11")
TOLERANCE = 1e-6


class Case(NamedTuple):
    """The body of a request, and the answer that is right."""

    body: bytes
    expected: list[dict[str, Any]]


def save_small_model(folder: Path) -> None:
    """Save an untrained resnet10t at 32 pixels, with ten classes and twelve attributes."""
    import torch

    from dedn_hf import AttributeTable, DEDNForZeroShot

    torch.manual_seed(0)
    values = np.random.default_rng(0).uniform(0, 100, (10, 12))
    names, attributes = [f"bird {i}" for i in range(10)], [f"attribute {i}" for i in range(12)]
    table = AttributeTable(names, attributes, values, ["head"] * 6 + ["wing"] * 6, ["train"] * 7 + ["unseen"] * 3)
    DEDNForZeroShot.from_timm("resnet10t", table, image_size=32, pretrained=False).save_pretrained(folder)


def make_cases(model: str) -> list[Case]:
    """Requests of eight images, each with four sets of candidates."""
    from dedn_hf.publish.serving import load_pipeline

    classify = load_pipeline(model)
    table = classify.model.attribute_table
    names, attributes, most = table.class_names, table.attribute_names, table.class_attributes.max(axis=0).tolist()
    described = {names[0]: None, "a new class": {attributes[0]: most[0], attributes[-1]: most[-1] / 2}}
    choices = ({}, {"candidate_labels": names[:3]}, {"top_k": 2}, {"candidate_labels": described})
    cases = []
    for number in range(8):
        image = make_image(number)
        for parameters in choices:
            body = {"inputs": base64.b64encode(image).decode(), "parameters": parameters}
            cases.append(Case(json.dumps(body).encode(), classify(image, **parameters)))
    if len({json.dumps(case.expected) for case in cases}) < len(cases):
        raise RuntimeError("Two requests have the same answer, so a mix-up of the two would not be noticed.")
    return cases


def make_image(number: int) -> bytes:
    """An image file of random colours. Size, shape and format depend on `number`."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((60 + 90 * number, 400 - 40 * number)).save(buffer, ("JPEG", "PNG", "WEBP")[number % 3])
    return buffer.getvalue()


@contextmanager
def served(model: str) -> Iterator[tuple[psutil.Process, int]]:
    """Run `dedn serve` in a process of its own; gives the process and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dedn_hf", "serve", model, "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"dedn serve {model} stopped. Run it by hand to see why.")
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(60)


def send(cases: list[Case], port: int, requests: int, clients: int) -> tuple[Counter, float]:
    """Send `requests` from `clients` at the same time.

    Returns how many answers were right, wrong and lost, and the requests per second.
    """
    numbers, results = iter(range(requests)), Counter()
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return connection.close()
            result = ask(connection, cases[number % len(cases)])
            with lock:
                results[result] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results["lost"] = requests - results["right"] - results["wrong"]
    return results, requests / (time.perf_counter() - start)


def ask(connection: http.client.HTTPConnection, case: Case) -> str:
    try:
        connection.request("POST", "/", case.body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()
        return "lost"
    if response.status != 200:
        return "lost"
    return "right" if is_same(answer, case.expected) else "wrong"


def is_same(answer: list[dict], expected: list[dict]) -> bool:
    return [entry["label"] for entry in answer] == [entry["label"] for entry in expected] and all(
        abs(given["score"] - wanted["score"]) <= TOLERANCE for given, wanted in zip(answer, expected, strict=True)
    )


def megabytes(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 2**20, 1)


def measure(model: str, requests: int, clients: int) -> dict[str, Any]:
    """The results of one model."""
    cases = make_cases(model)
    with served(model) as (process, port):
        _, rate_of_one = send(cases, port, requests // 5, 1)
        send(cases, port, requests // 2, clients)  # warm-up: threads start, buffers reach their size
        memory, rates, results = [megabytes(process)], [], Counter()
        for _ in range(4):  # four quarters, to see whether memory still grows in the last
            counts, rate = send(cases, port, requests // 4, clients)
            results += counts
            rates.append(rate)
            memory.append(megabytes(process))
    return {
        "requests": requests // 4 * 4,
        "clients": clients,
        "lost": results["lost"],
        "wrong": results["wrong"],
        "different_requests": len(cases),
        "rss_mb_after_warm_up": memory[0],
        "rss_mb_after_each_quarter": memory[1:],
        "rss_growth_percent": round(100 * (memory[-1] / memory[0] - 1), 2),
        "throughput_of_all_clients_to_that_of_one": round(float(np.mean(rates)) / rate_of_one, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="folders of saved models to test as well")
    parser.add_argument("--quick", action="store_true", help="few requests, nothing written")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests, arguments.clients = 40, 4
    results = {}
    with TemporaryDirectory() as folder:
        save_small_model(Path(folder))
        for model in [folder, *arguments.models]:
            name = "resnet10t, 32 pixels, random weights" if model == folder else model
            results[name] = measure(model, arguments.requests, arguments.clients)
            print(name, json.dumps(results[name], indent=2))
    print(f"on {processor()}")
    surroundings = environment() | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "versions": {package: version(package) for package in PACKAGES},
    }
    if not arguments.quick:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(
            json.dumps({"environment": surroundings, "results": results}, indent=2) + "\n", encoding="utf-8"
        )
    return int(any(result["lost"] or result["wrong"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
