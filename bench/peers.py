"""Times what test suites send to have a database for each test: testdb's functions and, as other tools send them, their
statements, on plain CREATE DATABASE and with testdb serving it. See bench/peers.

    peers.py ROUNDS TESTS

Connects by PGHOST, PGPORT and PGUSER. The methods take turns within each round, so that what slows the machine down for a while slows
all of them. Prints a table in Markdown.
"""

import multiprocessing
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import psycopg

SCHEMA = (Path(__file__).parent.parent / "test/peers.d/schema.sql").read_text()
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
TEMPLATE = "peers_template"


def connect(database="postgres"):
    return psycopg.connect(dbname=database, autocommit=True)


class Clone:
    """testdb_clone and testdb_drop."""

    title, served = "testdb_clone, testdb_drop", True

    def __init__(self, number):
        self.name = f"peers_test_{number}"
        self.admin = connect()

    def close(self):
        self.admin.close()

    def hand_out(self):
        self.name = self.admin.execute("SELECT testdb_clone(%s, scope => 'session')", [TEMPLATE]).fetchone()[0]
        return self.name

    def give_back(self):
        self.admin.execute("SELECT testdb_drop(%s)", [self.name])


class Rewind(Clone):
    """One database for a worker, rewound before each test."""

    title = "testdb_rewind"

    def __init__(self, number):
        super().__init__(number)
        super().hand_out()

    def close(self):
        super().give_back()
        super().close()

    def hand_out(self):
        self.admin.execute("SELECT testdb_rewind(%s)", [self.name])
        return self.name

    def give_back(self):
        pass


class Peer(Clone):
    """CREATE DATABASE and DROP DATABASE, as pgtestdb sends them."""

    title, served = "pgtestdb", False

    def execute(self, *statements):
        for statement in statements:
            self.admin.execute(statement, [self.name] if "%s" in statement else None)

    def create(self):
        self.execute(f'CREATE DATABASE "{self.name}" WITH TEMPLATE "{TEMPLATE}" OWNER "postgres"')

    def hand_out(self):
        self.create()
        return self.name

    def give_back(self):
        self.execute(f'DROP DATABASE IF EXISTS "{self.name}"')


class PytestPostgresql(Peer):
    title = "pytest-postgresql"

    def hand_out(self):
        self.admin.execute(TERMINATE, [TEMPLATE])
        self.execute(f'CREATE DATABASE "{self.name}" TEMPLATE "{TEMPLATE}"')
        return self.name

    def give_back(self):
        self.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s",
            f'ALTER DATABASE "{self.name}" WITH allow_connections false',
            TERMINATE,
            f'DROP DATABASE IF EXISTS "{self.name}"',
        )


class Testcontainers(Peer):
    """One database for a worker, restored before each test."""

    title = "Testcontainers (restore)"

    def __init__(self, number):
        super().__init__(number)
        self.create()

    def close(self):
        super().give_back()
        super().close()

    def hand_out(self):
        self.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')
        self.create()
        return self.name

    def give_back(self):
        pass


class IntegreSQL(Peer):
    """What its server does for each test, of which it does some ahead."""

    title = "IntegreSQL (per database)"

    def __init__(self, number):
        super().__init__(number)
        self.execute(f'DROP DATABASE IF EXISTS "{self.name}"')

    def close(self):
        super().give_back()
        super().close()

    def hand_out(self):
        super().give_back()
        self.create()
        return self.name

    def give_back(self):
        pass


class Truncate(Testcontainers):
    """Django's TransactionTestCase: one database for a worker, all tables emptied after each test."""

    title = "Django (TRUNCATE, empty tables)"

    def __init__(self, number):
        super().__init__(number)
        self.inside = connect(self.name)

    def close(self):
        self.inside.close()
        super().close()

    def hand_out(self):
        return self.name

    def give_back(self):
        self.inside.execute("TRUNCATE " + ", ".join(f'"tab_{i}"' for i in range(1, 101)))


class Served:
    """Mixed into a peer: CREATE DATABASE is served."""

    served = True


PEERS = [Peer, PytestPostgresql, Testcontainers, IntegreSQL]
SERVED = [type(f"Served{p.__name__}", (Served, p), {"title": f"{p.title}, served"}) for p in PEERS]
METHODS = [Clone, Rewind, *PEERS, Truncate, *SERVED]


def serve(admin, on):
    """Whether new sessions have CREATE DATABASE served."""
    admin.execute(f"ALTER ROLE postgres SET testdb.serve_create_database = {'on' if on else 'off'}")


