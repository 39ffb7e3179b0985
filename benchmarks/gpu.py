"""Measure the GPU backend beside its peers and the GPU's own write limit; write results/gpu.json.

Run by ``ci/gpu`` on a machine with a GPU, CuPy, torch and JAX; peers that are missing are left out and named.
Rates are bytes written a second by CUDA events, medians of calls; overheads are wall time.
"""

from __future__ import annotations

import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import initium as ini
from initium import architectures, cuda, dtypes
from initium.backends import cuda as backend
from initium.kernels import constants
from initium.kernels.cuda import source
from initium.plan import Plan

FILE = Path(__file__).with_name("results") / "gpu.json"
VALUES = 1 << 30
TURNS = 15
SAMPLERS = {
    "uniform": ini.Uniform(-1.0, 1.0),
    "truncated_normal": ini.TruncatedNormal(0.0, 0.02, -2.0, 2.0),
    "normal": ini.Normal(0.0, 0.02),
}
DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn")
#: (sampler, dtype, the least ratio to fill that issue and design ask for, as soon as a GPU has run it).
GOALS = {
    ("uniform", "float32"): 0.9,
    ("truncated_normal", "float32"): 0.75,
    ("normal", "float32"): 0.65,
    ("uniform", "bfloat16"): 0.6,
}

Call = Callable[[], object]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# --- clocks -------------------------------------------------------------------------------------------------


def seconds(cupy: Any, call: Call, turns: int = TURNS) -> float:
    """Return the median time of a call that works on CuPy's current stream, between two events."""
    call()
    times = []
    for _ in range(turns):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
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
    """Return the write limit: GB/s of a memset, and of torch's fill where there is torch."""
    memory = cupy.empty(VALUES, np.float32)
    found = {
        "memset": memory.nbytes / seconds(cupy, lambda: memory.data.memset_async(0, memory.nbytes)) / 1e9
    }
    torch = _import("torch")
    if torch is not None:
        tensor = torch.as_tensor(memory, device="cuda")
        found["torch.fill_"] = memory.nbytes / seconds(cupy, lambda: tensor.fill_(1.0)) / 1e9
    return found


def _draw(name: str, out: Any) -> Call:
    return partial(ini.initialize, SAMPLERS[name], out.shape, seed=1, out=out)


