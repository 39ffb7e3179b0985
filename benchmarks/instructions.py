"""Write results/instructions.json: the instructions of the main loop of each CUDA kernel, compiled by NVRTC.

Run ``python benchmarks/instructions.py``; it needs the wheels nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm and
cuda-bindings, and no GPU. tests/test_cuda_compile.py compares the file with the source.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import history
import nvrtc

from initium.kernels import table as T

FILE = Path(__file__).with_name("results") / "instructions.json"
KINDS = (T.UNIFORM, T.CENTRAL_NORMAL, T.NORMAL)
OUTPUTS = ("float32", "bfloat16", "float16", "float8_e4m3fn")
KERNELS = ((T.WORDS, "bits32"), *((kind, output) for kind in KINDS for output in OUTPUTS))
ARCHITECTURES = (80, 90, 100)


def main() -> None:
    """Write the file."""
    kernels = {
        f"{kind} {output} sm_{arch}": nvrtc.cost(kind, output, arch)
        for arch in ARCHITECTURES
        for kind, output in KERNELS
    }
    table = {"nvrtc": nvrtc.version(), "kernels": kernels}
    FILE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    history.append(FILE.name, table)
    for name, cost in kernels.items():
        print(f"{name:36} {cost['usual']:6.2f} {cost['expected']:6.2f}")


if __name__ == "__main__":
    main()
