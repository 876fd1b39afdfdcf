"""Speed and memory, as ratios side by side in one process.

`python -m benchmarks` (or `make bench`) runs every part, prints its rows, adds
a line of JSON each to `PART.jsonl` in this folder, and makes `RESULTS.md` from
the newest lines of each kind of device. Run it where nothing else runs.
"""
