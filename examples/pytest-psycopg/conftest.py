"""Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.

`db`       a database of its own for each test
`same_db`  one database for each worker, which is what the template is again before each test; connections to it stay open
"""
import hashlib
import os
from pathlib import Path

import psycopg
import pytest

# Where testdb is. What a test gets is another database on this server.
ADMIN = os.environ.get("ADMIN_URL", "postgresql://postgres:postgres@localhost:5435/postgres")
# The template is named after what it is made from: after a change of a migration there is another one.
SCHEMA = b"\n".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("migrations/*.sql")))
TEMPLATE = "shop_" + hashlib.sha256(SCHEMA).hexdigest()[:12]
# The clone goes with the connection that asked for it: when this worker ends, however it ends.
CLONE = "SELECT testdb_clone(%s, scope => 'session', label => left(%s, 100))"


@pytest.fixture(scope="session")
def admin():
    with psycopg.connect(ADMIN, autocommit=True) as admin:
        # Of the workers that start together one makes the template, and the others wait here. It gets its name last, so
        # that one that was interrupted is never taken for whole.
        admin.execute("SELECT pg_advisory_lock(hashtext('shop template'))")
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone():
            admin.execute("DROP DATABASE IF EXISTS shop_building WITH (FORCE)")
            admin.execute("CREATE DATABASE shop_building")
            with psycopg.connect(ADMIN, dbname="shop_building", autocommit=True) as building:
                building.execute(SCHEMA)
                building.execute("VACUUM (FREEZE, ANALYZE)")
            admin.execute(f"ALTER DATABASE shop_building RENAME TO {TEMPLATE}")
        admin.execute("SELECT pg_advisory_unlock(hashtext('shop template'))")
        yield admin


@pytest.fixture
def db(admin, request):
    [name] = admin.execute(CLONE, [TEMPLATE, request.node.name]).fetchone()
    failures = request.session.testsfailed
    with psycopg.connect(ADMIN, dbname=name, autocommit=True) as connection:
        server = connection.info
        psql = f'psql "host={server.host} port={server.port} user={server.user} dbname={name}"'
        yield connection
    if request.session.testsfailed > failures:
        admin.execute("SELECT testdb_keep(%s, '2 days')", [name])
        print("Kept for 2 days:", psql)
    else:
        admin.execute("SELECT testdb_drop(%s)", [name])


@pytest.fixture(scope="session")
def worker_db(admin):
    [name] = admin.execute(CLONE, [TEMPLATE, "worker"]).fetchone()
    with psycopg.connect(ADMIN, dbname=name, autocommit=True) as connection:
        yield connection


@pytest.fixture
def same_db(admin, worker_db):
    admin.execute("SELECT testdb_rewind(%s)", [worker_db.info.dbname])
    return worker_db
