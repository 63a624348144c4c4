"""Counts the tests that workers do in a second on one, two and more servers, of which each takes one at random for each test. See
bench/servers.

    servers.py FOLDER SERVERS WORKERS ROUNDS SECONDS

The servers' sockets are in FOLDER/1 and so on. Prints a table in Markdown.
"""

import multiprocessing
import random
import statistics
import sys
import time
from pathlib import Path

import psycopg

SCHEMA = (Path(__file__).parent.parent / "test/peers.d/schema.sql").read_text()
TEMPLATE = "servers_template"


def connect(folder, number, database="postgres"):
    return psycopg.connect(host=f"{folder}/{number}", port=54320 + number, dbname=database, autocommit=True)


def make_template(folder, number, workers):
    with connect(folder, number) as admin:
        admin.execute(f"CREATE DATABASE {TEMPLATE}")
        with connect(folder, number, TEMPLATE) as inside:
            inside.execute(SCHEMA)
            inside.execute("VACUUM (FREEZE, ANALYZE)")
        admin.execute(f"ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")
        admin.execute("SELECT testdb_prewarm(%s, %s)", [TEMPLATE, workers // 3])


def run_test(folder, number):
    """A clone, to which a test connects, writes and reads. The clone goes with the session that it was asked for by."""
    with connect(folder, number) as admin:
        [name] = admin.execute("SELECT testdb_clone(%s, scope => 'session')", [TEMPLATE]).fetchone()
        with connect(folder, number, name) as inside:
            inside.execute("INSERT INTO tab_1 (name) VALUES ('mine')")
            for table in range(1, 11):
                inside.execute(f"SELECT count(*) FROM tab_{table}")
        admin.execute("SELECT testdb_drop(%s)", [name])


def work(folder, servers, seconds, ready, counts):
    done = [0] * servers
    ready.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = random.randrange(servers)
        run_test(folder, number + 1)
        done[number] += 1
    counts.put(done)


def measure(folder, servers, workers, seconds):
    """The tests that each server has done in a second."""
    ready, counts = multiprocessing.Barrier(workers), multiprocessing.Queue()
    arguments = (folder, servers, seconds, ready, counts)
    processes = [multiprocessing.Process(target=work, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    done = [counts.get(timeout=seconds + 60) for _ in processes]
    for process in processes:
        process.join()
    return [sum(each) / seconds for each in zip(*done)]


def main(folder, servers, workers, rounds, seconds):
    for number in range(1, servers + 1):
        make_template(folder, number, workers)
    rates, spread = {n: [] for n in range(1, servers + 1)}, {}
    for _ in range(rounds):
        for number in rates:
            each = measure(folder, number, workers, seconds)
            rates[number].append(sum(each))
            spread[number] = " / ".join(f"{rate:.0f}" for rate in each)
    one = statistics.median(rates[1])
    print("| Servers | tests/s | times one | by server, in the last round |\n|---|---|---|---|")
    for number, values in rates.items():
        rate = statistics.median(values)
        print(f"| {number} | {rate:.0f} | {rate / one:.2f} | {spread[number]} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
