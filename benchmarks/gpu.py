"""Measure the GPU backend, other libraries and the write limit of the GPU; write results/gpu.json.

``ci/gpu`` runs it on a machine with a GPU, CuPy, torch and JAX; missing libraries are skipped and listed.
Rates are bytes written per second, measured with CUDA events: medians of calls that do not wait for the host.
Overheads are wall times. The file is written again after each step, so that an interrupted run leaves its
results.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import initium as ini
from initium import dtypes
from initium.backends import cuda as backend
from initium.kernels import table as T
from initium.kernels.cuda import source
from initium.memory import cuda
from initium.models.built_in import built_in

FILE = Path(__file__).with_name("results") / "gpu.json"
#: Bytes of the filled memory: several times the size of the cache, and about a millisecond on an H200.
NBYTES = 4 << 30
TURNS = 15
SAMPLERS = {
    "uniform": ini.Uniform(-1.0, 1.0),
    "truncated_normal": ini.TruncatedNormal(0.0, 0.02, -2.0, 2.0),
    "normal": ini.Normal(0.0, 0.02),
}
DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn")
#: The least ratio to a fill that the design requires, by sampler and dtype.
GOALS = {
    ("uniform", "float32"): 0.9,
    ("truncated_normal", "float32"): 0.75,
    ("normal", "float32"): 0.65,
    ("uniform", "bfloat16"): 0.6,
}

#: Libraries whose versions are recorded, and their names on the page.
PACKAGES = ("cupy", "numpy", "torch", "jax", "numba")
NAMES = {"cupy": "CuPy", "nvrtc": "NVRTC", "torch": "torch", "jax": "JAX"}

Call = Callable[[], object]


# --- clocks -------------------------------------------------------------------------------------------------


def seconds(cupy: Any, call: Call, turns: int = TURNS) -> float:
    """Return the median time of a call that works on CuPy's current stream, between two events.

    A call before the first event keeps the GPU busy while the host prepares the measured call.
    """
    call()
    times = []
    for _ in range(turns):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        call()
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, stop) / 1e3)
    return statistics.median(times)


def wall(cupy: Any, call: Call, turns: int = TURNS) -> tuple[float, float]:
    """Return median wall times of a call: until it returns, and until the GPU is done."""
    call()
    returned, done = [], []
    for _ in range(turns):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        call()
        returned.append(time.perf_counter() - start)
        cupy.cuda.Device().synchronize()
        done.append(time.perf_counter() - start)
    return statistics.median(returned), statistics.median(done)


# --- figures ------------------------------------------------------------------------------------------------


def fills(cupy: Any) -> dict[str, float]:
    """Return the write limit: GB/s of a memset, and of CuPy's fill."""
    memory = cupy.empty(NBYTES // 4, np.float32)
    calls: dict[str, Call] = {
        "memset": lambda: memory.data.memset_async(0, memory.nbytes),
        "cupy.fill": lambda: memory.fill(1.0),
    }
    return {name: NBYTES / seconds(cupy, call) / 1e9 for name, call in calls.items()}


def _draw(name: str, out: Any) -> Call:
    return partial(ini.initialize, SAMPLERS[name], out.shape, seed=1, out=out)


def ours(cupy: Any) -> dict[str, float]:
    """Return GB/s of our samplers."""
    found = {}
    for dtype in DTYPES:
        out = _array(dtype)
        for name in SAMPLERS:
            found[f"{name} {dtype}"] = NBYTES / seconds(cupy, _draw(name, out)) / 1e9
        del out  # before the next one
    out = _array("float64")
    for name in ("uniform", "normal"):
        found[f"{name} float64"] = NBYTES / seconds(cupy, _draw(name, out), 5) / 1e9
    return found


def _array(dtype: str) -> Any:
    known = dtypes.lookup(dtype)
    return cuda.allocate([((NBYTES // known.itemsize,), known)], cuda.device_name("cuda"))[0].owner


def peers_cupy(cupy: Any) -> dict[str, float]:
    """Return GB/s of CuPy's own samplers."""
    memory = cupy.empty(NBYTES // 4, np.float32)
    generator = cupy.random.default_rng(1)
    calls: dict[str, Call] = {
        # With `out` alone it would draw one value and copy it.
        "cupy.random.Generator.random": lambda: generator.random(memory.shape, np.float32),
        "cupy.random.Generator.standard_normal": lambda: generator.standard_normal(
            out=memory, dtype=np.float32
        ),
    }
    return {name: NBYTES / seconds(cupy, call, 5) / 1e9 for name, call in calls.items()}


def peers_torch(cupy: Any) -> dict[str, float]:
    """Return GB/s of torch's samplers, and of its fill."""
    import torch

    tensor = torch.empty(NBYTES // 4, device="cuda")
    half = tensor.view(torch.bfloat16)
    calls: dict[str, Call] = {
        "torch.Tensor.fill_": lambda: tensor.fill_(1.0),
        "torch.Tensor.uniform_": lambda: tensor.uniform_(-1, 1),
        "torch.Tensor.normal_": lambda: tensor.normal_(0, 0.02),
        "torch.nn.init.trunc_normal_": lambda: torch.nn.init.trunc_normal_(tensor, 0, 0.02, -0.04, 0.04),
        "torch.Tensor.uniform_ bfloat16": lambda: half.uniform_(-1, 1),
    }
    return {name: NBYTES / seconds(cupy, call, 5) / 1e9 for name, call in calls.items()}


def peers_jax(cupy: Any) -> dict[str, float]:
    """Return GB/s of JAX's samplers, by wall time of long calls, since JAX has its own streams."""
    import jax

    if jax.default_backend() != "gpu":
        raise ImportError("JAX finds no GPU")
    key, values = jax.random.key(1), NBYTES // 16
    calls: dict[str, Callable[[], Any]] = {
        "jax.random.uniform": lambda key: jax.random.uniform(key, (values,)),
        "jax.random.normal": lambda key: jax.random.normal(key, (values,)),
        "jax.random.truncated_normal": lambda key: jax.random.truncated_normal(key, -2.0, 2.0, (values,)),
    }

    def rate(compiled: Callable[..., Any]) -> float:
        return 4 * values / wall(cupy, lambda: compiled(key).block_until_ready(), 5)[1] / 1e9

    return {name: rate(jax.jit(call)) for name, call in calls.items()}


def overheads(cupy: Any) -> list[dict[str, float]]:
    """Return wall times of calls with many small tensors."""
    found = []
    for count in (1, 300, 10_000):
        memory = cupy.empty((count, 256), np.float32)
        params = {f"layers.{i}.weight": memory[i] for i in range(count)}
        returned, done = wall(
            cupy, lambda params=params: ini.init_model(params, SAMPLERS["normal"], seed=1), 7
        )
        made = ini.plan_model(params, SAMPLERS["normal"], seed=1)
        again, finished = wall(cupy, lambda made=made: ini.run_plan(made), 7)
        found.append(
            {
                "tensors": count,
                "call": returned,
                "done": done,
                "planned_call": again,
                "planned_done": finished,
            }
        )
    return found


def model(cupy: Any) -> dict[str, float]:
    """Return time and memory of one call that initialises 8 billion parameters in bfloat16."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    specs = {t.name: t for t in built_in("llama-3-8b").with_dtype("bfloat16").tensors}
    rules = {"*norm*": ini.ones(), "*": SAMPLERS["truncated_normal"]}
    before = pool.total_bytes()
    weights = ini.init_model(specs, rules, seed=1, device="cuda").weights
    nbytes = sum(array.nbytes for array in weights.values())
    peak = pool.total_bytes() - before
    returned, done = wall(cupy, lambda: ini.init_model(weights, rules, seed=1), 9)
    return {"bytes": nbytes, "peak_bytes": peak, "call": returned, "done": done}


def first_use(cupy: Any) -> dict[str, float]:
    """Return the time of a kernel's compilation, without CuPy's cache on disk."""
    found = {}
    for kind, output in ((T.UNIFORM, "float32"), (T.NORMAL, "bfloat16")):
        start = time.perf_counter()
        options = (*source.options(kind, output), f"-DFRESH={time.time_ns()}")
        cuda.cupy().RawModule(code=source.source(), options=options).get_function(source.entry(kind, output))
        found[f"{kind} {output}"] = time.perf_counter() - start
    return found


def spans(cupy: Any) -> dict[str, float]:
    """Return GB/s by the largest span of tiles, to choose the span."""
    found, before = {}, backend._SPAN
    out = cupy.empty(NBYTES // 4, np.float32)
    try:
        for span in (1, 4, 16, 64, 256, 4096):
            backend._SPAN = span
            for name in SAMPLERS:
                found[f"{name} {span}"] = out.nbytes / seconds(cupy, _draw(name, out), 7) / 1e9
    finally:
        backend._SPAN = before
    return found


def machine(cupy: Any) -> dict[str, str]:
    """Return device, driver and versions."""
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    query = ["nvidia-smi", "--id=0", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "device": properties["name"].decode(),
        "multiprocessors": str(properties["multiProcessorCount"]),
        "memory_gib": f"{properties['totalGlobalMem'] / 2**30:.0f}",
        "driver": subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        if shutil.which("nvidia-smi")
        else "unknown",
        "cuda": str(cupy.cuda.runtime.driverGetVersion()),
        "nvrtc": ".".join(map(str, importlib.import_module("cupy_backends.cuda.libs.nvrtc").getVersion())),
        "python": platform.python_version(),
        "initium": ini.__version__,
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    names = importlib.metadata.packages_distributions().get(package, [])
    return importlib.metadata.version(names[0]) if names else "missing"


def main() -> None:
    """Measure all steps and write the file; record a step that fails, and exit with status 1 then."""
    cupy = cuda.cupy()
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    found: dict[str, Any] = {"machine": machine(cupy), "missing": {}, "failed": {}}
    for name, step in STEPS.items():
        start = time.perf_counter()
        try:
            said = found[name] = step(cupy)
        except ImportError as error:
            said = found["missing"][name] = str(error)
        except Exception as error:  # the other steps still run
            said = found["failed"][name] = f"{type(error).__name__}: {error}"
        cupy.get_default_memory_pool().free_all_blocks()
        output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"{name}: {time.perf_counter() - start:.1f} s", said, flush=True)
    sys.exit(1 if found["failed"] else 0)


STEPS: dict[str, Callable[[Any], Any]] = {
    "fill_gb_per_s": fills,
    "ours_gb_per_s": ours,
    "peers_torch_gb_per_s": peers_torch,
    "model": model,
    "overheads_s": overheads,
    "peers_cupy_gb_per_s": peers_cupy,
    "peers_jax_gb_per_s": peers_jax,
    "spans_gb_per_s": spans,
    "first_use_s": first_use,
}


# --- the page -----------------------------------------------------------------------------------------------


def render(data: dict[str, Any]) -> str:
    """Return the section of README.md that `benchmarks/render.py` inserts."""
    about = data["machine"]
    versions = ", ".join(f"{name} {about[package]}" for package, name in NAMES.items())
    fill = max(data.get("fill_gb_per_s", {}).values(), default=None)
    ours = data.get("ours_gb_per_s", {})
    lines = [f"{about['device']}, driver {about['driver']}, {versions}."]
    lines[0] += f" Fill: {fill:.0f} GB/s." if fill else ""
    absent = {step: "not reached" for step in STEPS if step not in data} | data["missing"] | data["failed"]
    lines += [f"\nNot measured: {step} ({why})." for step, why in absent.items()]
    if ours:
        lines += ["", "| ours | GB/s | of fill | goal |", "| --- | --- | --- | --- |"]
    for name, rate in ours.items():
        goal = GOALS.get(tuple(name.split()))  # type: ignore[arg-type]
        share = f"{rate / fill:.2f}" if fill else ""
        lines.append(f"| {name} | {rate:.0f} | {share} | {f'>= {goal}' if goal else ''} |")
    peers: dict[str, float] = {}
    for step in STEPS:
        peers |= data.get(step, {}) if step.startswith("peers") else {}
    if peers:
        lines += ["", "| peer | GB/s | ours / peer |", "| --- | --- | --- |"]
    for name, rate in peers.items():
        mine = ours.get(_counterpart(name))
        lines.append(f"| {name} | {rate:.0f} | {f'{mine / rate:.1f} x' if mine else ''} |")
    if "overheads_s" in data:
        lines += [
            "",
            "| tensors of 256 values | init_model returns | init_model is done | run_plan is done |",
            "| --- | --- | --- | --- |",
        ]
    for row in data.get("overheads_s", []):
        times = " | ".join(f"{row[key] * 1e3:.2f} ms" for key in ("call", "done", "planned_done"))
        lines.append(f"| {row['tensors']:,} | {times} |")
    if "model" in data:
        whole = data["model"]
        lines += [
            "",
            f"8 billion parameters in bfloat16, one call after warm-up: {whole['done'] * 1e3:.1f} ms "
            f"(goal 15), {whole['bytes'] / whole['done'] / 1e9:.0f} GB/s; peak memory is "
            f"{whole['peak_bytes'] / whole['bytes']:.4f} of the weights.",
        ]
    return "\n".join(lines)


def _counterpart(peer: str) -> str:
    """Return the name of initium's sampler with the same distribution and dtype; "" for a fill."""
    if "fill" in peer:
        return ""
    kind = "truncated_normal" if "trunc" in peer else "normal" if "normal" in peer else "uniform"
    return f"{kind} {'bfloat16' if 'bfloat16' in peer else 'float32'}"


def render_instructions(data: dict[str, Any]) -> str:
    """Return the table of instructions per value."""
    lines = [
        f"NVRTC {data['nvrtc']}; counts include the loop, addresses, stores and the expected share of tails.",
        "",
        "| kernel | instructions | integers | float arithmetic | conversion, clamping | seeds | rest |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups = (
        ("IMAD", "LOP3", "SHF", "IADD3", "VIADD"),
        ("FFMA", "FMUL", "FADD"),
        ("I2FP", "F2FP", "FMNMX", "HMNMX2", "I2F"),
        ("MUFU",),
    )
    for name, cost in data["kernels"].items():
        parts = [sum(cost["operations"].get(key, 0.0) for key in group) for group in groups]
        rest = cost["expected"] - sum(parts)
        cells = " | ".join(f"{part:.1f}" for part in (*parts, rest))
        lines.append(f"| {name} | {cost['expected']:.1f} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
