"""Plans: made once, drawn in one call any number of times."""

import numpy as np

import initium as ini
from initium.kernels import table as T


def test_a_plan_draws_what_init_model_draws_each_time():
    shapes = {"a.weight": (70, 1000), "b.weight": (3,), "b.bias": (5,), "empty": (0, 4)}
    rules = {"*.bias": ini.zeros(), "*": ini.Normal(0.0, 0.02)}
    expected = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    ini.init_model(expected, rules, seed=3)
    weights = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    made = ini.plan_model(weights, rules, seed=3)
    for threads in (1, 2, None):
        for array in weights.values():
            array.fill(np.nan)
        ini.run_plan(made, threads=threads)
        for name, array in weights.items():
            assert np.array_equal(array, expected[name]), name


def test_jobs_of_one_kind_share_a_table_whose_tiles_add_up():
    weights = {f"{i}": np.empty(n, np.float32) for i, n in enumerate((1, T.TILE, T.TILE + 1))}
    (table,) = ini.plan_model(weights, ini.Uniform(), seed=0).tables
    assert table.rows["tile"].tolist() == [0, 1, 2]
    assert table.tiles == 4
    assert table.nbytes == sum(array.nbytes for array in weights.values())


def test_progress_reaches_the_total():
    calls = []
    weights = {"w": np.empty(10 * T.TILE, np.float32)}
    made = ini.plan_model(weights, ini.Uniform(), seed=0)
    ini.run_plan(made, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    assert calls == sorted(calls)
