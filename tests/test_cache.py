"""The cache of compiled kernels: whom it trusts, damage, full disks, several processes, forks."""

import errno
import os
import pickle
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numba
import pytest
from kernel_server import Server

import initium as ini
from initium.kernels.cpu import cache

NOBODY = 65_534
DOUBLE, SQUARE = "result = use(double)", "result = use(square)"
DOUBLED, SQUARED = [2.0, 4.0, 6.0], [1.0, 4.0, 9.0]

posix = pytest.mark.skipif(os.name != "posix", reason="needs owners and modes of files")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
pytestmark = forks  # the server's processes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def warm_folder(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm") / "cache"
    assert server.run(DOUBLE, folder=folder) == (DOUBLED, [])
    return folder


@pytest.fixture
def warm(warm_folder, tmp_path):
    """Return a folder of its own that holds a compiled kernel."""
    return Path(shutil.copytree(warm_folder, tmp_path / "cache"))


def others_can_enter(path):
    return all(folder.stat().st_mode & 0o001 for folder in Path(path).resolve().parents)


# Its process reads the sources of the kernels, and imports what it needs.
for_others = pytest.mark.skipif(
    not all(map(others_can_enter, (cache.__file__, numba.__file__))),
    reason="needs a clone and an environment that other users can read",
)


@pytest.fixture
def public():
    """Return a folder that every user can enter, with nothing but trusted folders above."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def kernels(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def state(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kernels(folder)}


def loads_quietly(server, folder, **options):
    """Tell whether a kernel comes from the cache: right, without a word, and no file changes."""
    before = state(folder)
    return server.run(DOUBLE, folder=folder, **options) == (DOUBLED, []) and state(folder) == before


def test_a_kernel_is_kept_and_loaded(server, warm):
    assert loads_quietly(server, warm)
    (path,) = kernels(warm)
    # The file is what is run: another kernel's under its name, with the right digest, gives other values.
    other = warm.parent / "other"
    assert server.run(SQUARE, folder=other) == (SQUARED, [])
    (source,) = kernels(other)
    path.write_bytes(forged(path, source.read_bytes()[len(forged(path, b"")) :]))
    assert server.run("result = use(double)", folder=warm)[0] != DOUBLED


# --- other users --------------------------------------------------------------------------------------------


class Trap:
    """Its pickle makes a file in who loads it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def forged(path, content):
    """Return a file of the cache that a knowing attacker would write."""
    return cache._MAGIC + cache._digest(path.stem, content) + content


def plant(server, folder, mark):
    """Let another user write traps in place of a cache's files."""
    for path in kernels(folder):
        content = forged(path, pickle.dumps(Trap(mark)))
        code = f"from pathlib import Path\np = Path({str(path)!r})\np.unlink()\np.write_bytes({content!r})"
        assert server.run(code, user=NOBODY) == (None, [])


def refuses(server, folder, **options):
    """Tell whether a folder is left alone, with one warning for two kernels, and values are right."""
    before = state(folder)
    result, said = server.run("result = use(double), use(square)", folder=folder, **options)
    return result == [DOUBLED, SQUARED] and len(said) == 1 and state(folder) == before


def open_to_all(folder):
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


@root
def test_a_planted_file_is_not_run(server, warm_folder, public):
    folder, mark = Path(shutil.copytree(warm_folder, public / "cache")), public / "mark"
    assert loads_quietly(server, folder)
    open_to_all(folder)
    plant(server, folder, mark)
    assert refuses(server, folder)
    assert not mark.exists()


@root
def test_a_planted_file_is_not_run_once_its_folder_is_closed(server, warm_folder, public):
    folder, mark = Path(shutil.copytree(warm_folder, public / "cache")), public / "mark"
    open_to_all(folder)
    plant(server, folder, mark)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o700)
    result, said = server.run(DOUBLE, folder=folder)
    assert (result, len(said)) == (DOUBLED, 1)
    assert f"belongs to user {NOBODY}" in said[0]
    assert not mark.exists()
    assert loads_quietly(server, folder)  # it was replaced


@root
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_another_user_put_there(server, warm_folder, public, mode):
    above, mark = public / "above", public / "mark"
    above.mkdir()
    above.chmod(mode)
    folder = Path(shutil.copytree(warm_folder, above / "cache"))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    plant(server, folder, mark)
    assert refuses(server, folder)
    assert not mark.exists()


