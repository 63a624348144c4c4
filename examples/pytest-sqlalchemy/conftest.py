"""Databases for the tests, by testdb. Copy this file, and delete what you don't use of it.

`db`, `async_db`            a session on a database of its own for each test
`same_db`, `same_async_db`  one on the worker's, which is what the template is again before each test; its engine and the
                            connections in its pool stay
"""
import hashlib
import os
from pathlib import Path

import pytest
from alembic import command, config
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

# Where testdb is. What a test gets is another database on this server.
ADMIN = make_url(os.environ.get("ADMIN_URL", "postgresql://postgres:postgres@localhost:5435/postgres"))


def url(database, driver="psycopg"):
    return ADMIN.set(drivername=f"postgresql+{driver}", database=database)


@pytest.fixture(scope="session")
def admin():
    """Runs a function of testdb, on a connection that stays. Clones go with it: when this worker ends, however it ends."""
    with create_engine(url(ADMIN.database), isolation_level="AUTOCOMMIT").connect() as connection:
        yield lambda call, **values: connection.execute(text(f"SELECT * FROM {call}"), values).one()


@pytest.fixture(scope="session")
def template(admin):
    """The worker that comes first makes it, and the others wait here. After a change of a migration there is another one."""
    files = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("migrations/versions/*.py")))
    name, build = admin("testdb_template_begin('shop', :hash)", hash=hashlib.sha256(files).hexdigest())
    if build:
        alembic = config.Config(Path(__file__).parent / "alembic.ini")
        with create_engine(url(name), poolclass=NullPool).connect() as alembic.attributes["connection"]:
            command.upgrade(alembic, "head")
        admin("testdb_template_finish(:name)", name=name)
    return name


@pytest.fixture
def database(admin, template, request):
    [name] = admin("testdb_clone(:template, scope => 'session', label => left(:label, 100))",
                   template=template, label=request.node.name)
    failures = request.session.testsfailed
    yield name
    if request.session.testsfailed > failures:
        admin("testdb_keep(:name, '2 days')", name=name)
        print(f'Kept for 2 days: psql "host={ADMIN.host} port={ADMIN.port} user={ADMIN.username} dbname={name}"')
    else:
        admin("testdb_drop(:name)", name=name)


@pytest.fixture
def db(database):
    engine = create_engine(url(database))
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
async def async_db(database):
    engine = create_async_engine(url(database, "asyncpg"))
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture(scope="session")
def worker_database(admin, template):
    return admin("testdb_clone(:template, scope => 'session', label => 'worker')", template=template)[0]


@pytest.fixture(scope="session")
def worker_engine(worker_database):
    return create_engine(url(worker_database))


@pytest.fixture(scope="session")
def worker_async_engine(worker_database):
    return create_async_engine(url(worker_database, "asyncpg"))


@pytest.fixture
def same_db(admin, worker_database, worker_engine):
    admin("testdb_rewind(:name)", name=worker_database)
    with Session(worker_engine) as session:
        yield session


@pytest.fixture
async def same_async_db(admin, worker_database, worker_async_engine):
    admin("testdb_rewind(:name)", name=worker_database)
    async with AsyncSession(worker_async_engine) as session:
        yield session
