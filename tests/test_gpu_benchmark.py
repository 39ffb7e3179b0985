"""The page of the GPU's figures, whatever of them a run could measure. The run needs a GPU: ``ci/gpu``."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MACHINE = {name: f"<{name}>" for name in ("device", "driver", "cupy", "nvrtc", "torch", "jax")}
MEASURED = {
    "fill_gb_per_s": {"memset": 100.0, "cupy.fill": 80.0},
    "ours_gb_per_s": {"uniform float32": 90.0, "normal float32": 60.0, "uniform bfloat16": 70.0},
    "peers_torch_gb_per_s": {"torch.Tensor.fill_": 80.0, "torch.Tensor.uniform_ bfloat16": 35.0},
    "peers_jax_gb_per_s": {"jax.random.normal": 20.0, "jax.random.truncated_normal": 10.0},
    "peers_cupy_gb_per_s": {"cupy.random.Generator.random": 30.0},
    "spans_gb_per_s": {},
    "first_use_s": {},
    "overheads_s": [{"tensors": 300, "call": 1e-3, "done": 2e-3, "planned_done": 5e-4}],
    "model": {"bytes": 16_000_000_000, "peak_bytes": 16_000_000_000, "call": 0.004, "done": 0.010},
}
#: What each step adds to the page; none of it is measured.
SHOWN = {
    "fill_gb_per_s": "Fill: 100 GB/s.",
    "ours_gb_per_s": "| uniform float32 | 90 |",
    "peers_torch_gb_per_s": "| torch.Tensor.fill_ | 80 |  |",
    "peers_cupy_gb_per_s": "| cupy.random.Generator.random | 30 | 3.0 x |",
    "peers_jax_gb_per_s": "| jax.random.truncated_normal | 10 |  |",
    "overheads_s": "| 300 | 1.00 ms | 2.00 ms | 0.50 ms |",
    "model": "10.0 ms (goal 15), 1600 GB/s; peak memory is 1.0000 of the weights.",
}


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    def rendered(without=(), **reasons):
        data = {key: value for key, value in MEASURED.items() if key not in without}
        return gpu.render({"machine": MACHINE, "missing": {}, "failed": {}, **data, **reasons})

    return rendered


def test_ratios_are_those_of_counterparts(page):
    text = page()
    assert all(part in text for part in SHOWN.values())
    assert "| uniform float32 | 90 | 0.90 | >= 0.9 |" in text
    assert "| torch.Tensor.uniform_ bfloat16 | 35 | 2.0 x |" in text
    assert "| jax.random.normal | 20 | 3.0 x |" in text


@pytest.mark.parametrize("step", SHOWN)
def test_a_step_that_failed_leaves_the_others(page, step):
    text = page({step}, failed={step: "CUDARuntimeError: cudaErrorUnknown"})
    assert f"Not measured: {step} (CUDARuntimeError: cudaErrorUnknown)." in text
    assert SHOWN[step] not in text
    assert "nan" not in text
    ratios = {"ours_gb_per_s": "cupy.random"}  # what cannot be said without
    kept = [part for other, part in SHOWN.items() if other != step and ratios.get(step, "no") not in part]
    assert all(part in text for part in kept)


def test_a_run_that_was_cut_short_at_once(page):
    text = page(MEASURED, missing={"peers_jax_gb_per_s": "No module named 'jax'"})
    assert "Not measured: peers_jax_gb_per_s (No module named 'jax')." in text
    assert "Not measured: ours_gb_per_s (not reached)." in text
    assert "GB/s |" not in text