@root
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_a_symbolic_link_in_a_sticky_folder(server, warm_folder, public, owner):
    target = Path(shutil.copytree(warm_folder, public / "target"))
    above, link = public / "above", public / "above" / "link"
    above.mkdir()
    above.chmod(0o1777)
    link.symlink_to(target)
    os.lchown(link, owner, owner)
    assert (loads_quietly if owner == 0 else refuses)(server, link)


@posix
def test_a_symbolic_link_of_its_own_user(server, warm, tmp_path):
    (tmp_path / "link").symlink_to(Path("..") / tmp_path.name / "cache")
    assert loads_quietly(server, tmp_path / "link")
    (tmp_path / "new").symlink_to(tmp_path / "not_yet_there")
    assert server.run(DOUBLE, folder=tmp_path / "new") == (DOUBLED, [])
    assert loads_quietly(server, tmp_path / "new")


@posix
def test_links_in_a_circle(server, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    result, said = server.run(DOUBLE, folder=tmp_path / "a")
    assert (result, len(said)) == (DOUBLED, 1)


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_may_write(server, warm, mode):
    folder = kernels(warm)[0].parent
    folder.chmod(mode)
    assert refuses(server, warm)
    folder.chmod(0o755)
    assert loads_quietly(server, warm)


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_above_that_others_may_write(server, warm, mode):
    warm.parent.chmod(mode)
    assert refuses(server, warm)
    warm.parent.chmod(mode | stat.S_ISVTX)  # as /tmp: others cannot rename what is there
    assert loads_quietly(server, warm)


@posix
@pytest.mark.parametrize("mode", [0o660, 0o606])
def test_a_file_that_others_may_write(server, warm, mode):
    (path,) = kernels(warm)
    path.chmod(mode)
    result, said = server.run(DOUBLE, folder=warm)
    assert (result, len(said)) == (DOUBLED, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert loads_quietly(server, warm)


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o777])
def test_folders_and_files_are_made_for_their_user_alone(server, tmp_path, umask):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    options = {"INITIUM_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": str(home), "umask": umask}
    assert server.run(DOUBLE, **options) == (DOUBLED, [])
    made = list(home.rglob("*"))
    assert len(made) >= 3
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_dir()} == {0o700}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_file()} == {0o600}
    assert server.run(DOUBLE, **options) == (DOUBLED, [])


# --- where --------------------------------------------------------------------------------------------------


def test_a_relative_folder_of_the_desktop_is_ignored(server, tmp_path):
    (tmp_path / "home").mkdir()
    environment = {"INITIUM_CACHE_DIR": None, "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": "relative"}
    code = f"os.chdir({str(tmp_path)!r})\n{DOUBLE}"
    assert server.run(code, **environment) == (DOUBLED, [])
    assert not (tmp_path / "relative").exists()
    assert len(kernels(tmp_path / "home")) == 1


def test_a_relative_folder_of_ours_is_an_error(server, tmp_path):
    code = f"os.chdir({str(tmp_path)!r})\n{DOUBLE}"
    result, _ = server.run(code, folder="relative")
    assert result == "ValueError: INITIUM_CACHE_DIR='relative' is a relative path; expected an absolute one"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_folder(server, home, tmp_path):
    code = f"""
        import pathlib
        os.chdir({str(tmp_path)!r})
        os.getuid = lambda: 54321  # a user of no entry
        result = use(double), use(square)
    """
    options = {"INITIUM_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": home}
    result, said = server.run(code, **options)
    assert (result, len(said)) == ([DOUBLED, SQUARED], 1)
    assert "there is no home folder" in said[0]
    assert list(tmp_path.iterdir()) == []


# --- damage -------------------------------------------------------------------------------------------------


