"""Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.

`database`       the URL of a database of its own for each test
`same_database`  that of the worker's database, which is what the template is again before each test; connections to it stay open
"""
import os
from pathlib import Path

import pytest
from alembic import command, config
from sqlalchemy import NullPool, create_engine, make_url, text

# Where testdb is. What a test gets is another database on this server.
SERVER = make_url(os.environ["ADMIN_URL"]).set(drivername="postgresql+psycopg")


@pytest.fixture(scope="session")
def testdb():
    """Calls a function of testdb, on a connection that stays. Clones go with it: when this worker ends, however it ends."""
    with create_engine(SERVER, isolation_level="AUTOCOMMIT").connect() as admin:
        yield lambda call, **values: admin.execute(text(f"SELECT * FROM testdb_{call}"), values).one()


@pytest.fixture(scope="session")
def template(testdb):
    """The worker that comes first makes it, and the others wait here. After a change of a migration there is another one."""
    files = "".join(file.read_text() for file in sorted(Path(__file__).parent.glob("migrations/versions/*.py")))
    name, build = testdb("template_begin('shop', md5(:files))", files=files)
    if build:
        alembic = config.Config(Path(__file__).parent / "alembic.ini")
        with create_engine(SERVER.set(database=name), poolclass=NullPool).connect() as alembic.attributes["connection"]:
            command.upgrade(alembic, "head")
        testdb("template_finish(:name)", name=name)
    return name


@pytest.fixture
def database(testdb, template, request):
    [name] = testdb("clone(:template, scope => 'session', label => left(:label, 100))", template=template, label=request.node.name)
    failures, url = request.session.testsfailed, SERVER.set(database=name)
    yield url
    testdb("keep(:name, '2 days')" if request.session.testsfailed > failures else "drop(:name)", name=name)
    if request.session.testsfailed > failures:
        print(f'Kept for 2 days: psql "host={url.host} port={url.port} user={url.username} dbname={name}"')


@pytest.fixture(scope="session")
def worker_database(testdb, template):
    return SERVER.set(database=testdb("clone(:template, scope => 'session', label => 'worker')", template=template)[0])


@pytest.fixture
def same_database(testdb, worker_database):
    testdb("rewind(:name)", name=worker_database.database)
    return worker_database
