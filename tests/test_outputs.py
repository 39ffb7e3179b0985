"""What an output can meet: links, pipes, folders that vanish, full disks, closed streams, interrupts."""

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import faults
import pytest
from click.testing import CliRunner
from faults import expected_names, read, write

from initium.backends.progress import reporter
from initium.checkpoint import init_checkpoint
from initium.cli.main import main
from initium.io import read_checkpoint, replace_file, write_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files, signals and users")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def as_nobody(tmp_path):
    """Permissions do not bind root."""
    before = os.geteuid()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == before and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


# Links, pipes, devices


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    write(tmp_path / "blob.safetensors", 1, config=False)
    before = (tmp_path / "blob.safetensors").read_bytes()
    link = tmp_path / "out.safetensors"
    link.symlink_to("blob.safetensors")
    with pytest.raises(FileExistsError, match="Exists already"):
        write(link, 2, config=False)
    assert link.is_symlink()
    write(link, 2, config=False, overwrite=True)
    assert not link.is_symlink()
    assert (tmp_path / "blob.safetensors").read_bytes() == before


def test_links_to_shards_are_replaced(tmp_path):
    """As in a cache of downloads, whose folder holds links to files that are named by their contents."""
    write(tmp_path / "blobs", 1, shards=2)
    (tmp_path / "out").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "out" / file.name).symlink_to(file)
    write(tmp_path / "out", 2, shards=2, overwrite=True)
    assert read(tmp_path / "out") == 2
    assert read(tmp_path / "blobs") == 1
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    for number, name in enumerate(("out", "out.safetensors"), start=1):
        (tmp_path / name).symlink_to("real")
        write(tmp_path / name, number, shards=2, overwrite=True)
        assert read(tmp_path / "real") == number
        assert (tmp_path / name).is_symlink()
    assert names(tmp_path / "real") == expected_names(2, True)


def test_links_to_nothing(tmp_path):
    link = tmp_path / "out.safetensors"
    link.symlink_to("nothing")
    with pytest.raises(FileExistsError, match="Exists already"):
        write(link, 2, config=False)
    write(link, 2, config=False, overwrite=True)
    assert [tensor.shape for tensor in read_checkpoint(link).tensors] == [(102,)] * 6
    (tmp_path / "folder").symlink_to("nothing")
    with pytest.raises(FileExistsError, match="Not a folder; expected a folder"):
        write(tmp_path / "folder", 2, overwrite=True)
    assert names(tmp_path) == ["folder", "out.safetensors"]


