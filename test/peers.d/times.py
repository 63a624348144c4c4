"""Reads from a server's log how long CREATE DATABASE and DROP DATABASE took, and how many tests there were in a second.

    times.py LOG OFFSET PATTERN TESTS

LOG has log_line_prefix '%n ' and all durations; what comes before OFFSET is left out, and so are databases with names
that the regular expression PATTERN does not match. Prints the medians in ms, and the tests per second from when the first
of these databases was asked for until the last was dropped; TESTS is how many there were, or 0 if each had a database. "-" for what
did not happen.
"""

import re
import statistics
import sys

LINE = re.compile(
    r"^(\d+\.\d+) LOG:  duration: ([\d.]+) ms  (?:statement|execute [^:]*): "
    r"(create|drop) database (?:if exists )?(\"(?:[^\"]|\"\")+\"|[^\s;]+)",
    re.IGNORECASE,
)


def main(log, offset, pattern, tests):
    created, dropped, there = [], [], set()
    first = last = None
    with open(log, "rb") as file:
        file.seek(int(offset))
        for line in file:
            line = line.decode("utf-8", "replace")
            if "SELECT 'the tests begin'" in line:
                # All before that was preparation.
                created, dropped, first = [], [], None
            match = LINE.match(line)
            if not match:
                continue
            end, took, verb, name = float(match[1]), float(match[2]), match[3].lower(), match[4].strip('"')
            if not re.search(pattern, name):
                continue
            if verb == "create":
                created.append(took)
                there.add(name)
            elif name in there:
                # Others had nothing to drop.
                dropped.append(took)
                there.remove(name)
            start = end - took / 1000
            first = start if first is None else min(first, start)
            last = end if last is None else max(last, end)
    count = int(tests) or len(created)
    print(
        f"{statistics.median(created):.2f}" if created else "-",
        f"{statistics.median(dropped):.2f}" if dropped else "-",
        f"{count / (last - first):.1f}" if last and last > first else "-",
    )


main(*sys.argv[1:])
