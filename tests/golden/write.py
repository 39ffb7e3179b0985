"""Write stream_v1.json, the values that define stream version 1.

Run ``python tests/golden/write.py`` from the repository's root for a new stream version, which gets a new
file, or for a new distribution or dtype, whose values are added. A value in the file may only change with the
stream version, so the script raises if one did.

The reference backend draws the values. For each distribution and dtype the file holds the bytes of the
first eight values in hexadecimal, and BLAKE2b digests of little-endian bytes over a start, over indices
across 2**34 and over a strided, reversed box.
"""

import json
import sys
from hashlib import blake2b
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cases import DISTRIBUTIONS, DTYPES, SEED

import initium as ini
from initium.kernels.stream import STREAM_VERSION

FILE = Path(__file__).with_name(f"stream_v{STREAM_VERSION}.json")
#: Global shape and box of each digest.
PARTS = {
    "start": ((20_011,), (slice(None),)),
    "far": ((1 << 40,), (slice(2**34 - 1003, 2**34 + 2005),)),
    "box": ((2000, 3, 3001), (slice(1999, 3, -97), slice(None, None, 2), slice(11, None, 301))),
}


def draw(name, dtype, part, backend=None, /, **change):
    """Return one part of a golden tensor."""
    shape, box = PARTS[part]
    arguments = {"seed": SEED, "name": f"golden.{name}", "dtype": dtype, "box": box, "backend": backend}
    return ini.initialize(DISTRIBUTIONS[name], shape, **arguments | change)


def summary(values):
    """Return the digest of an array's little-endian bytes."""
    return blake2b(little(values).tobytes(), digest_size=16).hexdigest()


def little(values):
    """Return the array's values as little-endian unsigned integers."""
    return values.view(f"u{values.itemsize}").astype(f"<u{values.itemsize}")


def golden(backend=None):
    """Return all that the file holds, as drawn by a backend."""
    return {
        "stream_version": STREAM_VERSION,
        "seed": SEED,
        "bits": ini.bits(16, seed=SEED, name="golden.bits").tobytes().hex(),
        "values": {name: {dtype: entry(name, dtype, backend) for dtype in DTYPES} for name in DISTRIBUTIONS},
    }


def entry(name, dtype, backend=None):
    """Return what the file holds of one distribution and dtype."""
    parts = {part: draw(name, dtype, part, backend) for part in PARTS}
    digits = 2 * parts["start"].itemsize
    first = " ".join(f"{int(value):0{digits}x}" for value in little(parts["start"][:8]))
    return {"first": first, **{part: summary(values) for part, values in parts.items()}}


def changed(held, made):
    """Return the (distribution, dtype) whose values differ from those in the file, or are missing."""
    pairs = [(name, dtype) for name, entries in held.items() for dtype in entries]
    return [(name, dtype) for name, dtype in pairs if made.get(name, {}).get(dtype) != held[name][dtype]]


if __name__ == "__main__":
    content = golden("numpy")
    if FILE.exists():
        held = json.loads(FILE.read_text())
        if wrong := changed(held["values"], content["values"]):
            raise ValueError(f"values of {wrong} changed; expected a new stream version")
    FILE.write_text(json.dumps(content, indent=1) + "\n")
