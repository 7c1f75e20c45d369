#!/usr/bin/env python3
"""Makes the table for birdset.json from a BirdSet subset as it is downloaded: NAME_metadata_train.parquet,
NAME_metadata_test.parquet and the unpacked shards of both, anywhere below one folder.

    python3 birdset_table.py FOLDER HSN        # writes FOLDER/HSN_clips.csv; needs pandas and pyarrow

A training file's clips are its first detected events, or its beginning where none was detected; a test file's clips are its
annotations. Files that aren't below the folder are left out and counted.
"""

import csv
import pathlib
import sys

EVENTS = 5  # of a training file; BirdSet's own training takes as many
SECONDS = 5  # of a training file without detected events
HEADER = ["path", "label", "start_s", "end_s", "split", "low_hz", "high_hz", "licence", "recordist"]


def known(value):
    return value is not None and value == value  # NaN is no value


def clips(row, split, files):
    """The lines of one metadata row; `files` is file name → path below the folder."""
    path = files.get(pathlib.PurePath(row["filepath"]).name)
    if path is None or not known(row["ebird_code"]):
        return
    if split == "test":
        times = [(row["start_time"], row["end_time"])]
    else:
        events = row.get("detected_events")
        times = [tuple(event) for event in events][:EVENTS] if hasattr(events, "__len__") else []
        times = times or [(0, SECONDS)]
    text = [str(row[name]) if name in row and known(row[name]) else "" for name in ("license", "recordist")]
    box = [row[name] if split == "test" and known(row.get(name)) else "" for name in ("low_freq", "high_freq")]
    for start, end in times:
        if end > start:
            yield [path, row["ebird_code"], f"{float(start):.3f}", f"{float(end):.3f}", split, *box, *text]


def write(folder, name, train, test):
    """`train` and `test`: metadata rows as dictionaries. Returns the table's path and how many rows have no file."""
    folder = pathlib.Path(folder)
    files = {path.name: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.ogg"))}
    missing = 0
    table = folder / f"{name}_clips.csv"
    with open(table, "w", newline="", encoding="utf-8") as out:
        lines = csv.writer(out)
        lines.writerow(HEADER)
        for split, rows in (("train", train), ("test", test)):
            for row in rows:
                found = list(clips(row, split, files))
                missing += not found
                lines.writerows(found)
    return table, missing


def main():
    import pandas

    folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]

    def rows(split):
        frame = pandas.read_parquet(folder / f"{name}_metadata_{split}.parquet")
        if "filepath" not in frame:  # some of the files have it as their index
            frame["filepath"] = frame.index
        return (row._asdict() for row in frame.itertuples(index=False))

    table, missing = write(folder, name, rows("train"), rows("test"))
    print(f"{table}; {missing} rows left out: no such file below {folder}, no label, or no length")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
