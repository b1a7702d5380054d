"""Headwater and what a user would pick instead, on the same events, side by side.

    benches/compare/run [--events N] [--rounds N] [--keep FOLDER] [--only NAME ...]

Makes N events of ten fields (207 bytes of JSON, 122 days), as CSV and as JSON lines, and lets every candidate write
them as zstd Parquet in Hive partitions by day. The candidates take turns, round after round; the table has the median
of CPU seconds, wall seconds and peak memory of the whole process. Each result is read back: rows, days and a sum have
to be right, or the run fails.
"""

import argparse
import csv
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADWATER = ROOT / "target" / "release" / "headwater"
BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
DAYS = 122
FIELDS = ["id", "customer", "product", "branch", "ts", "quantity", "price", "amount", "channel", "note"]


def generate(folder: Path, events: int) -> int:
    """Writes events.csv and events.ndjson, ordered by time, and returns the sum of the quantities."""
    chance = random.Random(20261121)
    step = timedelta(days=DAYS) / events
    total = 0
    channels = ["web", "app", "shop", "phone", "partner"]
    with open(folder / "events.csv", "w", newline="") as as_csv, open(folder / "events.ndjson", "w") as as_json:
        rows = csv.writer(as_csv, lineterminator="\n")
        rows.writerow(FIELDS)
        for number in range(events):
            when = (BEGIN + step * number).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
            quantity = chance.randint(1, 9)
            price = chance.randint(100, 99_999) / 100
            total += quantity
            row = {
                "id": number,
                "customer": f"customer-{chance.randint(1, 50_000):06d}",
                "product": f"product-{chance.randint(1, 2_000):05d}",
                "branch": f"branch-{chance.randint(1, 200):03d}",
                "ts": when,
                "quantity": quantity,
                "price": price,
                "amount": round(quantity * price, 2),
                "channel": chance.choice(channels),
                "note": f"{chance.getrandbits(64):016x}",
            }
            rows.writerow(row.values())
            as_json.write(json.dumps(row, separators=(",", ":")) + "\n")
    return total


# What each candidate of the batch engines runs, in a Python of its own. `source` and `target` are paths.
DUCKDB = """
import duckdb
duckdb.sql("SET preserve_insertion_order = false")
duckdb.sql(f'''
    COPY (SELECT *, year(ts) AS year, month(ts) AS month, day(ts) AS day FROM {reader}('{source}'))
    TO '{target}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (year, month, day))''')
"""
POLARS = """
import polars
frame = polars.{reader}('{source}'{options})
ts = polars.col('ts').str.to_datetime('%Y-%m-%dT%H:%M:%S%.fZ') if frame.collect_schema()['ts'] == polars.String else polars.col('ts')
frame = frame.with_columns(ts.alias('ts')).with_columns(
    polars.col('ts').dt.year().alias('year'), polars.col('ts').dt.month().alias('month'), polars.col('ts').dt.day().alias('day'))
frame.collect().write_parquet('{target}', compression='zstd', compression_level=1, use_pyarrow=False,
    partition_by=['year', 'month', 'day'])
"""
PYARROW = """
import pyarrow, pyarrow.compute as compute, pyarrow.{module} as reader, pyarrow.dataset as dataset
table = reader.{call}('{source}')
ts = table['ts'] if pyarrow.types.is_timestamp(table['ts'].type) else compute.strptime(
    compute.utf8_slice_codeunits(table['ts'], 0, 19), format='%Y-%m-%dT%H:%M:%S', unit='us')
for name in ['year', 'month', 'day']:
    table = table.append_column(name, getattr(compute, name)(ts))
keys = dataset.partitioning(pyarrow.schema([(name, pyarrow.int64()) for name in ['year', 'month', 'day']]), flavor='hive')
dataset.write_dataset(table, '{target}', format='parquet', partitioning=keys,
    file_options=dataset.ParquetFileFormat().make_write_options(compression='zstd', compression_level=1))
"""
PANDAS = """
import pandas
frame = pandas.{call}
ts = pandas.to_datetime(frame['ts'], utc=True)
frame['ts'], frame['year'], frame['month'], frame['day'] = ts, ts.dt.year, ts.dt.month, ts.dt.day
frame.to_parquet('{target}', compression='zstd', partition_cols=['year', 'month', 'day'])
"""


