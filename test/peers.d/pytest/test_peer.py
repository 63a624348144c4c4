"""50 tests with pytest-postgresql: each has a database of its own, in which it finds what the template has."""

import os
import time
from pathlib import Path

import pytest
from pytest_postgresql import factories

server = factories.postgresql_noproc(load=[Path(__file__).parent.with_name("schema.sql")])
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
    table = f"tab_{number * 2 + 1}"
    with postgresql.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} (name) VALUES ('of test {number}') RETURNING id")
        assert cursor.fetchone() == (11,)
        postgresql.commit()
        cursor.execute("SELECT count(*) FROM tab_1")
        assert cursor.fetchone() == (11 if number == 0 else 10,)
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'tab\\_%' AND relkind = 'r'")
        assert cursor.fetchone() == (100,)
