"""Keeps of pytest-benchmark's JSON what the page shows, and nothing of the machine's name."""

from typing import Any


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Reduce the report to values a second by benchmark."""
    rates = {b["name"]: b["extra_info"]["values_per_second"] for b in output_json["benchmarks"]}
    versions = {key: output_json["machine_info"][key] for key in ("python_version", "machine")}
    output_json.clear()
    output_json.update({"machine_info": versions, "benchmarks": [], "values_per_second": rates})