def heals(server, folder):
    """Tell whether damage is mentioned once and mended, with right values then and later."""
    result, said = server.run(DOUBLE, folder=folder)
    return result == DOUBLED and len(said) == 1 and loads_quietly(server, folder)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def garble(path):
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_link(path):
    path.replace(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("harm", [empty, cut, lengthen, garble, replace_by_pipe, replace_by_link])
def test_damage_is_mended(server, warm, harm):
    (path,) = kernels(warm)
    harm(path)
    if harm is replace_by_link:  # the warning says so; what it led to stays as it is
        result, said = server.run(DOUBLE, folder=warm)
        assert (result, len(said)) == (DOUBLED, 1)
        assert path.is_file() and not path.is_symlink()
        return
    assert heals(server, warm)


def test_a_folder_in_place_of_a_file(server, warm):
    (path,) = kernels(warm)
    path.unlink()
    path.mkdir()
    result, said = server.run(DOUBLE, folder=warm)
    assert result == DOUBLED
    assert 1 <= len(said) <= 2  # it could neither be loaded nor replaced


def test_what_is_whole_but_means_nothing(server, warm):
    (path,) = kernels(warm)
    for content in (b"", b"nonsense", pickle.dumps(("not", "a", "kernel")), pickle.dumps(None)):
        path.write_bytes(forged(path, content))
        assert heals(server, warm)


def test_a_kernel_under_the_name_of_another(server, warm):
    (double,) = kernels(warm)
    assert server.run(SQUARE, folder=warm) == (SQUARED, [])
    (square,) = set(kernels(warm)) - {double}
    double.write_bytes(square.read_bytes())
    assert heals(server, warm)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def test_every_flipped_bit_is_noticed(warm, monkeypatch):
    monkeypatch.setenv("INITIUM_CACHE_DIR", str(warm))
    (path,) = kernels(warm)
    sound, rng = path.read_bytes(), random.Random(8)
    content = cache.load(path.stem)
    header = len(sound) - len(content)
    # All bits of what stands before the kernel, and 400 of the kernel's.
    places = [*range(8 * header), *(rng.randrange(8 * len(sound)) for _ in range(400))]
    for place in places:
        damaged = bytearray(sound)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(cache.DamagedError):
            cache.load(path.stem)
    path.write_bytes(sound)
    assert cache.load(path.stem) == content


@pytest.mark.parametrize("count", [6, pytest.param(80, marks=pytest.mark.exhaustive)])
def test_flipped_bits_give_no_wrong_value_and_no_signal(server, warm, count):
    rng = random.Random(12)
    for _ in range(count):
        flip(rng.choice(kernels(warm)), rng)
        assert heals(server, warm)


def test_what_damaged_kernels_draw():
    # Real kernels in fresh interpreters.
    folder = Path(tempfile.mkdtemp())
    script = """
        import initium as ini
        print(ini.initialize(ini.constant(3.0), 5, seed=1, dtype="bfloat16").astype(float).tolist())
    """
    rng = random.Random(3)
    try:
        for turn in range(3):
            run = fresh(script, INITIUM_CACHE_DIR=str(folder))
            assert run.stdout.strip() == str([3.0] * 5)
            assert run.stderr.count("KernelCacheWarning") == (turn > 0)
            for path in kernels(folder):
                flip(path, rng)
    finally:
        shutil.rmtree(folder)


def fresh(script, **environment):
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run


def test_several_damaged_kernels_are_mentioned_once(server, warm):
    assert server.run(SQUARE, folder=warm) == (SQUARED, [])
    for path in kernels(warm):
        empty(path)
    result, said = server.run("result = use(double), use(square)", folder=warm)
    assert (result, len(said)) == ([DOUBLED, SQUARED], 1)


# --- what cannot be read or written -------------------------------------------------------------------------


@root
def test_a_full_disk(server, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        for _ in range(2):
            result, said = server.run("result = use(double), use(square)", folder=folder)
            assert (result, len(said)) == ([DOUBLED, SQUARED], 1)
            assert "No space left on device" in said[0]
            assert kernels(folder) == []
        # Space for it is made later.
        subprocess.run(["mount", "-o", "remount,size=4M", folder], check=True)
        assert server.run(DOUBLE, folder=folder) == (DOUBLED, [])
        assert loads_quietly(server, folder)
    finally:
        subprocess.run(["umount", folder], check=True)


@posix
def test_a_file_that_may_not_grow(server, tmp_path):
    code = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
        result = use(double), use(square)
    """
    result, said = server.run(code, folder=tmp_path)
    assert (result, len(said)) == ([DOUBLED, SQUARED], 1)
    assert os.strerror(errno.EFBIG) in said[0]
    assert kernels(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "replace", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disk_that_fails(server, tmp_path, call, number):
    code = f"""
        real = os.{call}
        def fail(path, *args, **kwargs):
            if str(path).startswith({str(tmp_path)!r}):
                raise OSError({number}, os.strerror({number}))
            return real(path, *args, **kwargs)
        os.{call} = fail
        result = use(double), use(square), use(double)
    """
    result, said = server.run(code, folder=tmp_path / "cache")
    assert result == [DOUBLED, SQUARED, DOUBLED]
    assert len(said) == 1
    assert os.strerror(number) in said[0]
    assert kernels(tmp_path) == []


@root
@for_others
def test_another_users_cache_is_used_if_it_is_roots(server, warm_folder, public):
    folder = Path(shutil.copytree(warm_folder, public / "cache"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert loads_quietly(server, folder, user=NOBODY)
    # What is not there cannot be kept.
    result, said = server.run("result = use(double), use(square)", folder=folder, user=NOBODY)
    assert (result, len(said)) == ([DOUBLED, SQUARED], 1)


@root
@for_others
def test_files_that_cannot_be_read(server, warm_folder, public):
    folder = Path(shutil.copytree(warm_folder, public / "cache"))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    assert loads_quietly(server, folder, user=NOBODY)
    (path,) = kernels(folder)
    path.chmod(0)
    result, said = server.run(DOUBLE, folder=folder, user=NOBODY)
    assert (result, len(said)) == (DOUBLED, 1)
    assert loads_quietly(server, folder, user=NOBODY)


# --- growth -------------------------------------------------------------------------------------------------


def test_the_oldest_kernels_go_first(tmp_path, monkeypatch):
    monkeypatch.setenv("INITIUM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_MOST_BYTES", 5_000)
    now = time.time()
    for number in range(8):
        cache.save(f"k{number}", bytes(1_000))
        if number < 7:
            os.utime(cache.cache_folder() / f"k{number}.kernel", (now, now - 100_000 * (10 - number)))
        if number == 3:
            assert cache.load("k0") == bytes(1_000)  # which makes it the youngest
    left = {path.stem for path in kernels(tmp_path)}
    assert {"k0", "k7"} <= left
    assert not {"k1", "k2"} & left
    assert sum(path.stat().st_size for path in kernels(tmp_path)) <= 6_500


def test_what_killed_processes_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("INITIUM_CACHE_DIR", str(tmp_path))
    cache.save("first", b"1")
    old, young, strange = (cache.cache_folder() / name for name in ("a.1.part", "b.2.part", "notes.txt"))
    for path in (old, young, strange):
        path.write_bytes(b"x")
    for path in (old, strange):
        os.utime(path, (0, 0))
    cache.save("second", b"2")
    assert (old.exists(), young.exists(), strange.exists()) == (False, True, True)


# --- several processes --------------------------------------------------------------------------------------


def test_processes_that_compile_the_same_kernel(server, tmp_path):
    code = "time.sleep({}); result = use(double)"
    for turn in range(3):
        folder = tmp_path / str(turn)
        ended = server.together(*(code.format(delay) for delay in (0, 0.01 * turn, 0.05)), folder=folder)
        assert ended == [[0, DOUBLED, []]] * 3
        assert loads_quietly(server, folder)


def test_processes_that_compile_different_kernels(server, tmp_path):
    code = """
        import random
        number, real = {}, os.replace
        def slowly(*args, **kwargs):
            time.sleep(0.2 * random.Random(number).random())
            real(*args, **kwargs)
            time.sleep(0.2 * random.Random(number + 1000).random())
        os.replace = slowly
        result = use(double, {!r})
    """
    both = "result = use(double, 'float64') + use(double, 'int64')"
    for turn in range(10):
        folder = tmp_path / str(turn)
        ended = server.together(code.format(turn, "float64"), code.format(~turn, "int64"), folder=folder)
        assert ended == [[0, DOUBLED, []]] * 2
        before = state(folder)
        assert server.run(both, folder=folder) == (DOUBLED * 2, [])
        assert state(folder) == before


# --- forks --------------------------------------------------------------------------------------------------


FORKS = """
    import os, signal, sys, threading, time, warnings
    warnings.simplefilter("ignore")
    import faulthandler
    {prepare}

    def child():
        faulthandler.dump_traceback_later(25, exit=True)
        {child}
        os._exit(0)

    codes = []
    for turn in range({turns}):
        thread = threading.Thread(target=parent, args=(turn,))
        thread.start()
        time.sleep({delay})
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(9)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        thread.join()
    print(codes)
"""


def forked(tmp_path, turns, delay, prepare, child):
    prepare, child = (textwrap.dedent(text).strip() for text in (prepare, child))
    script = textwrap.dedent(FORKS).format(
        turns=turns,
        delay=delay,
        prepare=prepare,
        child=textwrap.indent(child, "    ").strip(),
    )
    run = fresh(script, INITIUM_CACHE_DIR=str(tmp_path))
    return run.stdout.strip(), run.stderr


def test_a_fork_while_another_thread_compiles(tmp_path):
    prepare = """
        import numba, numpy as np
        from initium.kernels.cpu import jit, orthogonal
        def double(values):
            for i in range(len(values)):
                values[i] += values[i]
        def use(dtype):
            values = np.array([1, 2, 3], dtype)
            jit.entry_point(jit.parallel_entry(double), values)(values)
            return values.tolist()
        use("float32")
        def parent(turn):
            use(("int8", "int16", "int32", "int64", "uint8")[turn])
    """
    printed, errors = forked(tmp_path, 5, 0.03, prepare, 'assert use("float64") == [2, 4, 6]')
    assert printed == "[0, 0, 0, 0, 0]", errors


@pytest.mark.parametrize(
    "delay",
    [0.05, 0.6, *(pytest.param(0.1 * i, marks=pytest.mark.exhaustive) for i in range(1, 25) if i != 6)],
)
def test_a_fork_while_another_thread_imports(tmp_path, delay):
    prepare = """
        import initium as ini
        def parent(turn):
            ini.initialize(ini.constant(1.0), 3, seed=1, dtype="bfloat16")
    """
    child = 'assert ini.initialize(ini.constant(1.0), 3, seed=1, dtype="bfloat16").tolist() == [1] * 3'
    printed, errors = forked(tmp_path, 1, delay, prepare, child)
    assert printed == "[0]", errors


def test_a_fork_during_any_import_of_initium(tmp_path):
    """The first use imports several modules; a fork waits at each of them."""
    prepare = """
        import importlib.abc
        import initium as ini
        class Slow(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name.startswith("initium.kernels."):
                    time.sleep(0.2)
        sys.meta_path.insert(0, Slow())
        def parent(turn):
            ini.normal(3, seed=1, backend="numpy")
    """
    child = 'assert ini.normal(3, seed=1, backend="numpy").shape == (3,)'
    printed, errors = forked(tmp_path, 1, 0.05, prepare, child)
    assert printed == "[0]", errors


# --- how Numba is set ---------------------------------------------------------------------------------------


def test_numba_told_not_to_compile(tmp_path):
    script = """
        import initium as ini
        try:
            ini.normal(3, seed=1)
        except ImportError as error:
            print(error)
        print(ini.normal(3, seed=1, backend="numpy").tolist())
    """
    first, second = fresh(script, NUMBA_DISABLE_JIT="1").stdout.splitlines()
    assert re.match(
        "backend='numba' cannot be used: NUMBA_DISABLE_JIT is set, .*expected it unset or 0", first
    )
    assert second == str(ini.normal(3, seed=1, backend="numpy").tolist())


def test_numba_told_not_to_optimise(tmp_path):
    script = """
        import initium as ini
        print(ini.initialize(ini.constant(3.0), 5, seed=1, dtype="bfloat16").astype(float).tolist())
    """
    run = fresh(script, NUMBA_OPT="0", INITIUM_CACHE_DIR=str(tmp_path))
    assert run.stdout.strip() == str([3.0] * 5)
    assert run.stderr.count("KernelCacheWarning: ") == 1  # its code is not kept


def test_other_internals_of_numba(server, tmp_path):
    code = """
        from numba.core.compiler import CompileResult
        del CompileResult._reduce
        result = use(double), use(square)
    """
    result, said = server.run(code, folder=tmp_path / "cache")
    assert (result, len(said)) == ([DOUBLED, SQUARED], 1)
