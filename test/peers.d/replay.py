"""What tools send to make and drop test databases, sent as they send it.

    replay.py transcript TOOL...     each tool's statements once, with what the server says to each
    replay.py loop TOOL WORKERS      50 tests with a database each, from that many workers

Connects by PGHOST, PGPORT, PGUSER and PGPASSWORD. A transcript is the same for two servers that behave the same. A loop's template
is loaded from PEER_DUMP by the psql in BINDIR, and each test looks for PEER_HOSTS rows and PEER_TABLES tables.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import psycopg

SCHEMA = Path(__file__).with_name("schema.sql").read_text()
TESTS = 50
EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"
TABLES = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
ROW = """SELECT datdba::regrole::text, pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider::text, datistemplate,
                datallowconn, datconnlimit, dattablespace, datcollversion, datacl::text,
                (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid),
                shobj_description(d.oid, 'pg_database')
         FROM pg_database d WHERE datname = %s"""


def connect(database="postgres", **options):
    return psycopg.connect(dbname=database, autocommit=True, **options)


class Transcript:
    """Runs statements, and prints what came of each."""

    def __init__(self):
        self.admin = connect()
        self.notices = []
        self.admin.add_notice_handler(self.notice)

    def notice(self, diag):
        # It is empty when this has returned.
        self.notices.append(f"    {diag.severity} {diag.sqlstate} {diag.message_primary}")

    def run(self, text, *parameters, on=None, quiet=False):
        """Quiet: what it returns, and warns of, depends on how fast others leave."""
        self.notices.clear()
        print(f"  {text}{' ' + repr(parameters) if parameters else ''}")
        try:
            cursor = (on or self.admin).execute(text, parameters or None)
            if not quiet:
                print(f"    {cursor.statusmessage}{' ' + repr(cursor.fetchall()) if cursor.description else ''}")
        except psycopg.Error as error:
            diag = error.diag
            print(f"    {diag.sqlstate} {diag.message_primary} | {diag.message_detail} | {diag.message_hint}")
        if not quiet:
            for notice in self.notices:
                print(notice)

    def row(self, database):
        self.run(ROW, database)

    def fill(self, database, **options):
        with connect(database, **options) as inside:
            inside.execute(SCHEMA)

    def use(self, database, **options):
        """A test: it finds what its template has and leaves something behind."""
        try:
            with connect(database, **options) as inside:
                self.run("INSERT INTO tab_1 (name) VALUES ('mine') RETURNING id", on=inside)
                self.run("SELECT count(*), (SELECT count(*) FROM pg_class WHERE relname LIKE 'tab%') FROM tab_2", on=inside)
        except psycopg.OperationalError as error:
            print(f"    cannot connect: {str(error).split('FATAL:')[-1].strip()}")


def integresql(t):
    t.run('DROP DATABASE IF EXISTS "integresql_template_h"')
    t.run('CREATE DATABASE "integresql_template_h" WITH OWNER "postgres" TEMPLATE "template0"')
    t.fill("integresql_template_h")
    for _ in range(3):
        t.run("SELECT count(pid) FROM pg_stat_activity WHERE datname=%s", "integresql_template_h", quiet=True)
        t.run('DROP DATABASE IF EXISTS "integresql_test_h_001"')
        t.run('CREATE DATABASE "integresql_test_h_001" WITH OWNER "postgres" TEMPLATE "integresql_template_h"')
        t.row("integresql_test_h_001")
        t.use("integresql_test_h_001")
    t.run('DROP DATABASE "integresql_test_h_001"')
    t.run('DROP DATABASE "integresql_template_h"')


def testcontainers(t):
    t.run("CREATE ROLE container LOGIN SUPERUSER")
    t.run('CREATE DATABASE "containerdb" OWNER "container"')
    t.fill("containerdb")
    t.run("UPDATE pg_database SET datistemplate = FALSE WHERE datname = 'snapshot'")
    t.run('DROP DATABASE IF EXISTS "snapshot" WITH (FORCE)')
    t.run('CREATE DATABASE "snapshot" WITH TEMPLATE "containerdb" OWNER "container"')
    t.run('ALTER DATABASE "snapshot" WITH is_template = TRUE')
    for _ in range(3):
        t.use("containerdb")
        with connect("containerdb"):
            t.run('DROP DATABASE "containerdb" WITH (FORCE)')
            t.run('CREATE DATABASE "containerdb" WITH TEMPLATE "snapshot" OWNER "container"')
        t.row("containerdb")
    t.run('DROP DATABASE "snapshot"')
    t.run('ALTER DATABASE "snapshot" WITH is_template = FALSE')
    t.run('DROP DATABASE "snapshot" WITH (FORCE)')
    t.run('DROP DATABASE "containerdb" WITH (FORCE)')
    t.run("DROP ROLE container")


def zonky(t):
    t.run("CREATE ROLE zonky LOGIN")
    t.run("CREATE DATABASE zonkytpl OWNER postgres ENCODING 'utf8'")
    t.fill("zonkytpl")
    for name in "abcdefghij", "klmnopqrst":
        t.run(f"CREATE DATABASE {name} TEMPLATE zonkytpl OWNER zonky ENCODING 'utf8'")
        t.row(name)
        t.use(name)
    t.run("CREATE DATABASE abcdefghij TEMPLATE zonkytpl OWNER zonky ENCODING 'utf8'")
    t.run("CREATE DATABASE x TEMPLATE zonkynone OWNER zonky ENCODING 'utf8'")
    t.run("CREATE DATABASE x TEMPLATE zonkytpl OWNER nobody_at_all ENCODING 'utf8'")
    for name in "abcdefghij", "klmnopqrst", "abcdefghij", "zonkytpl":
        t.run(f"DROP DATABASE IF EXISTS {name}")
    t.run("DROP ROLE zonky")


def rails(t):
    t.run("CREATE ROLE rails LOGIN CREATEDB")
    t.run("CREATE DATABASE \"rails_test\" ENCODING = 'utf8'")
    t.row("rails_test")
    for options in (
        "OWNER = \"rails\" TEMPLATE = \"template0\"",
        "LC_COLLATE = 'C.UTF-8' LC_CTYPE = 'C.UTF-8' CONNECTION LIMIT = 5",
        "TABLESPACE = \"pg_default\"",
        "LC_COLLATE = 'xx_XX'",
    ):
        t.run(f"CREATE DATABASE \"rails_test-0\" ENCODING = 'utf8' {options}")
        t.row("rails_test-0")
        t.run('DROP DATABASE IF EXISTS "rails_test-0"')
    t.run("CREATE DATABASE \"rails_test\" ENCODING = 'utf8'")
    t.run("CREATE DATABASE \"rails_test-0\" ENCODING = 'unknown'")
    t.run('DROP DATABASE IF EXISTS "rails_test"')
    t.run('DROP DATABASE IF EXISTS "rails_test"')
    t.run("DROP ROLE rails")


def ecto(t):
    for options in "", " TEMPLATE=template0", " LC_CTYPE='C.UTF-8' LC_COLLATE='C.UTF-8'":
        t.run(f"CREATE DATABASE \"ecto_test\" ENCODING 'UTF8'{options}")
        t.row("ecto_test")
        t.run(f"CREATE DATABASE \"ecto_test\" ENCODING 'UTF8'{options}")
        t.run("SELECT FROM pg_catalog.pg_database WHERE datname = %s", "ecto_test")
        t.run('DROP DATABASE "ecto_test"')
        t.run('DROP DATABASE "ecto_test"')


def laravel(t):
    for _ in range(2):
        t.run('drop database if exists "laravel_test_1"')
        t.run('create database "laravel_test_1" encoding "utf8"')
        t.row("laravel_test_1")
    t.run('drop database if exists "laravel_test_1"')


def efcore(t):
    t.run('CREATE DATABASE "EfTemplate"')
    t.fill("EfTemplate")
    for _ in range(2):
        t.run('CREATE DATABASE "EfTest" TEMPLATE "EfTemplate"')
        t.row("EfTest")
        t.use("EfTest")
        with connect("EfTest"):
            t.run('REVOKE CONNECT ON DATABASE "EfTest" FROM PUBLIC')
            t.run(TERMINATE, "EfTest", quiet=True)
            t.run('DROP DATABASE "EfTest"')
    t.run('CREATE DATABASE "EfTest"')
    # What the last one revoked is granted again.
    t.row("EfTest")
    t.run('DROP DATABASE "EfTest"')
    t.run('DROP DATABASE "EfTemplate"')


def prisma(t):
    name = '"prisma_migrate_shadow_db_0e0c7f2f-0000-4000-8000-000000000000"'
    t.run(f"CREATE DATABASE {name}")
    with connect(name.strip('"')) as shadow:
        t.run("CREATE TABLE shadow (id int)", on=shadow)
        # It has not left yet, and the others' rule is that this fails, after a while.
        t.run(f"DROP DATABASE {name}")
    t.run(f"DROP DATABASE {name}")
    t.run(f"DROP DATABASE {name}")


def pgtestdb(t):
    t.run('CREATE ROLE "peer_user" LOGIN')
    t.run('CREATE DATABASE "peer_tpl" OWNER "peer_user"')
    t.fill("peer_tpl", user="postgres")
    t.run("UPDATE pg_database SET datistemplate = true WHERE datname=%s", "peer_tpl")
    for _ in range(2):
        t.run('CREATE DATABASE "peer_tpl_inst_1" WITH TEMPLATE "peer_tpl" OWNER "peer_user"')
        t.row("peer_tpl_inst_1")
        t.use("peer_tpl_inst_1")
        t.run('DROP DATABASE IF EXISTS "peer_tpl_inst_1"')
    t.run('DROP DATABASE IF EXISTS "peer_tpl"')
    t.run("UPDATE pg_database SET datistemplate = false WHERE datname=%s", "peer_tpl")
    t.run('DROP DATABASE IF EXISTS "peer_tpl"')
    t.run('DROP ROLE "peer_user"')


def pytest_postgresql(t):
    t.run('CREATE DATABASE "tests_tmpl" IS_TEMPLATE = true')
    t.fill("tests_tmpl")
    for _ in range(2):
        t.run(TERMINATE, "tests_tmpl", quiet=True)
        t.run('CREATE DATABASE "tests" TEMPLATE "tests_tmpl"')
        t.row("tests")
        t.use("tests")
        t.run(EXISTS, "tests")
        t.run('ALTER DATABASE "tests" WITH allow_connections false')
        t.run(TERMINATE, "tests", quiet=True)
        t.use("tests")
        t.run('DROP DATABASE IF EXISTS "tests"')
    # What was altered is not so in the next life.
    t.run('CREATE DATABASE "tests" TEMPLATE "tests_tmpl"')
    t.row("tests")
    t.run("COMMENT ON DATABASE tests IS 'of a former life'")
    t.run("ALTER DATABASE tests SET work_mem = '1MB'")
    t.run("ALTER DATABASE tests CONNECTION LIMIT 3")
    t.run("ALTER DATABASE tests RENAME TO tests2")
    t.run('DROP DATABASE "tests2"')
    t.run('CREATE DATABASE "tests" TEMPLATE "tests_tmpl"')
    t.row("tests")
    t.run('DROP DATABASE "tests"')
    t.run('ALTER DATABASE "tests_tmpl" WITH is_template false')
    t.run('DROP DATABASE "tests_tmpl"')


def django(t):
    t.run('CREATE DATABASE "test_djapp" ')
    t.fill("test_djapp")
    t.run('CREATE DATABASE "test_djapp" ')
    for number in 1, 2:
        t.run(f'CREATE DATABASE "test_djapp_{number}" WITH TEMPLATE "test_djapp"')
        t.row(f"test_djapp_{number}")
        t.use(f"test_djapp_{number}")
    t.run('CREATE DATABASE "test_djapp_1" WITH TEMPLATE "test_djapp"')
    for name in "test_djapp_1", "test_djapp_2", "test_djapp":
        t.run(f'DROP DATABASE "{name}"')


def load(database):
    """What a loop's template has."""
    psql = [os.environ["BINDIR"] + "/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    subprocess.run([*psql, "-d", database, "-f", os.environ["PEER_DUMP"]], stdout=subprocess.DEVNULL, check=True)


def use_quickly(database):
    """A test of a loop: it finds what the template has, and nothing of another test."""
    with connect(database) as inside:
        inside.execute("INSERT INTO ids (table_name, field_name, nextid) VALUES ('peers', 'test', 1)")
        assert inside.execute("SELECT * FROM ids").fetchall() == [("peers", "test", 1)]
        assert inside.execute("SELECT count(*) FROM hosts").fetchone() == (int(os.environ["PEER_HOSTS"]),)
        assert inside.execute(TABLES).fetchone() == (int(os.environ["PEER_TABLES"]),)


def start_integresql(_worker):
    admin = connect()
    if admin.execute(EXISTS, ["integresql_template_h"]).fetchone() is None:
        admin.execute('CREATE DATABASE "integresql_template_h" WITH OWNER "postgres" TEMPLATE "template0"')
        load("integresql_template_h")


def test_integresql(admin, worker):
    name = f"integresql_test_h_{worker:03}"
    admin.execute(f'DROP DATABASE IF EXISTS "{name}"')
    admin.execute(f'CREATE DATABASE "{name}" WITH OWNER "postgres" TEMPLATE "integresql_template_h"')
    use_quickly(name)


def start_testcontainers(worker):
    admin = connect()
    admin.execute(f'CREATE DATABASE "db{worker}"')
    load(f"db{worker}")
    admin.execute(f'CREATE DATABASE "snap{worker}" WITH TEMPLATE "db{worker}" OWNER "postgres"')
    admin.execute(f'ALTER DATABASE "snap{worker}" WITH is_template = TRUE')


def test_testcontainers(admin, worker):
    admin.execute(f'DROP DATABASE "db{worker}" WITH (FORCE)')
    admin.execute(f'CREATE DATABASE "db{worker}" WITH TEMPLATE "snap{worker}" OWNER "postgres"')
    use_quickly(f"db{worker}")


def start_zonky(worker):
    if worker == 0:
        admin = connect()
        admin.execute("CREATE DATABASE zonkytpl OWNER postgres ENCODING 'utf8'")
        load("zonkytpl")


def test_zonky(admin, worker):
    name = f"zonky{worker}"
    admin.execute(f"CREATE DATABASE {name} TEMPLATE zonkytpl OWNER postgres ENCODING 'utf8'")
    use_quickly(name)
    admin.execute(f"DROP DATABASE IF EXISTS {name}")


def say(text):
    """A line in one piece: other workers write to the same file."""
    os.write(1, f"{text}\n".encode())


def work(tool, worker, tests, ready):
    """A worker: this many tests, once all workers are there."""
    admin = connect()
    ready.wait()
    for number in range(tests):
        try:
            globals()[f"test_{tool}"](admin, worker)
            say(f"test {worker}.{number} ... ok")
        except Exception as error:
            say(f"FAILED {worker}.{number}: {error}")


def loop(tool, workers):
    for worker in range(workers):
        globals()[f"start_{tool}"](worker)
    connect().execute("SELECT 'the tests begin'")
    ready = multiprocessing.Barrier(workers)
    shares = [TESTS // workers + (worker < TESTS % workers) for worker in range(workers)]
    processes = [multiprocessing.Process(target=work, args=(tool, n, share, ready)) for n, share in enumerate(shares)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def main(mode, *arguments):
    os.environ.setdefault("PGUSER", "postgres")
    if mode == "loop":
        loop(arguments[0], int(arguments[1]))
        return
    for tool in arguments:
        print(f"{tool}:")
        globals()[tool](Transcript())
        print(f"test {tool} ... ok")


main(*sys.argv[1:])
