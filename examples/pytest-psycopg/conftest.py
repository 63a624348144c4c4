"""Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.

`db`       a database of its own for each test
`same_db`  one database for each worker, which is what the template is again before each test; connections to it stay open
"""
import os
from pathlib import Path

import psycopg
import pytest

# Where testdb is. What a test gets is another database on this server.
SERVER = os.environ.get("ADMIN_URL", "postgresql://postgres:postgres@localhost:5435/postgres")
# What the template is made from: after a change of a migration there is another one.
SCHEMA = "\n".join(file.read_text() for file in sorted(Path(__file__).parent.glob("migrations/*.sql")))


@pytest.fixture(scope="session")
def testdb():
    """Calls a function of testdb, on a connection that stays. Clones go with it: when this worker ends, however it ends."""
    with psycopg.connect(SERVER, autocommit=True) as admin:
        yield lambda call, *values: admin.execute(f"SELECT * FROM testdb_{call}", values).fetchone()


@pytest.fixture(scope="session")
def template(testdb):
    """Of the workers that start together one makes it, and the others wait here."""
    name, build = testdb("template_begin('shop', md5(%s))", SCHEMA)
    if build:
        with psycopg.connect(SERVER, dbname=name) as building:
            building.execute(SCHEMA)
        testdb("template_finish(%s)", name)
    return name


@pytest.fixture
def db(testdb, template, request):
    [name] = testdb("clone(%s, scope => 'session', label => left(%s, 100))", template, request.node.name)
    with psycopg.connect(SERVER, dbname=name, autocommit=True) as connection:
        failures, server = request.session.testsfailed, "host={0.host} port={0.port} user={0.user}".format(connection.info)
        yield connection
    testdb("keep(%s, '2 days')" if request.session.testsfailed > failures else "drop(%s)", name)
    if request.session.testsfailed > failures:
        print(f'Kept for 2 days: psql "{server} dbname={name}"')


@pytest.fixture(scope="session")
def worker_db(testdb, template):
    return psycopg.connect(SERVER, dbname=testdb("clone(%s, scope => 'session')", template)[0], autocommit=True)


@pytest.fixture
def same_db(testdb, worker_db):
    testdb("rewind(%s)", worker_db.info.dbname)
    return worker_db
