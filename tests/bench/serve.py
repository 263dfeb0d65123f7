"""What a running server does under an open load: requests come at random times at a given rate,
whether or not earlier ones are answered, as users do.

    bash launch/bench.sh serve     or, inside of .venv-bench: python tests/bench/serve.py [WORKDIR]

Latency counts from the moment at which a request was due, not from when a connection was free: else
a server that stalls would look fast (coordinated omission). Client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scalingnote_jax.data.collection import Collection

CONNECTIONS = 256  # at most; more would wait


@dataclass
class Load:
    """One rate's outcome: milliseconds of answers, and how many were refused or failed."""

    rate: float
    ms: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    def line(self, secs: float) -> str:
        p50, p95, p99 = np.percentile(self.ms or [float("nan")], [50, 95, 99])
        done = len(self.ms) / secs
        return (
            f"| {self.rate:g} | {done:.1f} | {p50:.1f} | {p95:.1f} | {p99:.1f} "
            f"| {self.refused} | {self.failed} |"
        )


class Client:
    """Keeps connections and sends each request over one that is free."""

    def __init__(self, host: str, port: int):
        self._address = host, port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(CONNECTIONS)

    async def search(self, text: str, k: int) -> int:
        """Asks; gives the status."""
        body = json.dumps({"query": text, "k": k, "texts": False}).encode()
        head = f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        async with self._room:
            reader, writer = (
                self._free.pop() if self._free else await asyncio.open_connection(*self._address)
            )
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = answer.partition("content-length: ")[2].partition("\r\n")[0]
            await reader.readexactly(int(length))
            self._free.append((reader, writer))
        return int(answer.split()[1])


async def measure(client: Client, texts: list[str], rate: float, secs: float, k: int) -> Load:
    load, draw = Load(rate), random.Random(0)
    started = time.perf_counter()
    due, running = 0.0, set()

    async def ask(text: str, due_at: float) -> None:
        try:
            status = await client.search(text, k)
        except (OSError, asyncio.IncompleteReadError):
            load.failed += 1
            return
        if status == 200:
            load.ms.append((time.perf_counter() - started - due_at) * 1e3)
        elif status == 429:
            load.refused += 1
        else:
            load.failed += 1

    while (due := due + draw.expovariate(rate)) < secs:
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - started)))
        task = asyncio.create_task(ask(draw.choice(texts), due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return load


async def run(args: argparse.Namespace, port: int) -> None:
    texts = [query.text for query in Collection.open(Path(args.workdir) / "data").queries]
    client = Client("127.0.0.1", port)
    await measure(client, texts, 20, 2, args.k)  # warm
    print("| offered/s | answered/s | p50 ms | p95 ms | p99 ms | 429 | failed |")
    print("|---|---|---|---|---|---|---|")
    for rate in map(float, args.rates.split(",")):
        load = await measure(client, texts, rate, args.secs, args.k)
        print(load.line(args.secs), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", nargs="?", default="runs/quickstart")
    parser.add_argument("--rates", default="20,50,100,200,400", help="requests a second")
    parser.add_argument("--secs", type=float, default=20.0, help="for each rate")
    parser.add_argument("-k", type=int, default=10)
    args = parser.parse_args()
    words = [sys.executable, "-m", "scalingnote_jax", "serve", args.workdir, "--port=0"]
    log = ["--log-level=warning"]
    with subprocess.Popen([*words, *log], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if not found:
            raise SystemExit(line.strip())
        try:
            wait_ready(int(found[1]))
            asyncio.run(run(args, int(found[1])))
        finally:
            server.terminate()


def wait_ready(port: int) -> None:
    """Until everything is compiled."""
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready").close()
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