def make(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif os.geteuid() == 0:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("may not make devices")
    else:
        pytest.skip("only root makes devices")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_regular_file_is_left_alone(tmp_path, kind, name, overwrite):
    make(tmp_path / name, kind)
    with pytest.raises(FileExistsError, match=rf"Is not a regular file: '.*{name}'"):
        write(tmp_path, 2, shards=2, overwrite=overwrite)
    assert names(tmp_path) == [name]
    assert not (tmp_path / name).is_file()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_an_output_that_is_no_regular_file(tmp_path, kind):
    for name in ("w.safetensors", "w", "w.png"):
        make(tmp_path / name, kind)
    with pytest.raises(FileExistsError, match="Is not a regular file"):
        write(tmp_path / "w.safetensors", 2, config=False, overwrite=True)
    with pytest.raises(FileExistsError, match="Not a folder"):
        write(tmp_path / "w", 2, overwrite=True)
    with pytest.raises(FileExistsError, match="Is not a regular file"):
        replace_file(tmp_path / "w.png", b"picture")
    assert names(tmp_path) == ["w", "w.png", "w.safetensors"]


def test_a_name_that_differs_in_case_only(tmp_path, monkeypatch):
    """Where case does not count, a file is found under a name that no folder lists."""
    write(tmp_path / "Model.safetensors", 1, config=False)
    if not (tmp_path / "model.safetensors").exists():
        (tmp_path / "model.safetensors").hardlink_to(tmp_path / "Model.safetensors")
        listed = Path.iterdir
        monkeypatch.setattr(
            Path,
            "iterdir",
            lambda folder: (path for path in listed(folder) if path.name != "model.safetensors"),
        )
    with pytest.raises(FileExistsError, match="Exists already"):
        write(tmp_path / "model.safetensors", 2, config=False)


@pytest.mark.parametrize(
    "name", ["../config.json", "a/b", "", "..", "model.safetensors", "model.safetensors.index.json"]
)
def test_companions_stay_in_the_folder_and_are_no_weights(tmp_path, name):
    with pytest.raises(ValueError, match="is not a file name beside the weights"):
        write_checkpoint(tmp_path / "out", faults.version_of(1), print, metadata={}, companions={name: "{}"})
    assert names(tmp_path) == []


# Folders and disks


def interfering(path, act, number=2, at=2, **options):
    """Write a version in the middle of which something happens."""
    acts = [act]

    def fill(pieces):
        if acts and len(calls) == at:
            acts.pop()()
        calls.append(pieces)
        for piece in pieces:
            piece.values[:] = number

    calls = []
    write_checkpoint(
        path, faults.version_of(number), fill, metadata={"version": str(number)}, chunk_bytes=512, **options
    )


@pytest.mark.parametrize("shard_size", [None, 900])
def test_a_folder_that_vanishes_is_told(tmp_path, shard_size):
    with pytest.raises(FileNotFoundError, match="out"):
        interfering(
            tmp_path / "new" / "out", lambda: shutil.rmtree(tmp_path / "new" / "out"), shard_size=shard_size
        )
    assert names(tmp_path) == []


@pytest.mark.parametrize("shard_size", [None, 900])
def test_a_folder_that_is_another_runs_by_now_is_left_alone(tmp_path, shard_size):
    def replace():
        shutil.rmtree(tmp_path / "out")
        write(tmp_path / "out", 3)

    with pytest.raises(OSError, match=r"out"):
        interfering(tmp_path / "out", replace, shard_size=shard_size, overwrite=True)
    assert read(tmp_path / "out") == 3
    assert names(tmp_path / "out") == expected_names(1, True)


def test_a_folder_that_another_run_is_writing_by_now_is_left_alone(tmp_path):
    out, server = tmp_path / "out", faults.Server()

    def replace():
        shutil.rmtree(out)
        server.start(out, 3, pause=0.2)
        until = time.monotonic() + 60
        while not (out / "initium-partial-model" / "config.json.tmp").exists():
            assert time.monotonic() < until
            time.sleep(0.01)

    try:
        with pytest.raises(OSError, match="Was removed or replaced while this run wrote into it"):
            interfering(out, replace, overwrite=True)
        assert server.result()["error"] is None
    finally:
        server.close()
    assert read(out) == 3
    assert names(out) == expected_names(1, True)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_limit_of_file_sizes_keeps_the_older_output(tmp_path, shards):
    server = faults.Server()
    try:
        write(tmp_path, 1, shards=shards)
        before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
        for limit in (0, 10, 600, 1200):
            told = server.write(tmp_path, 2, shards=shards, overwrite=True, limit=limit)
            assert told["error"] == "OSError" and "File too large" in told["message"]
            assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    finally:
        server.close()


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if (
        os.geteuid() != 0
        or shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_disk_that_fills_up_keeps_the_older_output(small_disk, shards):
    write(small_disk, 1, shards=shards)
    before = {name: (small_disk / name).read_bytes() for name in names(small_disk)}

    def fill_disk():
        with pytest.raises(OSError, match="No space"), (small_disk / "big").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    with pytest.raises(OSError, match="No space left"):
        interfering(small_disk, fill_disk, at=0, shard_size=faults.SHARD_SIZES[shards], overwrite=True)
    (small_disk / "big").unlink()
    assert {name: (small_disk / name).read_bytes() for name in names(small_disk)} == before


def test_a_disk_without_room_for_the_journal(small_disk):
    """All new files are whole, and then nothing more can be written."""
    import initium.io.switch as switch

    write(small_disk, 1, shards=2)
    before = {name: (small_disk / name).read_bytes() for name in names(small_disk)}
    really = switch.Switch.run

    def run(self):
        with pytest.raises(OSError, match="No space"), (small_disk / "big").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        really(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(switch.Switch, "run", run)
        write(small_disk, 2, shards=2, overwrite=True)
    (small_disk / "big").unlink()
    assert {name: (small_disk / name).read_bytes() for name in names(small_disk)} == before


@pytest.mark.parametrize("shards", [1, 2])
def test_a_folder_that_may_not_be_written_keeps_its_output(tmp_path, request, shards):
    locked = tmp_path / "locked"
    write(locked, 1, shards=shards)
    locked.chmod(0o555)
    request.getfixturevalue("as_nobody")
    with pytest.raises(FileExistsError, match="Exists already"):
        write(locked, 2, shards=shards)
    with pytest.raises(PermissionError, match="locked"):
        write(locked, 2, shards=shards, overwrite=True)
    assert read(locked) == 1
    assert names(locked) == expected_names(shards, True)


def test_an_unreadable_file_is_not_called_missing(tmp_path, request):
    write(tmp_path, 1)
    for file in tmp_path.iterdir():
        file.chmod(0o000)
    tmp_path.chmod(0o777)
    request.getfixturevalue("as_nobody")
    tmp_path.chmod(0o777) if os.geteuid() == 0 else None
    with pytest.raises(PermissionError, match=r"Permission denied: '.*model\.safetensors'"):
        read_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(FileExistsError, match="Exists already"):
        write(tmp_path, 2)


def test_a_refused_run_touches_nothing(tmp_path):
    write(tmp_path, 1)
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="Exists already"):
        write(tmp_path, 2)
    assert tmp_path.stat().st_mtime_ns == before


def test_an_empty_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path is empty; expected a file or a folder"):
        write("", 1)
    with pytest.raises(ValueError, match="path is empty"):
        init_checkpoint("gpt2", "")
    result = CliRunner().invoke(main, ["init", "gpt2", "-o", ""])
    assert result.exit_code == 2
    assert "'' is empty; expected a .safetensors file or a folder" in result.stderr
    assert names(tmp_path) == []


# Streams of the process


def command(*arguments):
    return [sys.executable, "-m", "initium", *map(str, arguments)]


@pytest.fixture
def model(tmp_path):
    """Return a small checkpoint whose shapes a command can take."""
    return write(tmp_path / "given.safetensors", 1, config=False).files[0]


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/full", "| true", "2>&1 | true"]
)
def test_standard_output_that_is_gone_is_no_failure(tmp_path, model, redirection):
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    out = tmp_path / "out.safetensors"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[[rules]]\nmatch = '*'\ninit = 'ones'\n")
    words = " ".join(f"'{word}'" for word in command("init", model, "-o", out, "--recipe", recipe))
    script = f"{{ sleep 0.1; {words}; echo $? > '{tmp_path}/status'; }} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (tmp_path / "status").read_text() == "0\n", done
    assert done.stderr == ""
    assert len(read_checkpoint(out).tensors) == 6


def test_what_is_printed_does_not_land_in_a_file(tmp_path):
    """With its standard streams closed, a process gets their numbers for the files that it opens."""
    script = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        import faults
        from initium.io import write_checkpoint
        def fill(pieces):
            for number in (1, 2):
                try:
                    os.write(number, b"printed by a library")
                except OSError:
                    pass
            for piece in pieces:
                piece.values[:] = 2
        write_checkpoint(sys.argv[2], faults.version_of(2), fill, metadata={"version": "2"}, shard_size=900)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    words = [sys.executable, tmp_path / "script.py", Path(__file__).parent, tmp_path / "out"]
    line = " ".join(f"'{word}'" for word in words)
    assert subprocess.run(["bash", "-c", f"{line} <&- >&- 2>&-"]).returncode == 0
    assert read(tmp_path / "out") == 2


def test_a_terminal_that_is_gone_undoes_no_work(monkeypatch):
    from rich.progress import Progress

    really = Progress.stop

    def stop(bar):
        really(bar)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Progress, "stop", stop)
    with reporter(True, "label") as report:
        report(1, 2)