def run_test(method, times=None):
    """One test; its times in seconds are added to the three lists."""
    start = time.perf_counter()
    name = method.hand_out()
    handed_out = time.perf_counter()
    with connect(name) as inside:
        inside.execute("SELECT 1")
        connected = time.perf_counter()
        inside.execute("INSERT INTO tab_1 (name) VALUES ('mine')")
        inside.execute("SELECT count(*) FROM tab_2")
    used = time.perf_counter()
    method.give_back()
    if times:
        for values, value in zip(times, (handed_out - start, connected - handed_out, time.perf_counter() - used)):
            values.append(value)


def work(kind, number, tests, ready, done):
    method = kind(number)
    ready.wait()
    for _ in range(tests):
        run_test(method)
    done.wait()
    method.close()


def rate(kind, workers, tests):
    """Tests in a second, from that many processes."""
    ready, done = multiprocessing.Barrier(workers + 1), multiprocessing.Barrier(workers + 1)
    processes = [multiprocessing.Process(target=work, args=(kind, n, tests // workers, ready, done)) for n in range(workers)]
    for process in processes:
        process.start()
    ready.wait(60)
    start = time.perf_counter()
    done.wait(120)
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    return tests // workers * workers / seconds


def hold(kind, ready):
    """A suite that is killed in the middle of four tests."""
    methods = [kind(n) for n in range(4)]
    sessions = [connect(m.hand_out()) for m in methods]
    ready.wait()
    while sessions:
        signal.pause()


def left_after_kill(kind, admin):
    """How many databases a killed suite leaves, 10 s later or when there are none."""
    others = """SELECT count(*) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'
        AND oid NOT IN (SELECT oid FROM testdb_clones() WHERE state NOT IN ('leased', 'dropping'))"""
    ready = multiprocessing.Barrier(2)
    suite = multiprocessing.Process(target=hold, args=(kind, ready))
    suite.start()
    ready.wait(60)
    os.kill(suite.pid, signal.SIGKILL)
    suite.join()
    end = time.monotonic() + 10
    while (left := admin.execute(others).fetchone()[0]) and time.monotonic() < end:
        time.sleep(0.1)
    for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'peers_test%'").fetchall():
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    admin.execute("SELECT testdb_drop_all()")
    return left


def leak(kind):
    """What happens to a test that has left a connection open."""
    method = kind(0)
    session = connect(method.hand_out())
    try:
        session.execute("SELECT 1")
        method.give_back()
        if type(method).give_back in (Testcontainers.give_back, IntegreSQL.give_back, Rewind.give_back):
            method.hand_out()
        session.execute("SELECT 1")
        return "stays"
    except psycopg.errors.ObjectInUse:
        return "is an error"
    except psycopg.OperationalError:
        return "is ended"
    finally:
        session.close()
        if isinstance(method, Clone):
            try:
                method.give_back()
                method.close()
            except psycopg.Error:
                pass


def main(rounds, tests):
    admin = connect()
    admin.execute(f"CREATE DATABASE {TEMPLATE}")
    with connect(TEMPLATE) as inside:
        inside.execute(SCHEMA)
        inside.execute("VACUUM (FREEZE, ANALYZE)")
    admin.execute(f"ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")
    times = {kind: ([], [], []) for kind in METHODS}
    rates = {kind: {1: [], 4: []} for kind in METHODS}
    for _ in range(rounds):
        for kind in METHODS:
            serve(admin, kind.served)
            method = kind(0)
            for number in range(tests + 3):
                # The first ones find nothing ready.
                run_test(method, times[kind] if number >= 3 else None)
            method.close()
            for workers in 1, 4:
                rates[kind][workers].append(rate(kind, workers, tests))
    columns = ["Method", "hand out, ms", "connect, ms", "give back, ms", "tests/s, 1 worker", "4 workers", "left after kill -9"]
    columns.append("a leaked connection")
    print("|", " | ".join(columns), "|\n|", "|".join(["---"] * len(columns)), "|", sep="")
    for kind in METHODS:
        serve(admin, kind.served)
        figures = [f"{1000 * statistics.median(values):.1f}" for values in times[kind]]
        figures += [f"{statistics.median(rates[kind][workers]):.0f}" for workers in (1, 4)]
        print("|", " | ".join([kind.title, *figures, str(left_after_kill(kind, admin)), leak(kind)]), "|", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
