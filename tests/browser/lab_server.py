"""A JupyterLab of its own, with nothing of the machine's own settings."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# what would reach out of the machine, or lie on top of a screenshot
SETTINGS = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: where it answers, and the folder of notebooks that it serves."""

    url: str
    token: str
    folder: Path

    def ask(self, path: str, method: str = "GET") -> bytes:
        """What the server's own interface answers."""
        headers = {"Authorization": f"token {self.token}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/{path}", headers=headers, method=method)
        ) as said:
            return said.read()


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of the server and its kernels: all that they write or read of a user's lies in one folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "PLOTLY", "VSCODE"))}
    own = {
        "HOME": "home", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
        "SAFEALIGN_PROGRESS": "progress", "SAFEALIGN_CACHE": "cache",
    }  # fmt: skip
    for name in own.values():
        (folder / name).mkdir(exist_ok=True)
    for name, settings in SETTINGS.items():
        file = folder / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings))
    fixed = {"SAFEALIGN_TIER": "tiny", "SAFEALIGN_STRICT": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    return kept | {key: str(folder / name) for key, name in own.items()} | fixed


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until_up(lab: Lab, server: subprocess.Popen, log: Path) -> None:
    """Returns when the server answers; says what it wrote where it does not."""
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            lab.ask("api/status")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@contextmanager
def running_lab(folder: Path, runs: Sequence[Path] = ()) -> Iterator[Lab]:
    """Starts JupyterLab over a copy of the notebooks in a folder, and ends it with its kernels.

    Args:
        folder: an empty one, for all that the server and its kernels write.
        runs: folders of runs that were trained before, to be read back.
    """
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for trained in runs:
        shutil.copytree(trained, folder / "cache" / trained.name, dirs_exist_ok=True)
    port, token = free_port(), secrets.token_hex(16)
    found = Lab(f"http://127.0.0.1:{port}", token, folder / "notebooks")
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={found.folder}", "--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    log = folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=surroundings(folder), cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until_up(found, server, log)
        yield found
    finally:
        server.terminate()  # which ends its kernels too
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
