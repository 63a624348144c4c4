"""50 tests with pytest-postgresql: each has a database of its own, in which it finds what the template has."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from pytest_postgresql import factories

TABLES = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"


def load(host, port, user, dbname, **_others):
    """What the template has."""
    psql = [os.environ["BINDIR"] + "/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(port), "-U", user]
    subprocess.run([*psql, "-d", dbname, "-f", os.environ["PEER_DUMP"]], stdout=subprocess.DEVNULL, check=True)


server = factories.postgresql_noproc(load=[load])
postgresql = factories.postgresql("server")


@pytest.fixture(scope="session", autouse=True)
def everybody(server):
    """Waits until each of xdist's workers has made its template: what is measured is the tests."""
    folder, run = Path(os.environ["PEER_FOLDER"]), os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return
    (folder / f"{run}.{os.environ['PYTEST_XDIST_WORKER']}").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob(f"{run}.*"))) < int(os.environ["PYTEST_XDIST_WORKER_COUNT"]):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", range(50))
def test_database(postgresql, number):
    with postgresql.cursor() as cursor:
        cursor.execute("INSERT INTO ids (table_name, field_name, nextid) VALUES ('peers', 'test', %s)", [number])
        postgresql.commit()
        cursor.execute("SELECT * FROM ids")
        assert cursor.fetchall() == [("peers", "test", number)]
        cursor.execute("SELECT count(*) FROM hosts")
        assert cursor.fetchone() == (int(os.environ["PEER_HOSTS"]),)
        cursor.execute(TABLES)
        assert cursor.fetchone() == (int(os.environ["PEER_TABLES"]),)
