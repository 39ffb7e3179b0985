"""Reduces the JSON of pytest-benchmark to the data of the page, without the name of the machine."""

from pathlib import Path
from typing import Any

import history


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Reduce the report to values per second by benchmark."""
    rates = {b["name"]: b["extra_info"]["values_per_second"] for b in output_json["benchmarks"]}
    versions = {key: output_json["machine_info"][key] for key in ("python_version", "machine")}
    output_json.clear()
    output_json.update({"machine_info": versions, "benchmarks": [], "values_per_second": rates})
    target = config.getoption("benchmark_json")
    if target is not None and Path(target.name).resolve().parent == history.RESULTS:
        history.append(Path(target.name).name, output_json)
