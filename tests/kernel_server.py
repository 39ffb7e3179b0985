"""Processes that compile, load and keep kernels, forked from one that has imported all it takes.

A fresh interpreter takes two seconds to import Numba and to compile its first function, a fork none. Kernels
are of one line each, compiled and cached as those that draw.
"""

import json
import os
import subprocess
import sys
import textwrap

SCRIPT = r"""
import faulthandler, json, os, signal, sys, time, warnings
import numba
import numpy as np
from initium.kernels.cpu import fill, jit, orthogonal

faulthandler.enable()

def double(values):
    for i in range(len(values)):
        values[i] += values[i]

def square(values):
    for i in range(len(values)):
        values[i] *= values[i]

def use(function, dtype="float64"):
    "Compile or load a kernel, and return what it makes of 1, 2, 3."
    values = np.array([1, 2, 3], dtype)
    jit.entry_point(jit.parallel_entry(function), values)(values)
    return values.tolist()

numba.njit(double).compile((numba.float64[::1],))

def work(task, end):
    os.environ.update({k: v for k, v in task["environment"].items() if v is not None})
    for key in [k for k, v in task["environment"].items() if v is None]:
        os.environ.pop(key, None)
    os.umask(task["umask"])
    if task["user"] is not None:
        os.setgroups([])
        os.setgid(task["user"])
        os.setuid(task["user"])
    names = {**globals(), "result": None}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            exec(task["code"], names)
        except Exception as error:
            names["result"] = f"{type(error).__name__}: {error}"
    said = [str(w.message) for w in heard if w.category.__name__ == "KernelCacheWarning"]
    os.write(end, json.dumps([names["result"], said]).encode())

def start(task):
    begin, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(task, end)
            os._exit(0)
        finally:
            os._exit(9)
    os.close(end)
    return child, begin

def finish(child, begin, deadline):
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            text = os.read(begin, 1 << 16)
            os.close(begin)
            return [os.waitstatus_to_exitcode(status), *(json.loads(text) if text else [None, []])]
        time.sleep(0.002)
    os.kill(child, signal.SIGABRT)  # which prints where it stands
    os.waitpid(child, 0)
    return ["hangs", None, []]

for line in sys.stdin:
    tasks = json.loads(line)
    started = [start(task) for task in tasks]
    deadline = time.monotonic() + 120
    print(json.dumps([finish(*each, deadline) for each in started]), flush=True)
"""


class Server:
    """Runs snippets, each in a process of its own."""

    def __init__(self, folder):
        environment = {**os.environ, "INITIUM_CACHE_DIR": str(folder), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def together(self, *codes, folder=None, user=None, umask=0o022, **environment):
        """Run snippets at once; return for each (exit code, its `result`, warnings of the cache)."""
        if folder is not None:
            environment["INITIUM_CACHE_DIR"] = str(folder)
        common = {"user": user, "umask": umask, "environment": environment}
        tasks = [{**common, "code": textwrap.dedent(code)} for code in codes]
        print(json.dumps(tasks), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the server died"
        return json.loads(answer)

    def run(self, code, **options):
        """Run a snippet; return its `result` and the warnings of the cache. It must end well."""
        ((code, result, said),) = self.together(code, **options)
        assert code == 0
        return result, said

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()
