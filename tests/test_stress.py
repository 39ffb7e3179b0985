"""Many calls at once: threads, forks and spawned processes draw what one thread draws, and none hangs."""

import hashlib
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import initium as ini
from initium.recipes.reader import load

SECONDS = float(os.environ.get("INITIUM_FUZZ_SECONDS", "600"))
MIXED = Path(__file__).with_name("mixed_processes.py")

log = logging.getLogger(__name__)

SHAPES = {"a.weight": (64, 48), "a.bias": (64,), "b.weight": (1000, 3)}


def _into_strides():
    memory = np.full((40, 90), 7, np.float32)
    ini.normal((40, 30), seed=1, name="w", out=memory[::-1, ::3])
    return memory


def _checkpoint_rules():
    rules = load("gpt2").resolve(depth=2, width=48)
    return b"".join(a.tobytes() for a in ini.init_model(SHAPES, rules, seed=1, threads=2).weights.values())


#: Results of many kinds: small and large, of each backend, on few and on many threads.
CALLS = {
    "normal": lambda: ini.normal(1000, seed=1, name="w"),
    "normal on threads": lambda: ini.normal(1 << 18, seed=1, name="w", threads=3),
    "normal of the reference": lambda: ini.normal(5000, seed=1, name="w", backend="numpy"),
    "float64": lambda: ini.normal(4000, seed=1, name="w", dtype="float64"),
    "uniform": lambda: ini.uniform((70, 30), seed=2, name="u", dtype="bfloat16"),
    "truncated": lambda: ini.truncated_normal(3000, seed=3, name="t", dtype="float16", threads=2),
    "orthogonal": lambda: ini.orthogonal((60, 40), seed=4, name="o", threads=2),
    "larger orthogonal": lambda: ini.orthogonal((200, 150), seed=4, name="o", threads=2),
    "orthogonal by qr": lambda: ini.orthogonal((50, 50), seed=4, name="o", method="qr"),
    "sparse": lambda: ini.initialize(ini.Sparse(0.5), (90, 40), seed=5, name="s"),
    "words": lambda: ini.bits(777, seed=6, name="b", start=2**40 + 1),
    "box": lambda: ini.normal(1 << 60, seed=7, name="x", box=slice(1 << 59, (1 << 59) + 6000, 3)),
    "strides": _into_strides,
    "model": _checkpoint_rules,
}


def digest(name):
    result = CALLS[name]()
    return hashlib.sha256(result if isinstance(result, bytes) else result.tobytes()).hexdigest()


def draw_on_threads(calls, threads=8):
    """Draw on several threads at once; return what differs from the draws of one thread."""
    expected = {name: digest(name) for name in CALLS}
    start = threading.Barrier(threads)

    def work(number):
        mixed = random.Random(number)
        start.wait(60)
        names = [mixed.choice(list(CALLS)) for _ in range(calls // threads)]
        return [name for name in names if digest(name) != expected[name]], len(names)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(work, range(threads)))
    return [name for wrong, _ in found for name in wrong], sum(n for _, n in found)


@pytest.mark.parametrize("calls", [304, pytest.param(12_000, marks=pytest.mark.exhaustive)])
def test_mixed_calls_on_eight_threads(calls):
    begin = time.monotonic()
    wrong, made = draw_on_threads(calls)
    assert wrong == []
    assert made == calls
    log.info("%d calls in %d s", made, time.monotonic() - begin)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "seconds",
    [4, pytest.param(SECONDS, marks=[pytest.mark.exhaustive, pytest.mark.timeout(SECONDS + 600)])],
)
def test_forks_spawns_and_threads(seconds):
    """A process that hangs dumps its stacks and ends, which fails its parent."""
    command = [sys.executable, "-W", "ignore", str(MIXED), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log.info("%s", done.stdout.strip())


def test_configurations_on_threads(tmp_path):
    """torch's usual dtype and the Hub's switch belong to the process: they are as before, in the end too."""
    import torch
    from huggingface_hub import constants

    from initium.models.hugging_face import from_config

    before = torch.get_default_dtype(), constants.HF_HUB_OFFLINE
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": 16}
    paths = {}
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        paths[dtype] = tmp_path / f"{dtype}.json"
        paths[dtype].write_text(json.dumps({"model_type": "gpt2", **sizes, "dtype": dtype}))
    from_config(paths["float32"])  # what it imports

    def read(number):
        dtype = list(paths)[number % len(paths)]
        return {tensor.dtype for tensor in from_config(paths[dtype]).tensors} == {dtype}

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(40)))
    assert (torch.get_default_dtype(), constants.HF_HUB_OFFLINE) == before
