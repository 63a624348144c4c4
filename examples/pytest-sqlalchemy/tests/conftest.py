"""The application's sessions, on the databases of ../conftest.py: by psycopg and by asyncpg."""
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session


def with_asyncpg(url):
    return create_async_engine(url.set(drivername="postgresql+asyncpg"))


@pytest.fixture
def db(database):
    engine = create_engine(database)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
async def async_db(database):
    engine = with_asyncpg(database)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


# The worker's engines, with the connections in their pools, stay.
@pytest.fixture(scope="session")
def worker_engine(worker_database):
    return create_engine(worker_database)


@pytest.fixture(scope="session")
def worker_async_engine(worker_database):
    return with_asyncpg(worker_database)


@pytest.fixture
def same_db(same_database, worker_engine):
    with Session(worker_engine) as session:
        yield session


@pytest.fixture
async def same_async_db(same_database, worker_async_engine):
    async with AsyncSession(worker_async_engine) as session:
        yield session
