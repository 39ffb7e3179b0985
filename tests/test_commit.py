"""Outputs that are whole at every moment: with faults at each system call, signals, kills, and rivals."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import faults
import pytest
from click.testing import CliRunner
from faults import CHANGES, READS, expected_names, read, write

from initium.cli.main import main
from initium.io import lock as lock_module
from initium.io import write_checkpoint
from initium.io.interrupts import deferred
from initium.io.lock import Lock
from initium.io.staged_file import StagedFile
from initium.io.staging import Staging

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and forks"),
    pytest.mark.filterwarnings("ignore:.*an interrupted run of 'model' has been"),
]

FOREIGN = {"README.md": "mine", "other-00001-of-00002.safetensors": "mine too", "tokenizer.json": "{}"}


@pytest.fixture(scope="module")
def server():
    server = faults.Server()
    yield server
    server.close()


@pytest.fixture
def quick(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Case:
    """An old output, a new one, and what must hold after a fault.

    `old` and `new` are numbers of shards, 0 for none. Versions: 1 is the old output, 2 the new one, 3 that of
    the run after it.
    """

    def __init__(self, server, folder, old, new, config):
        self.server, self.folder, self.old, self.new, self.config = server, folder, old, new, config
        self.start = folder.with_name("start")
        self.start.mkdir()
        for name, text in FOREIGN.items():
            (self.start / name).write_text(text)
        if old:
            write(self.start, 1, shards=old, config=config)

    def reset(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.start, self.folder)

    def run(self, number=2, **fault):
        overwrite = bool(self.old)
        return self.server.write(
            self.folder, number, shards=self.new, config=self.config, overwrite=overwrite, fault=fault
        )

    def count(self, calls):
        self.reset()
        told = self.run(calls=calls)
        assert told["error"] is None
        return len(told["calls"])

    def check(self, told, *, stopped):
        """Check a folder after a fault; `stopped` tells that the process could not put anything right."""
        found = read(self.folder)
        assert found in (None, 1, 2)
        if told["status"] == 0 and told["error"] is None:
            assert found == 2
        elif not stopped:
            assert found in ((1, 2) if self.old else (None, 2))
        return found

    def check_next(self, *, overwrite):
        """Run the same command again: nothing is lost, mixed, or left over."""
        before, refused = read(self.folder), ""
        try:
            write(self.folder, 3, shards=self.new, config=self.config, overwrite=overwrite)
        except FileExistsError as error:
            refused = str(error)
        assert not refused or (not overwrite and "Exists already" in refused)
        found = read(self.folder)
        if overwrite:
            assert found == 3
        elif self.old:
            assert found in ((2,) if before == 2 else (1, 2))
        else:
            assert found in (2, 3)
        assert names(self.folder) == sorted(
            [*FOREIGN, *expected_names(self.old if found == 1 else self.new, self.config)]
        )
        for name, text in FOREIGN.items():
            assert (self.folder / name).read_text() == text


# old and new number of shards, and whether there is a config.json
FEW = (
    (0, 1, False),
    (1, 1, False),
    (0, 2, True),
    (1, 1, True),
    (2, 2, True),
    (3, 2, False),
    (1, 2, True),
    (2, 1, False),
)
ALL = [(o, n, c) for o in range(4) for n in (1, 2, 3) for c in (False, True) if (o, n) != (3, 3)]


def label(value):
    return str(value).replace(" ", "")


@pytest.mark.parametrize("kind", ["error", "SIGKILL"])
@pytest.mark.parametrize("case", FEW, ids=label)
def test_a_fault_at_any_change_leaves_one_output(tmp_path, server, quick, case, kind):
    tried = Case(server, tmp_path / "out", *case)
    for at in range(1, tried.count(CHANGES) + 1):
        tried.reset()
        told = tried.run(kind=kind, at=at)
        tried.check(told, stopped=kind == "SIGKILL")
        tried.check_next(overwrite=at % 2 == 0)


def test_a_single_file_is_never_missing(tmp_path, server, quick):
    tried = Case(server, tmp_path / "out", 1, 1, False)
    found = set()
    for at in range(1, tried.count(CHANGES) + 1):
        tried.reset()
        tried.run(kind="SIGKILL", at=at)
        found.add(read(tried.folder))
    assert found == {1, 2}


@pytest.mark.parametrize("case", [(1, 1, False), (2, 2, True)], ids=label)
def test_an_interrupt_at_any_change_leaves_one_output(tmp_path, server, quick, case):
    tried = Case(server, tmp_path / "out", *case)
    seen = set()
    for at in range(1, tried.count(CHANGES) + 1):
        tried.reset()
        told = tried.run(kind="SIGINT", at=at)
        assert told["error"] == "KeyboardInterrupt"
        seen.add(tried.check(told, stopped=False))
        # The process lived: it has cleared up by itself.
        assert not [name for name in names(tried.folder) if name.startswith("initium-")]
    assert seen == {1, 2}


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", ALL, ids=label)
def test_an_error_at_any_system_call_leaves_one_output(tmp_path, server, quick, case):
    tried = Case(server, tmp_path / "out", *case)
    calls = CHANGES + READS
    for at in range(1, tried.count(calls) + 1):
        tried.reset()
        tried.check(tried.run(kind="error", at=at, calls=calls), stopped=False)
        tried.check_next(overwrite=at % 2 == 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["error", "late error", "SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("case", ALL, ids=label)
def test_each_kind_of_fault_at_any_change_leaves_one_output(tmp_path, server, quick, case, kind):
    tried = Case(server, tmp_path / "out", *case)
    for at in range(1, tried.count(CHANGES) + 1):
        for overwrite in (False, True):
            tried.reset()
            told = tried.run(kind=kind, at=at)
            tried.check(told, stopped=kind in ("SIGTERM", "SIGKILL"))
            tried.check_next(overwrite=overwrite)


@pytest.mark.parametrize("case", [(0, 2, True), (2, 2, True)], ids=label)
def test_a_disk_that_fails_for_good_loses_nothing(tmp_path, server, quick, case):
    """From some call on all calls fail: so going back fails too, and the next run has to do it."""
    tried = Case(server, tmp_path / "out", *case)
    for at in range(1, tried.count(CHANGES) + 1):
        tried.reset()
        told = tried.run(kind="error", at=at, repeat=1000)
        tried.check(told, stopped=True)
        tried.check_next(overwrite=at % 2 == 0)


def test_renames_that_leave_the_file_system_are_undone(tmp_path, server, quick):
    tried = Case(server, tmp_path / "out", 2, 2, True)
    replaces = tried.count(["replace"])
    for at in range(1, replaces):  # the last one only says that all is done
        tried.reset()
        told = tried.run(kind="error", at=at, code=errno.EXDEV, calls=["replace"])
        assert told["error"] == "OSError"
        assert read(tried.folder) == 1
        assert names(tried.folder) == names(tried.start)


def killed_in_switch(tried, at):
    """Kill a run at its rename number `at`, when the journal has been written."""
    tried.reset()
    assert tried.run(kind="SIGKILL", at=at, calls=["replace"])["status"] == -signal.SIGKILL


def check_kills_in_recovery(tried, places):
    for at in places:
        killed_in_switch(tried, at)
        left = tried.folder.with_name(f"left-{at}")
        shutil.copytree(tried.folder, left)
        count = len(tried.run(3, calls=CHANGES)["calls"])
        for second in range(1, count + 1):
            shutil.rmtree(tried.folder)
            shutil.copytree(left, tried.folder)
            tried.run(3, kind="SIGKILL", at=second)
            # The older output stands if both runs were killed before the first rename of the switch.
            assert read(tried.folder) in ((None, 1, 2, 3) if at == 2 and tried.old else (None, 2, 3))
            write(tried.folder, 4, shards=tried.new, config=tried.config, overwrite=True)
            assert read(tried.folder) == 4
            assert names(tried.folder) == sorted([*FOREIGN, *expected_names(tried.new, tried.config)])


def test_a_recovery_can_be_killed_too(tmp_path, server, quick):
    check_kills_in_recovery(Case(server, tmp_path / "out", 2, 2, True), [3, 7])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "case", [(0, 2, True), (1, 1, True), (2, 2, True), (3, 2, False), (2, 1, True)], ids=label
)
def test_a_recovery_can_be_killed_anywhere(tmp_path, server, quick, case):
    tried = Case(server, tmp_path / "out", *case)
    check_kills_in_recovery(tried, range(2, tried.count(["replace"]) + 1))


def test_the_next_run_goes_forward_once_the_journal_is_written(tmp_path, server, quick):
    tried = Case(server, tmp_path / "out", 2, 2, True)
    found = []
    for at in range(1, tried.count(["replace"]) + 1):
        killed_in_switch(tried, at)
        with pytest.raises(FileExistsError, match="Exists already"):
            write(tried.folder, 3)
        found.append(read(tried.folder))
        assert names(tried.folder) == names(tried.start)
    assert found == [1] + [2] * (len(found) - 1)


# Signals


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_wait_for_the_end_of_a_switch(tmp_path, server, quick, number):
    tried = Case(server, tmp_path / "out", 2, 2, True)
    for at in range(1, tried.count(["replace"]) + 1):
        tried.reset()
        told = tried.run(kind=number, at=at, calls=["replace"])
        assert read(tried.folder) == 2
        if number == "SIGINT":
            assert told["error"] == "KeyboardInterrupt"
        else:
            assert told["status"] == -getattr(signal, number)


def test_deferred_signals_arrive_and_handlers_are_restored():
    seen = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, lambda *_: seen.append("term"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        mine = {s: signal.getsignal(s) for s in before}
        with pytest.raises(KeyboardInterrupt), deferred():
            for number in before:
                signal.raise_signal(number)
                signal.raise_signal(number)
            seen.append("end of the block")
        assert seen == ["end of the block", "term"]
        assert {s: signal.getsignal(s) for s in before} == mine
        with pytest.raises(KeyboardInterrupt), deferred(), deferred():
            signal.raise_signal(signal.SIGINT)
            seen.append("end of the inner block")
        assert seen[-1] == "end of the inner block"
        with pytest.raises(KeyboardInterrupt) as caught, deferred():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("first")
        assert isinstance(caught.value.__context__, ValueError)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_write_in_a_thread_is_not_cut_by_an_interrupt(tmp_path):
    errors = []

    def target():
        with deferred():
            pass
        write(tmp_path / "out", 2, shards=2, pause=0.05)

    thread = threading.Thread(target=lambda: errors.append(target()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            thread.join()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert errors == [None]
    assert read(tmp_path / "out") == 2


def check_random_signals(tmp_path, server, rounds, seed, kinds=("SIGKILL", "SIGINT", "SIGTERM")):
    rng = random.Random(seed)
    begin = time.perf_counter()
    server.write(tmp_path / "timing", 2, shards=2, pause=0.002)
    duration = time.perf_counter() - begin
    outcomes = set()
    for number in range(rounds):
        kind = kinds[number % len(kinds)]
        case = rng.choice(ALL)
        folder = tmp_path / str(number)
        folder.mkdir()
        tried = Case(server, folder / "out", *case)
        tried.reset()
        options = {"shards": tried.new, "config": tried.config, "overwrite": bool(tried.old)}
        process = server.start(tried.folder, 2, pause=0.002, **options)
        time.sleep(rng.random() * duration)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, getattr(signal, kind))
        told = server.result()
        outcomes.add(tried.check(told, stopped=kind != "SIGINT"))
        tried.check_next(overwrite=bool(rng.randrange(2)))
        shutil.rmtree(folder)
    return outcomes


def test_signals_at_random_times(tmp_path, server):
    check_random_signals(tmp_path, server, 12, seed=1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_many_signals_at_random_times(tmp_path, server, kind):
    assert check_random_signals(tmp_path, server, 300, seed=2, kinds=(kind,)) >= {1, 2}


# Rivals


def check_rivals(tmp_path, rounds, seed):
    """Three runs of one output at once: one or more write it in turn, the others are told so."""
    rng = random.Random(seed)
    servers = [faults.Server() for _ in range(3)]
    try:
        for number in range(rounds):
            folder = tmp_path / str(number)
            old = number % 2 == 1
            if old:
                write(folder, 1, shards=rng.choice((1, 2, 3)))
            for version, server in enumerate(servers, start=2):
                shards = rng.choice((1, 2, 3))
                server.start(folder, version, shards=shards, overwrite=old, pause=0.002)
                time.sleep(rng.choice((0, 0, 0.005, 0.05)) * rng.random())
            told = [server.result() for server in servers]
            wrote = {version for version, t in enumerate(told, start=2) if t["error"] is None}
            assert read(folder) in wrote
            for t in told:
                assert t["error"] in (None, "FileExistsError")
                if t["error"]:
                    says = "Another run is writing this output" if old else "Another run|Exists already"
                    assert any(part in t["message"] for part in says.split("|"))
            assert len(wrote) == 1 or old
            assert not [name for name in names(folder) if name.startswith("initium-")]
            shutil.rmtree(folder)
    finally:
        for server in servers:
            server.close()


def test_three_runs_at_once(tmp_path):
    check_rivals(tmp_path, 6, seed=1)


@pytest.mark.exhaustive
def test_three_runs_at_once_often(tmp_path):
    check_rivals(tmp_path, 50, seed=2)


def test_a_second_run_is_told_and_changes_nothing(tmp_path):
    inner = []

    def fill(pieces):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=r"Another run is writing this output: '.*out'"):
                write(tmp_path / "out", 3, overwrite=overwrite)
        inner.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before)
        for piece in pieces:
            piece.values[:] = 2

    write_checkpoint(tmp_path / "out", faults.version_of(2), fill, metadata={"version": "2"})
    assert inner == [True]
    assert read(tmp_path / "out") == 2


def test_outputs_of_other_names_are_no_rivals(tmp_path):
    def fill(pieces):
        write(tmp_path / "b.safetensors", 3, config=False, overwrite=True)
        for piece in pieces:
            piece.values[:] = 2

    write_checkpoint(tmp_path / "a.safetensors", faults.version_of(2), fill, metadata={"version": "2"})
    assert names(tmp_path) == ["a.safetensors", "b.safetensors"]


# The lock


def test_a_lock_ends_with_its_process(tmp_path, server):
    process = server.start(tmp_path, 2, pause=10)
    until = time.monotonic() + 60
    while not (tmp_path / "initium-partial-model" / "model.safetensors.tmp").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(FileExistsError, match="Another run"):
        write(tmp_path, 3)
    os.kill(process, signal.SIGKILL)
    server.result()
    assert (tmp_path / "initium-partial-model" / "lock").exists()
    write(tmp_path, 3)
    assert names(tmp_path) == expected_names(1, True)


def test_a_lock_that_was_removed_is_noticed(tmp_path):
    lock = Lock(tmp_path / "folder", tmp_path / "out")
    assert lock.is_current()
    shutil.rmtree(tmp_path / "folder")
    assert not lock.is_current()
    other = Lock(tmp_path / "folder", tmp_path / "out")
    assert not lock.is_current() and other.is_current()
    lock.release()
    assert other.is_current()
    other.release()
    other.release()
    assert names(tmp_path) == []


def test_a_lock_of_a_run_that_ends_meanwhile_is_taken_again(tmp_path, monkeypatch):
    first = Lock(tmp_path / "folder", tmp_path / "out")
    really = lock_module._try_lock

    def after_the_end_of_the_first(descriptor):
        first.release()
        return really(descriptor)

    monkeypatch.setattr(lock_module, "_try_lock", after_the_end_of_the_first)
    second = Lock(tmp_path / "folder", tmp_path / "out")
    assert second.is_current()
    second.release()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(RuntimeWarning, match="has no locks; start no second run"):
        write(tmp_path, 2)
    assert read(tmp_path) == 2


def test_locks_on_windows(tmp_path, monkeypatch):
    """The branch for Windows, with a stand-in for its module: a file is closed before it is removed."""
    held = set()

    def locking(descriptor, mode, count):
        assert (mode, count) == (2, 1)
        file = os.fstat(descriptor).st_ino
        if file in held:
            raise PermissionError(errno.EACCES, "Permission denied")
        held.add(file)

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(sys, "platform", "win32")
    module = types.ModuleType("lock_on_windows")
    exec(compile(Path(lock_module.__file__).read_text(), "lock.py", "exec"), module.__dict__)
    first = module.Lock(tmp_path / "folder", tmp_path / "out")
    with pytest.raises(FileExistsError, match="Another run"):
        module.Lock(tmp_path / "folder", tmp_path / "out")
    descriptor, really = first._descriptor, Path.unlink

    def unlink(path):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        really(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    first.release()
    assert names(tmp_path) == []


# What cannot be recovered without asking


@pytest.fixture
def half_switched(tmp_path, server):
    """Return an output whose switch was killed: old shards are aside, one new shard has its place."""
    tried = Case(server, tmp_path / "out", 2, 2, True)
    killed_in_switch(tried, tried.count(["replace"]) - 2)
    assert read(tried.folder) is None
    assert (tried.folder / "model-00001-of-00002.safetensors").exists()
    assert (tried.folder / "initium-partial-model" / "model-00002-of-00002.safetensors.tmp").exists()
    return tried


def test_the_older_output_comes_back_when_new_files_are_gone(half_switched):
    shutil.rmtree(half_switched.folder / "initium-partial-model")
    with pytest.raises(FileExistsError, match="Exists already"):
        write(half_switched.folder, 3)
    assert read(half_switched.folder) == 1
    assert names(half_switched.folder) == names(half_switched.start)


def test_the_newer_output_comes_when_old_files_are_gone(half_switched):
    """One new shard stands under the name of an old one by then, which is aside no more."""
    for file in (half_switched.folder / "initium-old-model").glob("*.bak"):
        file.unlink()
    with pytest.raises(FileExistsError, match="Exists already"):
        write(half_switched.folder, 3)
    assert read(half_switched.folder) == 2
    assert names(half_switched.folder) == names(half_switched.start)


def test_a_copy_of_the_folder_can_be_recovered(half_switched):
    copy = half_switched.folder.with_name("copy")
    shutil.copytree(half_switched.folder, copy)
    with pytest.raises(FileExistsError, match="Exists already"):
        write(copy, 3)
    assert read(copy) == 2


@pytest.mark.parametrize("gone", ["", "initium-partial-model"])
def test_a_recovery_is_told(half_switched, gone):
    done = "completed: its output has taken the place of the older one"
    if gone:
        shutil.rmtree(half_switched.folder / gone)
        done = "undone: its files had been removed, and the older ones are in their places again"
    with pytest.warns(RuntimeWarning, match=f"an interrupted run of 'model' has been {done}"):
        write(half_switched.folder, 3, overwrite=True)
    assert read(half_switched.folder) == 3


def test_the_command_tells_of_a_recovery_in_one_line(half_switched, tmp_path):
    given = write(tmp_path / "given.safetensors", 1, config=False).files[0]
    command = ["init", str(given), "-o", str(half_switched.folder)]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[[rules]]\nmatch = '*'\ninit = 'ones'\n")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(main, [*command, "--recipe", str(recipe)])
    first, second = result.stderr.splitlines()
    assert first.startswith(
        f"Warning: {half_switched.folder}: an interrupted run of 'model' has been completed"
    )
    assert second.endswith("Exists already")
    assert result.exit_code == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stranger", r"model\.safetensors\.index\.json has come since"),
        ("both gone", "files of both the older and the newer output have been removed"),
        ("no journal", r"there is no switch\.json any more"),
        ("bad journal", r"its switch\.json is not of this version"),
        ("newer journal", r"its switch\.json is not of this version"),
        ("far names", r"its switch\.json names files of other folders"),
    ],
)
def test_what_is_unclear_is_left_alone(half_switched, change, message, overwrite):
    folder = half_switched.folder
    kept, journal = folder / "initium-old-model", folder / "initium-old-model" / "switch.json"
    said = json.loads(journal.read_text())
    if change == "stranger":
        (folder / "model.safetensors.index.json").write_text("a download")
    elif change == "both gone":
        shutil.rmtree(folder / "initium-partial-model")
        next(kept.glob("*.bak")).unlink()
    elif change == "no journal":
        journal.unlink()
    elif change == "bad journal":
        journal.write_bytes(b"\xff{")
    elif change == "newer journal":
        journal.write_text(json.dumps({**said, "version": 2}))
    else:
        journal.write_text(json.dumps({**said, "old": {f"../{name}": s for name, s in said["old"].items()}}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(FileExistsError, match=message):
        write(folder, 3, overwrite=overwrite)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before


def test_a_file_of_others_that_comes_before_the_switch_is_left_alone(tmp_path):
    """Between the last look and the switch."""
    with pytest.raises(FileExistsError, match="Exists already"), Staging(tmp_path, "m", tmp_path) as mine:
        for name in ("a", "b"):
            file = mine.create(name)
            file.write(b"mine")
            file.finish()
        (tmp_path / "a").write_bytes(b"theirs")
        mine.commit(["a", "b"])
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"theirs"


def test_a_file_that_was_removed_before_the_switch_is_missed(tmp_path):
    with pytest.raises(FileNotFoundError), Staging(tmp_path, "m", tmp_path) as mine:
        for name in ("a", "b"):
            mine.create(name).finish()
        mine.places.new("a").unlink()
        mine.commit(["a", "b"])
    assert names(tmp_path) == []


def test_old_files_that_cannot_be_removed_are_told_and_removed_later(tmp_path, monkeypatch):
    write(tmp_path, 1, shards=2)
    really = Path.unlink

    def unlink(path, **options):
        if path.suffix == ".bak":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        really(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.warns(RuntimeWarning, match="initium-old-model: Device or resource busy; the next run"):
        write(tmp_path, 2, shards=2, overwrite=True)
    assert read(tmp_path) == 2
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match="Exists already"):
        write(tmp_path, 3)
    assert names(tmp_path) == expected_names(2, True)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_sync_that_fails_after_the_switch_is_told(tmp_path, server, shards):
    tried = Case(server, tmp_path / "out", shards, shards, False)
    tried.reset()
    calls = tried.run(calls=["replace", "fsync"])["calls"]
    last = max(at for at, call in enumerate(calls, 1) if "replace" in call and call.endswith(".tmp"))
    tried.reset()
    told = tried.run(kind="error", at=last + 1, calls=["replace", "fsync"])
    assert "the new output is whole, but the disk may not hold it for good" in told["message"]
    assert read(tried.folder) == 2


def test_an_error_that_cannot_be_undone_is_told(tmp_path, server):
    tried = Case(server, tmp_path / "out", 2, 2, True)
    tried.reset()
    told = tried.run(kind="error", at=4, calls=["replace"], repeat=1000)
    assert "the next run of this output completes or undoes this one" in told["message"]
    tried.check_next(overwrite=False)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs names of descriptors")
def test_each_step_is_on_the_disk_before_the_next_one(tmp_path, server):
    """A loss of power keeps what has been synchronised: so its order decides what can be had back."""
    write(tmp_path, 1, shards=1)
    options = {"shards": 2, "overwrite": True, "fault": {"calls": ["replace", "fsync", "unlink"]}}
    calls = server.write(tmp_path, 2, **options)["calls"]
    steps = [call.replace(f"{tmp_path}", "").replace(" /", " ").replace("initium-", "") for call in calls]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    new = ["config.json", *shards, "model.safetensors.index.json"]
    first = steps.index("fsync partial-model/config.json.tmp")
    assert [step for step in steps[first:] if not step.startswith("unlink partial-model/")] == [
        *[f"fsync partial-model/{name}.tmp" for name in new],
        *["unlink old-model/switch.json.tmp", "fsync old-model/switch.json.tmp"],
        "replace old-model/switch.json.tmp",
        *["fsync old-model", "fsync partial-model", "fsync "],
        *["replace model.safetensors", "fsync ", "replace config.json", "fsync "],
        *[f"replace partial-model/{name}.tmp" for name in new[:-1]],
        *["fsync ", f"replace partial-model/{new[-1]}.tmp", "fsync "],
        *["replace old-model/switch.json", "fsync old-model"],
        *["unlink old-model/model.safetensors.bak", "unlink old-model/config.json.bak"],
        "unlink old-model/done.json",
    ]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs names of descriptors")
def test_new_folders_are_on_the_disk(tmp_path, server):
    calls = server.write(tmp_path / "a" / "b", 2, fault={"calls": ["fsync"]})["calls"]
    assert {f"fsync {tmp_path}", f"fsync {tmp_path / 'a'}", f"fsync {tmp_path / 'a' / 'b'}"} <= set(calls)


def test_a_file_is_closed_only_between_writes(tmp_path, monkeypatch):
    """After two interrupts a writing thread may still run: its descriptor must not become another file's."""
    file = StagedFile(tmp_path / "a", tmp_path / "b")
    entered, closed = threading.Event(), []
    really = os.write

    def slow(descriptor, data):
        entered.set()
        time.sleep(0.2)
        closed.append(file._descriptor == -1)
        return really(descriptor, data[:1])

    monkeypatch.setattr(os, "write", slow)
    errors = []

    def target():
        try:
            file.write(b"some")
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=target)
    thread.start()
    entered.wait()
    file.close()
    thread.join()
    assert closed == [False] and errors == [errno.EBADF]


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, if another test has imported it
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("case", [(0, 1, False), (1, 1, True), (2, 2, True)], ids=label)
def test_a_signal_at_any_line_leaves_one_output(tmp_path, server, quick, case, kind):
    """Not only at system calls: a trace function sends the signal before each line of initium.io."""
    tried = Case(server, tmp_path / "out", *case)
    line = 0
    while True:
        line += 1
        tried.reset()
        child = os.fork()
        if not child:
            reached = False
            signal.alarm(60)  # a lock that an interrupt has left locked
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                reached = _write_with_signal(tried, line, kind)
            finally:
                os._exit(0 if reached else 77)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 77, -kind) and (status != -kind or kind == signal.SIGKILL)
        tried.check({"status": status, "error": "any"}, stopped=kind == signal.SIGKILL)
        if status == 77:
            break
        tried.check_next(overwrite=line % 2 == 0)
    assert line > 200


def _write_with_signal(tried, line, kind):
    left = line

    def trace(frame, event, _):
        nonlocal left
        if f"initium{os.sep}io" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), kind)
        return trace

    sys.settrace(trace)
    with contextlib.suppress(KeyboardInterrupt):
        write(tried.folder, 2, shards=tried.new, config=tried.config, overwrite=bool(tried.old))
    sys.settrace(None)
    return left <= 0