def engines() -> dict:
    def script(template, **values):
        return lambda work, target: [[sys.executable, "-c", template.format(target=target, **{
            name: value.format(work=work) for name, value in values.items()})]]

    return {
        "duckdb json": script(DUCKDB, reader="read_json", source="{work}/events.ndjson"),
        "duckdb csv": script(DUCKDB, reader="read_csv", source="{work}/events.csv"),
        "polars json": script(POLARS, reader="scan_ndjson", source="{work}/events.ndjson", options=""),
        "polars csv": script(POLARS, reader="scan_csv", source="{work}/events.csv", options=", try_parse_dates=True"),
        "pyarrow json": script(PYARROW, module="json", call="read_json", source="{work}/events.ndjson"),
        "pyarrow csv": script(PYARROW, module="csv", call="read_csv", source="{work}/events.csv"),
        "pandas json": script(PANDAS, call="read_json('{work}/events.ndjson', lines=True)"),
        "pandas csv": script(PANDAS, call="read_csv('{work}/events.csv')"),
        "headwater produce": lambda work, target: [
            [HEADWATER, "produce", f"{work}/events.csv", "--to", f"log:{work}/stream", "--log", "off"]],
        "headwater consume": lambda work, target: [
            [HEADWATER, "consume", "--from", f"log:{work}/stream", "--lake", f"{target}", "--table", "events",
             "--time-field", "ts", "--until-caught-up", "--log", "off"]],
    }


class Usage:
    """What a process took: CPU and wall seconds, and the peaks of resident and of anonymous memory in MiB."""

    def __init__(self, command, folder):
        began = time.monotonic()
        process = subprocess.Popen([str(word) for word in command], cwd=folder, stdout=subprocess.DEVNULL)
        self.anonymous = 0
        watching = threading.Thread(target=self.watch, args=(process.pid,))
        watching.start()
        _, status, spent = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        watching.join()
        if process.returncode != 0:
            sys.exit(f"{command} failed with {process.returncode}")
        self.wall = time.monotonic() - began
        self.cpu = spent.ru_utime + spent.ru_stime
        self.resident = spent.ru_maxrss / 1024

    def watch(self, pid):
        try:
            while True:
                with open(f"/proc/{pid}/status") as status:
                    lines = [line for line in status if line.startswith("RssAnon")]
                if not lines:
                    return
                self.anonymous = max(self.anonymous, int(lines[0].split()[1]) / 1024)
                time.sleep(0.01)
        except (FileNotFoundError, ProcessLookupError):
            return


def check(name: str, target: Path, events: int, total: int):
    """Reads a result back, as anybody would."""
    import duckdb

    pattern = f"{target}/events/current/year=*/**/*.parquet" if "headwater" in name else f"{target}/**/*.parquet"
    found = duckdb.sql(f"""SELECT count(*), sum(quantity)::BIGINT, count(DISTINCT (year, month, day))
        FROM read_parquet('{pattern}', hive_partitioning = true)""").fetchall()[0]
    if found != (events, total, DAYS):
        sys.exit(f"{name} wrote {found}, not {(events, total, DAYS)}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="headwater-compare-"))
    work.mkdir(parents=True, exist_ok=True)
    total = generate(work, options.events)
    chosen = {name: make for name, make in engines().items() if not options.only or name in options.only}
    taken = {name: [] for name in chosen}
    for _ in range(options.rounds):
        shutil.rmtree(work / "stream", ignore_errors=True)
        shutil.rmtree(work / ".headwater", ignore_errors=True)
        for name, make in chosen.items():
            target = work / "out" / name.replace(" ", "-")
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            for command in make(work, target):
                taken[name].append(Usage(command, work))
            if name != "headwater produce":
                check(name, target, options.events, total)
    report(options, taken)
    if not options.keep:
        shutil.rmtree(work)


def report(options, taken):
    cores = os.cpu_count()
    print(f"{options.events:,} events, {options.rounds} rounds, {cores} cores, {platform.machine()}\n")
    print("| candidate | CPU s | wall s | peak RSS MiB | peak anonymous MiB |")
    print("|---|---|---|---|---|")
    median = {}
    for name, usages in taken.items():
        middle = {key: statistics.median(getattr(usage, key) for usage in usages)
                  for key in ["cpu", "wall", "resident", "anonymous"]}
        median[name] = middle["cpu"]
        print(f"| {name} | {middle['cpu']:.2f} | {middle['wall']:.2f} | {middle['resident']:.0f} | "
              f"{middle['anonymous']:.0f} |")
    print()
    if {"headwater consume", "duckdb json"} <= median.keys():
        print(f"consume against DuckDB from JSON: {median['headwater consume'] / median['duckdb json']:.2f}")
    if {"headwater produce", "headwater consume", "duckdb csv"} <= median.keys():
        both = median["headwater produce"] + median["headwater consume"]
        print(f"produce + consume against DuckDB from CSV: {both / median['duckdb csv']:.2f}")


if __name__ == "__main__":
    main()