def ours(cupy: Any) -> dict[str, float]:
    """Return GB/s of our samplers."""
    found = {}
    for dtype in DTYPES:
        out = cupy.ndarray(VALUES, dtypes.lookup(dtype).numpy)
        for name in SAMPLERS:
            found[f"{name} {dtype}"] = out.nbytes / seconds(cupy, _draw(name, out)) / 1e9
    double = cupy.empty(VALUES // 4, np.float64)
    for name in ("uniform", "normal"):
        found[f"{name} float64"] = double.nbytes / seconds(cupy, _draw(name, double)) / 1e9
    return found


def peers(cupy: Any) -> tuple[dict[str, float], list[str]]:
    """Return GB/s of other libraries' samplers, and which libraries are missing."""
    found, missing = {}, []
    memory = cupy.empty(VALUES, np.float32)
    nbytes = memory.nbytes
    generator = cupy.random.default_rng(1)
    for name, call in {
        "cupy.random.Generator.random": lambda: generator.random(out=memory, dtype=np.float32),
        "cupy.random.Generator.standard_normal": lambda: generator.standard_normal(
            out=memory, dtype=np.float32
        ),
    }.items():
        found[name] = nbytes / seconds(cupy, call, 5) / 1e9
    torch = _import("torch")
    if torch is None:
        missing.append("torch")
    else:
        tensor = torch.as_tensor(memory, device="cuda")
        half = tensor.view(torch.bfloat16)
        for name, size, call in (
            ("torch.Tensor.uniform_", nbytes, lambda: tensor.uniform_(-1, 1)),
            ("torch.Tensor.normal_", nbytes, lambda: tensor.normal_(0, 0.02)),
            (
                "torch.nn.init.trunc_normal_",
                nbytes,
                lambda: torch.nn.init.trunc_normal_(tensor, 0, 0.02, -0.04, 0.04),
            ),
            ("torch.Tensor.uniform_ bfloat16", nbytes, lambda: half.uniform_(-1, 1)),
        ):
            found[name] = size / seconds(cupy, call, 5) / 1e9
    jax = _import("jax")
    if jax is None or jax.default_backend() != "gpu":
        missing.append("jax")
    else:
        found.update(_of_jax(jax))
    return found, missing


def _of_jax(jax: Any, values: int = VALUES // 4) -> dict[str, float]:
    """JAX has streams of its own: wall time of whole calls, which are long enough."""
    found, key = {}, jax.random.key(1)
    for name, call in {
        "jax.random.uniform": lambda: jax.random.uniform(key, (values,)),
        "jax.random.normal": lambda: jax.random.normal(key, (values,)),
        "jax.random.truncated_normal": lambda: jax.random.truncated_normal(key, -2.0, 2.0, (values,)),
    }.items():
        compiled = jax.jit(call)
        compiled().block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            compiled().block_until_ready()
            times.append(time.perf_counter() - start)
        found[name] = 4 * values / statistics.median(times) / 1e9
    return found


def overheads(cupy: Any) -> list[dict[str, float]]:
    """Return wall times of calls that have many tensors and little to draw."""
    found = []
    for count in (1, 300, 10_000):
        memory = cupy.empty((count, 256), np.float32)
        params = {f"layers.{i}.weight": memory[i] for i in range(count)}
        returned, done = wall(
            cupy, lambda params=params: ini.init_model(params, SAMPLERS["normal"], seed=1), 7
        )
        made = _plan(params)
        again, finished = wall(cupy, lambda made=made: backend.BACKEND.run(made), 7)
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


def _plan(params: dict[str, Any]) -> Plan:
    from initium.model import plan_model

    return plan_model(params, SAMPLERS["normal"], seed=1)


def model(cupy: Any) -> dict[str, float]:
    """Return what one call costs that initialises 8 billion parameters in bfloat16."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    specs = {t.name: t for t in architectures.resolve_model("llama-3-8b").with_dtype("bfloat16").tensors}
    rules = {"*norm*": ini.ones(), "*": SAMPLERS["truncated_normal"]}
    before = pool.total_bytes()
    weights = ini.init_model(specs, rules, seed=1, device="cuda").weights
    nbytes = sum(array.nbytes for array in weights.values())
    peak = pool.total_bytes() - before
    returned, done = wall(cupy, lambda: ini.init_model(weights, rules, seed=1), 9)
    return {"bytes": nbytes, "peak_bytes": peak, "call": returned, "done": done}


def first_use() -> dict[str, float]:
    """Return how long a kernel's compilation takes, past CuPy's cache on disk."""
    found = {}
    for kind, output in ((constants.UNIFORM, "float32"), (constants.NORMAL, "bfloat16")):
        start = time.perf_counter()
        options = (*source.options(kind, output), f"-DFRESH={time.time_ns()}")
        cuda.cupy().RawModule(code=source.source(), options=options).get_function(source.entry(kind, output))
        found[f"{kind} {output}"] = time.perf_counter() - start
    return found


def spans(cupy: Any) -> dict[str, float]:
    """Return GB/s by the longest span of tiles that a group takes at once, to choose it by."""
    found, before = {}, backend._SPAN
    out = cupy.empty(VALUES, np.float32)
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
    versions = {name: getattr(_import(name), "__version__", "missing") for name in ("torch", "jax", "numba")}
    return {
        "device": properties["name"].decode(),
        "multiprocessors": str(properties["multiProcessorCount"]),
        "memory_gib": f"{properties['totalGlobalMem'] / 2**30:.0f}",
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
        "runtime": str(cupy.cuda.runtime.runtimeGetVersion()),
        "nvrtc": ".".join(map(str, importlib.import_module("cupy_backends.cuda.libs.nvrtc").getVersion())),
        "cupy": cupy.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "initium": ini.__version__,
        **versions,
    }


def main() -> None:
    """Measure all and write the file; figures that fail are named in it and fail the run."""
    cupy = cuda.cupy()
    found: dict[str, Any] = {"machine": machine(cupy)}
    failed = {}
    steps: dict[str, Callable[[], Any]] = {
        "fill_gb_per_s": lambda: fills(cupy),
        "ours_gb_per_s": lambda: ours(cupy),
        "peers": lambda: peers(cupy),
        "overheads_s": lambda: overheads(cupy),
        "model": lambda: model(cupy),
        "first_use_s": first_use,
        "spans_gb_per_s": lambda: spans(cupy),
    }
    for name, step in steps.items():
        start = time.perf_counter()
        try:
            found[name] = step()
        except Exception as error:  # the other figures are worth having
            failed[name] = f"{type(error).__name__}: {error}"
        cupy.get_default_memory_pool().free_all_blocks()
        print(f"{name}: {time.perf_counter() - start:.1f} s", found.get(name, failed.get(name)), flush=True)
    if "peers" in found:
        found["peers_gb_per_s"], found["missing"] = found.pop("peers")
    found["failed"] = failed
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sys.exit(1 if failed else 0)


# --- the page -----------------------------------------------------------------------------------------------


def render(data: dict[str, Any]) -> str:
    """Return the section of README.md; `benchmarks/render.py` puts it there."""
    about = data["machine"]
    fill = max(data["fill_gb_per_s"].values())
    lines = [
        f"{about['device']}, driver {about['driver']}, CuPy {about['cupy']}, NVRTC {about['nvrtc']}, torch "
        f"{about['torch']}, JAX {about['jax']}. Fill: {fill:.0f} GB/s.",
        "",
        "| ours | GB/s | of fill | goal |",
        "| --- | --- | --- | --- |",
    ]
    for name, rate in data["ours_gb_per_s"].items():
        goal = GOALS.get(tuple(name.split()))  # type: ignore[arg-type]
        lines.append(f"| {name} | {rate:.0f} | {rate / fill:.2f} | {f'>= {goal}' if goal else ''} |")
    lines += ["", "| peer | GB/s | ours is |", "| --- | --- | --- |"]
    for name, rate in data["peers_gb_per_s"].items():
        kind = "truncated_normal" if "trunc" in name else "normal" if "normal" in name else "uniform"
        mine = data["ours_gb_per_s"][f"{kind} {'bfloat16' if 'bfloat16' in name else 'float32'}"]
        lines.append(f"| {name} | {rate:.0f} | {mine / rate:.1f} x |")
    lines += [
        "",
        "| tensors of 256 values | init_model returns | and is done | planned before |",
        "| --- | --- | --- | --- |",
    ]
    for row in data["overheads_s"]:
        times = " | ".join(f"{row[key] * 1e3:.2f} ms" for key in ("call", "done", "planned_done"))
        lines.append(f"| {row['tensors']:,} | {times} |")
    whole = data["model"]
    lines += [
        "",
        f"8 billion parameters in bfloat16, one call after warm-up: {whole['done'] * 1e3:.1f} ms (goal 15), "
        f"{whole['bytes'] / whole['done'] / 1e9:.0f} GB/s; peak memory is "
        f"{whole['peak_bytes'] / whole['bytes']:.4f} of the weights.",
    ]
    return "\n".join(lines)


def render_instructions(data: dict[str, Any]) -> str:
    """Return the table of instructions a value."""
    lines = [
        f"By NVRTC {data['nvrtc']}, loop, addresses and stores included; with the expected share of tails.",
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
