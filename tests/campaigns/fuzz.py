"""Mutation campaign: inputs with one thing wrong go through the commands that read them; each must be answered rightly or refused in a sentence.

    python -m tests.campaigns.fuzz --count 1000 --seed 0 --output fuzz.md

The same seed makes the same inputs. Beside the table is ``<output>.jsonl``, a line for each input; existing ones are not tried again,
so that a campaign may be run in pieces (``--minutes 9``).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import oracle
from .fuzz_cases import SHARES, Campaign, Case
from .table import markdown_table
from .worker import OVERLAY, Outcome, Worker


def judge(
    case: Case, words: Sequence[Any], check: Callable[[Path], Iterator[str]], done: Outcome, out: Path
) -> list[str]:
    """What is wrong with how a command ended; empty when nothing is."""
    if done.status in ("traceback", "hang", "memory", "crash"):
        last = done.text.strip().splitlines()[-1:] or [""]
        return [f"{done.status}: {last[0][:300]}"]
    before = out.name == "run"  # was there before the command
    if done.status == "refused" and words[0] == OVERLAY:
        # MONAI's runner has its own words; what was finished before the mistake was met stays, and the next run goes on from it
        return [what for what in oracle.check_tree(out) if what.startswith("left over")] + (
            [] if done.text.strip() else ["no message"]
        )
    if done.status == "refused":
        text = done.text if len(done.text) > 3 else done.output  # of Fire, or of the doctor, a number
        found = list(oracle.check_message(text, case.names))
        left = (
            [str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()]
            if out.is_dir() and not before
            else []
        )
        return found + ([f"partial output: {left[:6]}"] if left else [])
    try:
        return [*check(out), *oracle.check_tree(out / "report" if before else out)]
    except Exception as error:
        return [f"not as expected: {type(error).__name__}: {error}"]


def output_of(words: Sequence[Any], home: Path) -> Path:
    """Where a command writes."""
    for option in ("--output", "--output_dir", "--html"):
        if option in words:
            path = Path(words[list(words).index(option) + 1])
            return path.parent if option == "--html" else path
    return home / "out" / "run" if words[0] == "report" else home / "nowhere"


def try_case(campaign: Campaign, worker: Worker, number: int) -> dict[str, Any]:
    """What became of the input of a number, as a record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = campaign.case(number)
    record: dict[str, Any] = {
        "number": number,
        "kind": case.kind,
        "what": case.what,
        "refused": 0,
        "defects": [],
        "seconds": 0.0,
        "megabytes": 0.0,
    }
    for words, check in case.commands:
        done = worker.run(words)
        out = output_of(words, campaign.home)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = judge(case, words, check, done, out)
        found += [f"ran code: {file.name}" for file in (worker.home / "cwd").iterdir()]
        for what in found:
            shown = done.text if done.status != "right" else done.output[-1500:]
            record["defects"].append({"command": words[0], "what": what, "text": shown[-3000:]})
        record["refused"] += done.status == "refused"
        record["seconds"] = max(record["seconds"], round(done.seconds, 2))
        record["megabytes"] = max(record["megabytes"], round(done.megabytes))
    return record


def run(count: int, seed: int, records: Path, minutes: float = 1e9, first: int = 0) -> list[dict[str, Any]]:
    """Try inputs, those that have a record excepted; all records."""
    known = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()] if records.is_file() else []
    todo = sorted(set(range(first, first + count)) - {record["number"] for record in known})
    started = time.monotonic()
    before = logging.root.manager.disable
    logging.disable()
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            home = Path(name)
            campaign = Campaign(home, seed)
            with Worker(home / "worker", campaign.first) as worker, open(records, "a", encoding="utf-8") as stream:
                for number in todo:
                    if time.monotonic() - started > 60 * minutes:
                        break
                    known.append(try_case(campaign, worker, number))
                    stream.write(json.dumps(known[-1]) + "\n")
                    stream.flush()
    finally:
        logging.disable(before)
    return known


def table(records: Sequence[dict[str, Any]]) -> str:
    """Counts by kind of input, as Markdown."""
    rows = []
    for kind in (*SHARES, "all"):
        mine = [record for record in records if kind in (record["kind"], "all")]
        broken = [record for record in mine if record["defects"]]
        classes = sorted({defect["what"].split(":")[0] for record in broken for defect in record["defects"]})
        rows.append(
            {
                "input": kind, "tried": len(mine),
                "right result": sum(not record["refused"] and not record["defects"] for record in mine),
                "refused with a sentence": sum(bool(record["refused"]) and not record["defects"] for record in mine),
                "defects": len(broken), "of the kind": ", ".join(classes),
                "slowest, s": max((float(record["seconds"]) for record in mine), default=None),
                "largest, MB": max((int(record["megabytes"]) for record in mine), default=None),
            }
        )  # fmt: skip
    return markdown_table(rows)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no further input is begun")
    parser.add_argument("--output", type=Path, default=Path("fuzz.md"), help="Markdown file")
    given = parser.parse_args()
    records = run(
        given.count, given.seed, given.output.with_name(f"{given.output.name}.jsonl"), given.minutes, given.first
    )
    given.output.write_text(table(records), encoding="utf-8")
    print(table(records))
    for record in records:
        for defect in record["defects"]:
            print(f"{record['number']} {record['kind']}, {record['what']}: {defect['command']}: {defect['what']}")


if __name__ == "__main__":
    main()
