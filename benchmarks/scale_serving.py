"""Many requests: Ray Serve with two replicas beside `eenet serve`, with replicas that die and are replaced.

    EENET_DATA=... python benchmarks/scale_serving.py [--parts load killed rolled]

- `load`: requests of one image, by clients that wait for their answers, to one server after the other.
- `killed`: a replica, or a segment's replica, is killed under load; clients send again what wasn't answered.
- `rolled`: the application is deployed again under load, with other arguments.

Clients of `killed` and `rolled` are NVIDIA's; their answers are compared with the predictor's.
Writes benchmarks/results/scale-….csv.
"""

import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import results
import tritonclient.http as triton
import tyro
from numpy.typing import NDArray
from serving import Load, closed, served
from watching import actors, raylet_of

from eenet import Predictor, data
from eenet.common import format_table
from eenet.scale.ray_serve import Arguments, app
from eenet.scale.session import session

CHECKPOINT = "cifar10-eenet56"
CLIENTS, WINDOW = 32, 8.0
SECONDS = 20.0  # of load under which a replica dies or is replaced
AGAIN, TRIES = 0.1, 200  # seconds between tries of a client
CLOSE = 1e-4  # probabilities of the same image in other batches
OUTPUTS = ("label", "exit_index", "probabilities")


def main(parts: tuple[str, ...] = ("load", "killed", "rolled"), repeats: int = 2) -> None:
    """Run the parts that are named; `load` in so many turns."""
    known: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {
        "load": lambda address: load(address, repeats),
        "killed": killed,
        "rolled": rolled,
    }
    with ray_serve() as address:
        for part in parts:
            rows = list(known[part](address))
            print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
            print(results.write(f"scale-{part}", rows), flush=True)


@contextmanager
def ray_serve() -> Iterator[str]:
    """Ray Serve without an application: its address."""
    with session(cpus=2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray import serve
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"127.0.0.1:{port}"
        serve.shutdown()


def deploy(by: str, **arguments: Any) -> None:
    """Our application with two replicas of each deployment, which share two processors."""
    from ray import serve

    replicas = {"min_replicas": 2, "max_replicas": 2, "cpus": 0.1}
    given = Arguments.model_validate({"checkpoints": CHECKPOINT, "by": by, **replicas, **arguments})
    serve.run(app(given), name="eenet", route_prefix="/")


def images(count: int) -> NDArray[np.uint8]:
    return np.asarray(data.load("cifar10", "test").pixels(list(range(count))))


def load(address: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Each server has the machine to itself and its clients."""
    batches, seen = images(512)[:, None], dict[str, Load]()
    with served(CHECKPOINT) as (plain, _):
        for _ in range(repeats):
            for by in ("network", "stage"):
                deploy(by)
                closed(address, CHECKPOINT, batches, 1.0, CLIENTS)
                for name, where in ((f"Ray Serve, by {by}", address), ("eenet serve", plain)):
                    found = closed(where, CHECKPOINT, batches, WINDOW, CLIENTS)
                    assert not found.errors, found.errors[0]
                    seen.setdefault(name, Load()).add(found)
    for name, found in seen.items():
        yield {
            "server": name,
            "clients": CLIENTS,
            "requests a second": round(found.per_second),
            "p50, ms": round(found.quantile(0.5), 1),
            "p99, ms": round(found.quantile(0.99), 1),
        }


class Clients:
    """Threads that ask, again if they must, until they are told to stop."""

    def __init__(self, address: str) -> None:
        self._address, self._pixels = address, images(200)
        self._right = list(Predictor(CHECKPOINT).predict_many(self._pixels))
        self.answered, self.wrong, self.again, self.lost = 0, 0, 0, 0
        self._over = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def asking(self, count: int = 8) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(25 * k,)) for k in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _ask(self, at: int) -> None:
        with triton.InferenceServerClient(self._address) as client:
            while not self._over.is_set():
                at = (at + 1) % len(self._pixels)
                found = self._tried(client, at)
                with self._lock:
                    self.lost += found is None
                    self.answered += found is not None
                    self.wrong += found is not None and not self._is_right(found, at)

    def _tried(self, client: Any, at: int) -> Any:
        tensor = triton.InferInput("images", [1, *self._pixels.shape[1:]], "UINT8")
        tensor.set_data_from_numpy(self._pixels[at : at + 1])
        wanted = [triton.InferRequestedOutput(name) for name in OUTPUTS]
        for _ in range(TRIES):
            try:
                return client.infer(CHECKPOINT, [tensor], outputs=wanted)
            except Exception:  # whatever a dying server causes
                with self._lock:
                    self.again += 1
                time.sleep(AGAIN)
        return None

    def _is_right(self, found: Any, at: int) -> bool:
        label, exit_index, said_BN = (found.as_numpy(name) for name in OUTPUTS)
        right = self._right[at]
        same = (label.item().decode(), exit_index.item()) == (right.label, right.exit)
        return same and abs(said_BN.max() - right.probability) < CLOSE

    def row(self) -> dict[str, int]:
        return {
            "answered": self.answered,
            "sent again": self.again,
            "never answered": self.lost,
            "wrong": self.wrong,
        }


def killed(address: str) -> Iterator[dict[str, Any]]:
    """One of two, by its process id."""
    raylet = raylet_of(ray)
    for by, victim in (("network", "server"), ("stage", f"{CHECKPOINT}-segment-0")):
        deploy(by)
        clients, name = Clients(address), f"ServeReplica:eenet:{victim}"
        with clients.asking():
            time.sleep(SECONDS / 4)
            os.kill(actors(raylet, name).pop(), signal.SIGKILL)
            killed_at = time.perf_counter()
            while len(actors(raylet, name)) < 2:
                time.sleep(0.1)
            back = time.perf_counter() - killed_at
            time.sleep(max(0.0, SECONDS * 3 / 4 - back))
        yield {"by": by, "killed": victim, **clients.row(), "s until there are two again": round(back, 1)}


def rolled(address: str) -> Iterator[dict[str, Any]]:
    """Ray replaces the replicas one after the other; each finishes what it has."""
    raylet, name = raylet_of(ray), "ServeReplica:eenet:server"
    deploy("network")
    clients = Clients(address)
    with clients.asking():
        time.sleep(SECONDS / 4)
        before, start = actors(raylet, name), time.perf_counter()
        deploy("network", batch_size=16)
        while actors(raylet, name) & before:
            time.sleep(0.1)
        took = time.perf_counter() - start
        time.sleep(SECONDS / 4)
    yield {"replicas replaced": len(before), **clients.row(), "s that it took": round(took, 1)}


if __name__ == "__main__":
    tyro.cli(main)