# Interrupts of the command


def interrupted(code, *arguments):
    """Run the command line in a process that interrupts itself."""
    script = textwrap.dedent(code) + "\nfrom initium.__main__ import main\nmain()\n"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.parametrize("module", ["click", "numpy", "initium.checkpoint", "initium.cli.plot"])
def test_an_interrupt_while_importing_is_quiet(module):
    done = interrupted(
        f"""
        import os, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        class Interrupt:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupt())
        """,
        "recipes",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def check_interrupts_at_any_time(rounds, seed):
    rng = random.Random(seed)
    for _ in range(rounds):
        done = interrupted(
            f"""
            import os, signal, threading
            signal.signal(signal.SIGINT, signal.default_int_handler)
            import initium.__main__
            main_thread_stays = threading.Timer({rng.random() * 0.6}, os.kill, (os.getpid(), signal.SIGINT))
            main_thread_stays.daemon = True
            main_thread_stays.start()
            """,
            "plan",
            "llama-3-70b",
        )
        assert done.returncode in (0, 130)
        assert done.stderr in ("", "\nAborted!\n")


def test_an_interrupt_at_any_time_shows_no_traceback():
    check_interrupts_at_any_time(4, seed=1)


@pytest.mark.exhaustive
def test_interrupts_at_many_times_show_no_traceback():
    check_interrupts_at_any_time(100, seed=2)


def test_an_ignored_interrupt_stays_ignored():
    done = interrupted(
        """
        import os, signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        import initium.__main__
        os.kill(os.getpid(), signal.SIGINT)
        """,
        "recipes",
        "normal",
    )
    assert done.returncode == 0
