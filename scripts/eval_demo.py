"""Asks a server about held-out pictures and prints how often it was right.

    python -m scripts.eval_demo              # ours, ours without the repairs, llama.cpp's own
    python -m scripts.eval_demo --alone      # ours only; the others take a build of llama-server
    python -m scripts.eval_demo --base-url http://127.0.0.1:8000/v1

Works with any server that speaks OpenAI's chat completions. Needs httpx, numpy and Pillow, and
for the held-out fonts font-source-sans-pro, font-source-serif-pro and font-hanken-grotesk.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from scripts.demo.heldout import TARGETS, Case, cases, is_right
from scripts.demo.servers import llama_server, our_server
from scripts.llama_server import find_or_build

Accuracy = dict[str, tuple[float, int]]


class Client:
    """Asks one server."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx.Client(base_url=base_url, headers=headers, timeout=120)
        reply = self.http.get("models")
        reply.raise_for_status()
        self.model = str(reply.json()["data"][0]["id"])
        self.resent = 0

    def ask(self, case: Case) -> str:
        """The greedy answer to a case; where the server cannot read the file, to it as a PNG."""
        reply = self._post(case)
        if reply.status_code == 400:
            self.resent += 1
            reply = self._post(case.as_png())
        reply.raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])

    def _post(self, case: Case) -> httpx.Response:
        body = {"model": self.model, "messages": case.messages(), "temperature": 0}
        return self.http.post("chat/completions", json=body | {"max_tokens": 64})


@dataclass(frozen=True, slots=True)
class Result:
    """What a server answered to all cases, how long that took, and files it could not read."""

    name: str
    cases: list[Case]
    answers: list[str]
    seconds: float
    resent: int

    @property
    def wrong(self) -> list[tuple[Case, str]]:
        """Cases with the wrong answers that they got."""
        both = zip(self.cases, self.answers, strict=True)
        return [(case, answer) for case, answer in both if not is_right(case, answer)]

    @property
    def accuracy(self) -> Accuracy:
        """Share of right answers and number of questions, by category; those with targets first."""
        right: dict[str, list[bool]] = defaultdict(list)
        for case, answer in zip(self.cases, self.answers, strict=True):
            right[case.category].append(is_right(case, answer))
        order = [*TARGETS, *sorted(set(right) - set(TARGETS))]
        hits = {name: right[name] for name in order if right[name]}
        return {name: (sum(marks) / len(marks), len(marks)) for name, marks in hits.items()}

    def report(self) -> dict[str, object]:
        """Everything, for a JSON file."""
        wrong = [
            {
                "category": case.category,
                "question": case.question,
                "expected": case.answer,
                "answer": answer,
            }
            for case, answer in self.wrong
        ]
        return {"accuracy": self.accuracy, "seconds": self.seconds, "wrong": wrong}


def evaluate(name: str, base_url: str, asked: list[Case], parallel: int, key: str = "") -> Result:
    """Asks one server everything."""
    client = Client(base_url.rstrip("/") + "/", key)
    began = time.monotonic()
    with ThreadPoolExecutor(parallel) as workers:
        answers = list(workers.map(client.ask, asked))
    return Result(name, asked, answers, time.monotonic() - began, client.resent)


def show(results: list[Result]) -> None:
    """Prints the table, a column for each server."""
    tables = [result.accuracy for result in results]
    heads = "".join(f"{result.name:>16}" for result in results)
    print(f"{'':<16}{heads}{'target':>10}{'questions':>12}")
    for name, (share, count) in tables[0].items():
        shares = "".join(f"{table[name][0]:>16.1%}" for table in tables)
        target = f"{TARGETS[name]:.0%}" if name in TARGETS else ""
        below = "  below target" if share < TARGETS.get(name, 0) else ""
        print(f"{name:<16}{shares}{target:>10}{count:>12}{below}")
    for result in results:
        each = result.seconds / len(result.cases)
        print(
            f"{result.name}: {len(result.cases)} questions in {result.seconds:.0f} s, "
            f"one every {each * 1000:.0f} ms; {result.resent} again as PNG, unread as they were"
        )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The demo model's accuracy through a server.")
    parser.add_argument("--base-url", help="a running server; without it ours is started")
    parser.add_argument("--alone", action="store_true", help="ask our server only")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--each", type=int, default=2, help="questions about every picture")
    parser.add_argument("--parallel", type=int, default=2, help="requests at a time")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--json", type=Path, help="also write figures and wrong answers here")
    parser.add_argument("--wrong", action="store_true", help="also print the wrong answers")
    return parser.parse_args()


def _ask_servers(options: argparse.Namespace, asked: list[Case]) -> Iterator[Result]:
    """One server after the other, each alone on the machine."""
    if options.base_url:
        yield evaluate("server", options.base_url, asked, options.parallel, options.api_key)
        return
    with our_server() as url:
        yield evaluate("llava-server", url, asked, options.parallel)
    if options.alone:
        return
    with our_server("--llava-fix", "off") as url:
        yield evaluate("llava-fix off", url, asked, options.parallel)
    with llama_server(find_or_build()) as url:
        yield evaluate("llama-server", url, asked, options.parallel)


def main() -> None:
    """Draws, asks, judges, prints."""
    options = arguments()
    asked = cases(options.pictures, each=options.each)
    results = list(_ask_servers(options, asked))
    show(results)
    for case, answer in results[0].wrong if options.wrong else []:
        print(f"{case.category}: {case.question}\n  expected {case.answer}\n  got      {answer}")
    if options.json:
        report = {result.name: result.report() for result in results}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
