"""Threads that cannot start, forks at bad moments, and draws while the interpreter ends."""

import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import same_bits

import initium as ini
from initium.backends import threads
from initium.planning import collector

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# Forks with threads: what these tests are about.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),  # of JAX
]
SIZE = 1 << 20
DRAWS = {
    "normal": lambda **options: ini.normal(SIZE, seed=1, name="w", **options),
    "orthogonal": lambda **options: ini.orthogonal((400, 300), seed=1, name="w", **options),
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def python(script, timeout=120):
    """Run a script that dumps its stacks and ends if it hangs."""
    guarded = f"import faulthandler; faulthandler.dump_traceback_later({timeout}, exit=True)\n{script}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", guarded], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fresh_pool(monkeypatch):
    monkeypatch.setattr(threads, "_pool", threads._Pool())


# --- the number of threads changes no bit -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(40, 40), (200, 200), (700, 130), (130, 700), (1100, 1000)])
def test_orthogonal_bits_do_not_depend_on_threads(shape, dtype, method):
    def draw(threads):
        return ini.orthogonal(shape, seed=1, name="w", dtype=dtype, method=method, threads=threads)

    expected = draw(1)
    for number in (2, 3, 8):
        assert same_bits(draw(number), expected)


def test_orthogonal_bits_do_not_depend_on_what_else_is_drawn():
    shapes = {
        f"w{i}": shape for i, shape in enumerate([(200, 200)] * 3 + [(1100, 1000), (60, 300), (30, 30)])
    }
    for number in (1, 2, 5):
        weights = ini.init_model(shapes, ini.Orthogonal(), seed=1, threads=number).weights
        for name, shape in shapes.items():
            assert same_bits(weights[name], ini.orthogonal(shape, seed=1, name=name, threads=1)), name


# --- threads that cannot start ------------------------------------------------------------------------------


@every_draw
@pytest.mark.parametrize("most", [0, 1, 2])
def test_a_system_without_more_threads(fresh_pool, monkeypatch, draw, most):
    started, start = [], threading.Thread.start

    def limited(thread):
        if len(started) == most:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    expected = draw(threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", limited)
        found = draw(threads=5)
        watched = ini.init_model({"w": (SIZE,)}, ini.Normal(), seed=1, threads=5, progress=lambda *n: None)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert same_bits(watched.weights["w"], ini.normal(SIZE, seed=1, name="w"))
    assert len(started) == most


def test_what_was_queued_without_a_future_never_runs(monkeypatch):
    """An executor may queue a piece of work and then fail to start the thread for it."""
    ran, futures = [], []
    with ThreadPoolExecutor(1) as executor:
        submit, given = executor.submit, []

        def failing(function, *arguments):
            given.append(submit(function, *arguments))
            if len(given) == 2:
                raise RuntimeError("can't start new thread")
            return given[-1]

        pool = threads._Pool()
        monkeypatch.setattr(pool, "_executor_of", lambda workers: executor)
        monkeypatch.setattr(executor, "submit", failing)
        pool.start(lambda: ran.append(1), 3, futures)
        for future in given:
            future.result(10)
    assert (len(futures), len(given), ran) == (1, 2, [1])


def test_an_interrupt_while_threads_start_lets_none_run(monkeypatch):
    ran, futures = [], []
    with ThreadPoolExecutor(1) as executor:
        submit = executor.submit

        def interrupted(function, *arguments):
            submit(function, *arguments)
            raise KeyboardInterrupt

        pool = threads._Pool()
        monkeypatch.setattr(pool, "_executor_of", lambda workers: executor)
        monkeypatch.setattr(executor, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.start(lambda: ran.append(1), 3, futures)
    assert (futures, ran) == ([], [])


def test_interrupts_while_a_call_waits_for_its_threads():
    begun, end = threading.Event(), threading.Event()

    def work():
        begun.set()
        end.wait(10)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        begun.wait()
        real, calls = threads.wait, []

        def interrupted(futures):
            calls.append(1)
            if len(calls) < 3:
                raise KeyboardInterrupt
            end.set()
            return real(futures)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threads, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                threads.settle([future])
        assert future.done()


# --- the end of the interpreter -----------------------------------------------------------------------------


def test_draws_after_the_main_thread_has_ended():
    script = f"""
import atexit, threading, time, initium as ini

def draw(place):
    values = ini.normal({SIZE}, seed=1, name="w", threads=4), ini.orthogonal((400, 300), seed=1, threads=4)
    print(place, float(values[0].sum()), values[1].shape)

def late():
    threading.main_thread().join()
    time.sleep(0.2)
    draw("thread")

draw("main")
atexit.register(draw, "atexit")
threading.Thread(target=late).start()
"""
    lines = python(script).splitlines()
    assert {line.split()[0] for line in lines} == {"main", "thread", "atexit"}
    assert len({line.split(" ", 1)[1] for line in lines}) == 1


# --- forks --------------------------------------------------------------------------------------------------


def exit_code_of(child):
    """Return the exit code of a forked child; kill one that hangs."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


@forks
@pytest.mark.parametrize("enabled", [True, False])
def test_a_child_forked_while_a_thread_plans_collects_garbage(enabled):
    planning, forked = threading.Event(), threading.Event()

    def plan():
        with collector.no_collections:
            planning.set()
            forked.wait(60)

    (gc.enable if enabled else gc.disable)()
    try:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(plan)
            planning.wait(60)
            child = os.fork()
            if not child:
                os._exit(int(gc.isenabled()))
            forked.set()
            done.result(60)
        assert exit_code_of(child) == enabled
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_pauses_of_several_threads_end_together():
    with collector.no_collections:
        with collector.no_collections:
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


@forks
def test_forks_while_orthogonal_matrices_are_drawn():
    """The parent hung in OpenBLAS, which ends its threads before a fork."""
    script = """
import os, threading, initium as ini

over = threading.Event()

def draw():
    while not over.is_set():
        ini.orthogonal((600, 400), seed=1, threads=2)
        ini.orthogonal((1200, 1000), seed=1, threads=2, method="qr")

threads = [threading.Thread(target=draw) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(100):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
over.set()
for thread in threads:
    thread.join()
print("whole")
"""
    assert python(script).strip() == "whole"


@forks
def test_a_child_forked_within_a_draw_draws_the_same():
    script = """
import os, threading, initium as ini

def draws():
    return [ini.orthogonal((300, 300), seed=1, threads=2).tobytes(), ini.normal(1 << 18, seed=1).tobytes()]

expected = draws()
over = threading.Event()

def draw():
    while not over.is_set():
        ini.orthogonal((300, 300), seed=1, threads=2)

thread = threading.Thread(target=draw)
thread.start()
for _ in range(10):
    child = os.fork()
    if not child:
        os._exit(0 if draws() == expected else 3)
    assert os.waitpid(child, 0)[1] == 0
over.set()
thread.join()
print("whole")
"""
    assert python(script).strip() == "whole"


@forks
def test_a_thread_within_a_product_may_fork():
    gate = threads._ForkGate()
    with gate:
        gate.before_fork()
        with gate:  # it would wait for itself
            pass
        gate.after_fork()
    assert not gate._inside


def test_a_fork_that_began_before_the_gate_was_there_leaves_it_open():
    """Products waited for ever: the hook after the fork took one from a count of none."""
    gate = threads._ForkGate()
    gate.after_fork()
    assert not gate._forking
    with gate:
        pass
