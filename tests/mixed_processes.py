"""Forks, spawns and threads mixed for some seconds: the program of a test; it ends with 0 if all went well.

Each process has a watchdog that dumps the stacks of all threads and ends it: `HANGS` seconds after the end
that was asked for, or after its own start.
"""

import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import threading
import time

import test_stress

HANGS = 120


def watched(seconds):
    """End this process with all its stacks if it takes longer; in forks too, where no watching thread is."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.register(signal.SIGALRM, file=sys.stderr, all_threads=True, chain=True)
    signal.alarm(max(int(seconds), 1))


def differing(expected, names):
    return [name for name in names if test_stress.digest(name) != expected[name]]


def child(expected, seed):
    """Draw in a child, on its main thread and on others, which may fork again; return its exit code."""
    watched(HANGS)
    mixed = random.Random(seed)
    names = [mixed.choice(list(expected)) for _ in range(6)]
    wrong = []
    threads = [threading.Thread(target=lambda: wrong.extend(differing(expected, names))) for _ in range(2)]
    for thread in threads[: mixed.randrange(3)]:
        thread.start()
    if mixed.randrange(4) == 0:
        wrong += forked(expected, seed + 1)
    wrong += differing(expected, names)
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    return 3 if wrong else 0


def forked(expected, seed):
    """Fork a child, wait for it, and return what went wrong."""
    number = os.fork()
    if not number:
        code = 4
        try:
            code = child(expected, seed)
        except BaseException:  # a child must not go on as its parent
            faulthandler.dump_traceback(sys.stderr)
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    return [f"fork {seed}: {code}"] if code else []


def in_spawned(expected, seed):
    sys.exit(child(expected, seed))


def spawned(expected, seed):
    process = multiprocessing.get_context("spawn").Process(target=in_spawned, args=(expected, seed))
    process.start()
    process.join()
    return [f"spawn {seed}: {process.exitcode}"] if process.exitcode else []


def main(seconds):
    watched(seconds + HANGS)
    expected = {name: test_stress.digest(name) for name in test_stress.CALLS}
    end = time.monotonic() + seconds
    counts = {"drawn": 0, "forked": 0, "spawned": 0}
    wrong, lock = [], threading.Lock()

    def until_the_end(number, kind, act):
        mixed = random.Random(number)
        while time.monotonic() < end and not wrong:
            try:
                found = act(mixed.randrange(1 << 30))
            except BaseException as error:
                found = [repr(error)]
            with lock:
                counts[kind] += 1
                wrong.extend(found)

    kinds = {
        "drawn": lambda seed: differing(expected, [random.Random(seed).choice(list(expected))]),
        "forked": lambda seed: forked(expected, seed),
        "spawned": lambda seed: spawned(expected, seed),
    }
    acts = ["drawn", "drawn", "drawn", "forked", "forked", "spawned"]
    threads = [
        threading.Thread(target=until_the_end, args=(number, kind, kinds[kind]))
        for number, kind in enumerate(acts)
    ]
    for thread in threads:
        thread.start()
    until_the_end(len(acts), "forked", kinds["forked"])
    for thread in threads:
        thread.join()
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()), f"in {seconds:g} s")
    if wrong or not all(counts.values()):
        sys.exit(f"wrong: {wrong}, {counts}")


if __name__ == "__main__":
    main(float(sys.argv[1]))
