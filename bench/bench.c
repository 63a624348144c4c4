/*-------------------------------------------------------------------------
 *
 * bench.c
 *	  Measures what it takes to make, use and drop databases, in several ways
 *	  on one server, and what the machine allows at best.
 *
 * What is measured is a list of cases, each KIND/METHOD/TEMPLATE/CLIENTS, for
 * example cycle/native/bench_t100/4.  Time goes in rounds; each round gives
 * every case one short slice, forwards and backwards in turn, so that whatever
 * slows the machine down for a while slows all of them.  The first part of a
 * slice is not counted: what the slice before left ready is used up in it.
 *
 * Every clone is looked at: one that does not hold exactly what the template
 * held ends the run, as does any statement that fails.
 *
 * This program must run on the server's machine as the server's user, because
 * it copies the template's files itself for comparison.  bench/run prepares
 * the server and the templates, starts this, and makes a report of the rows
 * that it writes.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

#define MAX_CLIENTS		64
#define NAME_SIZE		64
#define SQL_SIZE		512
#define PATH_SIZE		4096

/* This part of a slice is not counted. */
#define WARM_UP			(1.0 / 3)

/* Kind "spare": how many are made ready, and how many of them taken at once. */
#define SPARE_POOL		8
#define SPARE_BATCH		4

/* How long the workers may take to come to rest, in seconds. */
#define QUIET_TIMEOUT	30

/* What the raw copy reads and writes at a time. */
#define COPY_BUFFER		(256 * 1024)

/* The parts of what is done that are timed by themselves. */
typedef enum Step
{
	STEP_CYCLE,					/* all that a test pays for its database */
	STEP_CLONE,					/* until the caller has the name */
	STEP_CONNECT,				/* until the first statement can be sent */
	STEP_STATEMENTS,			/* an insert and a select */
	STEP_DROP,					/* until the caller has the answer */
	STEP_READY,					/* dropping, and having another one */
	STEP_SELECT_1,
	STEP_COPY,					/* of the template's directory */
	STEP_REWIND,				/* until the database is as the template again */
	STEP_REWIND_DDL,			/* the same after a table was made */
	STEP_CHECKPOINT
} Step;

#define NSTEPS	(STEP_CHECKPOINT + 1)

static const char *const step_names[NSTEPS] = {
	"cycle", "clone", "connect", "statements", "drop", "ready", "select_1", "copy",
	"rewind", "rewind_ddl", "checkpoint"
};

/* A way of making a database. */
typedef struct Method
{
	const char *name;
	const char *testdb_method;	/* value of testdb.method; NULL for core's
								 * CREATE DATABASE */
	const char *strategy;		/* what is added to CREATE DATABASE */
	bool		served;			/* let testdb serve CREATE DATABASE */
	bool		no_spares;		/* needs testdb.spares = 0 */
} Method;

static const Method methods[] = {
	{.name = "none", .strategy = ""},
	{.name = "core_default", .strategy = ""},
	{.name = "core_file_copy", .strategy = " STRATEGY file_copy"},
	{.name = "create_database", .strategy = "", .served = true},
	{.name = "wal_log", .testdb_method = "wal_log"},
	{.name = "file_copy", .testdb_method = "file_copy"},
	{.name = "native", .testdb_method = "native"},
	{.name = "native_no_spares", .testdb_method = "native", .no_spares = true}
};

/* Times in microseconds. */
typedef struct Series
{
	double	   *times;
	size_t		count;
	size_t		room;
} Series;

typedef struct Client Client;

/* What a case does. */
typedef struct Kind
{
	const char *name;
	void		(*begin) (Client *client);	/* before a slice; may be NULL */
	void		(*once) (Client *client);	/* is repeated until the slice
											 * ends */
	void		(*end) (Client *client);	/* after a slice; may be NULL */
	int			turns;			/* a slice has at least so many that count,
								 * and at least one */
	const char *role;			/* calls testdb in this role, so that no other
								 * case's spares come into it; or NULL */
	bool		no_spares;		/* needs testdb.spares = 0 */
	bool		no_recycling;	/* needs testdb.recycled = 0 */
	bool		one_client;		/* makes no sense with more */
	bool		tcp;			/* uses databases over TCP, with a password */
} Kind;

typedef struct Case
{
	const char *text;
	const Kind *kind;
	const Method *method;
	char		template[NAME_SIZE];
	int			clients;
	Series		steps[NSTEPS];
	long		misses;			/* the case's premise did not hold: not
								 * counted */
} Case;

/* One of the clients of a slice; each is a thread. */
struct Client
{
	Case	   *test;
	PGconn	   *control;		/* makes and drops the databases */
	PGconn	   *conn;			/* to the database, where it stays open */
	char		name[NAME_SIZE];	/* of the database, where it outlives a
									 * turn */
	bool		counting;		/* false while warming up */
	Series		steps[NSTEPS];
	long		misses;
	pthread_t	thread;
};

/* Set by main, then only read. */
static const char *server = "";
static const char *tcp_server = NULL;	/* the same over TCP; NULL if not
										 * given */
static double slice = 0.5;
static bool has_spares_setting;
static bool has_served_setting;
static char data_directory[PATH_SIZE - NAME_SIZE];

/* The control connections stay open from slice to slice. */
static PGconn *controls[MAX_CLIENTS];

/*
 * What is set at the server now.  At first, what a run that was cut short may
 * have left.
 */
static bool spares_off = true;
static bool recycling_off = true;

/* All clients of a slice start together. */
static pthread_barrier_t start_line;

/* What this thread is at, for messages. */
static __thread const char *current = "preparing";

/*
 * Say what went wrong and end the program at once, whatever other threads do.
 */
static void
__attribute__((noreturn, format(printf, 1, 2)))
fail(const char *format,...)
{
	va_list		args;

	flockfile(stderr);
	fprintf(stderr, "bench: %s: ", current);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	fflush(stderr);
	_exit(1);
}

/*
 * Time in seconds; only differences mean something.
 */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/*
 * snprintf that fails when the buffer is too small.
 */
static void
__attribute__((format(printf, 3, 4)))
print_to(char *buffer, size_t size, const char *format,...)
{
	va_list		args;
	int			length;

	va_start(args, format);
	length = vsnprintf(buffer, size, format, args);
	va_end(args);
	if (length < 0 || (size_t) length >= size)
		fail("text too long: %s", buffer);
}

/*
 * Add one time to a series.
 */
static void
series_add(Series *series, double time)
{
	if (series->count == series->room)
	{
		series->room = series->room ? series->room * 2 : 64;
		series->times = realloc(series->times, series->room * sizeof(double));
		if (series->times == NULL)
			fail("out of memory");
	}
	series->times[series->count++] = time;
}

/*
 * Count what a step took, from one time of now() to another.
 */
static void
record(Client *client, Step step, double from, double to)
{
	if (client->counting)
		series_add(&client->steps[step], (to - from) * 1e6);
}

/*
 * Connect to a database, reaching the server as how says.
 */
static PGconn *
connect_by(const char *how, const char *database)
{
	char		conninfo[PATH_SIZE];
	PGconn	   *conn;

	print_to(conninfo, sizeof(conninfo), "%s dbname='%s'", how, database);
	conn = PQconnectdb(conninfo);
	if (PQstatus(conn) != CONNECTION_OK)
		fail("could not connect to \"%s\": %s", database, PQerrorMessage(conn));
	return conn;
}

/*
 * Connect to a database of the server.
 */
static PGconn *
connect_to(const char *database)
{
	return connect_by(server, database);
}

/*
 * The same in the way that a case is about.
 */
static PGconn *
connect_as_case(const Client *client, const char *database)
{
	return connect_by(client->test->kind->tcp ? tcp_server : server, database);
}

/*
 * Run a statement; the first column of its first row goes to value, unless that
 * is NULL.
 */
static void
query(PGconn *conn, const char *sql, char *value, size_t size)
{
	PGresult   *result = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		fail("%s: %s", sql, PQerrorMessage(conn));
	if (value != NULL)
	{
		if (PQntuples(result) < 1)
			fail("%s: no row", sql);
		print_to(value, size, "%s", PQgetvalue(result, 0, 0));
	}
	PQclear(result);
}

/*
 * Run a statement and drop what it returns.
 */
static void
command(PGconn *conn, const char *sql)
{
	query(conn, sql, NULL, 0);
}

/*
 * Run a statement that returns one number, such as an OID.
 */
static unsigned long
query_number(PGconn *conn, const char *sql)
{
	char		value[NAME_SIZE];

	query(conn, sql, value, sizeof(value));
	return strtoul(value, NULL, 10);
}

/*
 * The OID of a database.
 */
static unsigned long
database_oid(PGconn *conn, const char *name)
{
	char		sql[SQL_SIZE];

	print_to(sql, sizeof(sql), "SELECT oid FROM pg_database WHERE datname = '%s'", name);
	return query_number(conn, sql);
}

/*
 * The highest OID of all databases: one that is made from now on has a higher
 * one, a recycled one has not.
 */
static unsigned long
highest_oid(PGconn *conn)
{
	return query_number(conn, "SELECT max(oid) FROM pg_database");
}

/*
 * Wait until testdb's workers have nothing left to do: none is active and no
 * database is in between two lives, in several looks one after the other.
 */
static void
wait_quiet(PGconn *conn)
{
	double		deadline = now() + QUIET_TIMEOUT;
	int			looks = 0;

	while (looks < 3)
	{
		unsigned long busy = query_number(conn,
										  "SELECT (SELECT count(*) FROM pg_stat_activity"
										  " WHERE backend_type LIKE 'testdb%' AND state = 'active')"
										  " + (SELECT count(*) FROM pg_database"
										  " WHERE datconnlimit = -2)");

		looks = busy == 0 ? looks + 1 : 0;
		if (now() > deadline)
			fail("testdb's workers did not come to rest in %d seconds", QUIET_TIMEOUT);
		usleep(500);
	}
}

/*
 * Make a database from the case's template, in the case's way; its name goes to
 * name.
 */
static void
make_database(Client *client, char *name)
{
	static unsigned long serial = 0;
	const Case *test = client->test;
	char		sql[SQL_SIZE];

	if (test->method->testdb_method != NULL)
	{
		print_to(sql, sizeof(sql), "SELECT testdb_clone('%s')", test->template);
		query(client->control, sql, name, NAME_SIZE);
		return;
	}
	print_to(name, NAME_SIZE, "bench_clone_%lu",
			 __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED));
	print_to(sql, sizeof(sql), "CREATE DATABASE %s TEMPLATE %s%s",
			 name, test->template, test->method->strategy);
	command(client->control, sql);
}

/*
 * Drop a database that make_database made.
 */
static void
drop_database(Client *client, const char *name)
{
	char		sql[SQL_SIZE];

	if (client->test->method->testdb_method != NULL)
		print_to(sql, sizeof(sql), "SELECT testdb_drop('%s')", name);
	else
		print_to(sql, sizeof(sql), "DROP DATABASE %s WITH (FORCE)", name);
	command(client->control, sql);
}

/*
 * Connect to a database, insert a row, select another, disconnect; returns the
 * backend's process ID.  A fresh database must be as the template is.
 */
static int
use_database(Client *client, const char *name, bool fresh)
{
	double		begun = now();
	PGconn	   *conn = connect_as_case(client, name);
	double		connected = now();
	char		id[NAME_SIZE];
	char		note[NAME_SIZE];
	int			pid = PQbackendPID(conn);

	query(conn, "INSERT INTO bench_row (note) VALUES ('new') RETURNING id", id, sizeof(id));
	query(conn, "SELECT note FROM bench_row WHERE id = 1", note, sizeof(note));
	record(client, STEP_CONNECT, begun, connected);
	record(client, STEP_STATEMENTS, connected, now());
	PQfinish(conn);

	if (fresh && strcmp(id, "2") != 0)
		fail("database \"%s\" is not fresh: the first new row has the number %s", name, id);
	if (strcmp(note, "template") != 0)
		fail("database \"%s\" does not hold the template's row, but \"%s\"", name, note);
	return pid;
}

/*
 * Wait until the server process with this ID has gone.
 */
static void
wait_gone(PGconn *conn, int pid)
{
	char		sql[SQL_SIZE];

	print_to(sql, sizeof(sql), "SELECT count(*) FROM pg_stat_activity WHERE pid = %d", pid);
	while (query_number(conn, sql) > 0)
		usleep(200);

	/* It is no longer shown shortly before it has let go of everything. */
	usleep(2000);
}

/*
 * Kind "cycle": what a test does that has a database for itself.
 */
static void
cycle_once(Client *client)
{
	char		name[NAME_SIZE];
	double		begun = now();
	double		cloned;
	double		used;
	double		dropped;

	make_database(client, name);
	cloned = now();
	(void) use_database(client, name, true);
	used = now();
	drop_database(client, name);
	dropped = now();

	record(client, STEP_CLONE, begun, cloned);
	record(client, STEP_DROP, used, dropped);
	record(client, STEP_CYCLE, begun, dropped);
}

/*
 * Kind "reconnect": the same statements in a database that is there already.
 */
static void
reconnect_once(Client *client)
{
	double		begun = now();

	(void) use_database(client, client->name, false);
	record(client, STEP_CYCLE, begun, now());
}

/*
 * The database that reconnect_once uses is a copy of the template.
 */
static void
reconnect_begin(Client *client)
{
	print_to(client->name, NAME_SIZE, "%.40s_fixed", client->test->template);
}

/*
 * Kind "ready": the server's work for one drop and the next database, with
 * nothing else going on.  The session that used the database has ended before,
 * since waiting for that is no work.  For testdb the next database must be the
 * same one, recycled, so that its whole restoring is in the time.
 */
static void
ready_once(Client *client)
{
	unsigned long before = database_oid(client->control, client->name);
	bool		recycles = client->test->method->testdb_method != NULL ||
		client->test->method->served;
	double		begun;
	double		dropped;
	double		ready;

	wait_gone(client->control, use_database(client, client->name, true));

	begun = now();
	drop_database(client, client->name);
	dropped = now();
	make_database(client, client->name);
	ready = now();

	if (recycles && database_oid(client->control, client->name) != before)
	{
		client->misses++;
		return;
	}
	record(client, STEP_DROP, begun, dropped);
	record(client, STEP_READY, begun, ready);
}

/*
 * The database that the first turn drops.
 */
static void
ready_begin(Client *client)
{
	make_database(client, client->name);
}

/*
 * The one that the last turn left.
 */
static void
ready_end(Client *client)
{
	drop_database(client, client->name);
}

/*
 * Kind "cold": a clone when there is nothing to recycle.
 */
static void
cold_once(Client *client)
{
	unsigned long highest = highest_oid(client->control);
	char		name[NAME_SIZE];
	double		begun = now();
	double		cloned;

	make_database(client, name);
	cloned = now();
	if (database_oid(client->control, name) > highest)
		record(client, STEP_CLONE, begun, cloned);
	else
		client->misses++;
	(void) use_database(client, name, true);
	drop_database(client, name);
	wait_quiet(client->control);
}

/*
 * Kind "spare": a clone when one is ready, next to the simplest statement on
 * the same connection.
 */
static void
spare_once(Client *client)
{
	unsigned long highest = highest_oid(client->control);
	char		names[SPARE_BATCH][NAME_SIZE];
	double		begun;
	double		selected;
	double		cloned;

	for (int i = 0; i < SPARE_BATCH; i++)
	{
		begun = now();
		command(client->control, "SELECT 1");
		selected = now();
		make_database(client, names[i]);
		cloned = now();
		record(client, STEP_SELECT_1, begun, selected);
		if (database_oid(client->control, names[i]) <= highest)
			record(client, STEP_CLONE, selected, cloned);
		else
			client->misses++;
	}
	for (int i = 0; i < SPARE_BATCH; i++)
		drop_database(client, names[i]);
	wait_quiet(client->control);
}

/*
 * Call testdb_template_begin for the template of that number, which is built
 * the first time; its name goes to template.
 */
static void
begin_template(Client *client, int number, unsigned long serial, char *template)
{
	char		sql[SQL_SIZE];

	print_to(sql, sizeof(sql), "SELECT database FROM testdb_template_begin('bench_first_%d', '%lu', '%s')",
			 number, serial, client->test->template);
	query(client->control, sql, template, NAME_SIZE);
}

/*
 * Kind "first": the first clone of a finished template, next to the simplest
 * statement on the same connection.  There are as many templates as there are
 * clones in kind "spare", which is alike.  As every test process does, this one
 * calls testdb_template_begin first, which says that the template is there.
 */
static void
first_once(Client *client)
{
	static unsigned long serial = 0;
	char		sql[SQL_SIZE];
	char		templates[SPARE_BATCH][NAME_SIZE];
	char		names[SPARE_BATCH][NAME_SIZE];
	double		begun;
	double		selected;

	serial++;
	for (int i = 0; i < SPARE_BATCH; i++)
	{
		begin_template(client, i, serial, templates[i]);
		print_to(sql, sizeof(sql), "SELECT testdb_template_finish('%s')", templates[i]);
		command(client->control, sql);
	}
	wait_quiet(client->control);
	for (int i = 0; i < SPARE_BATCH; i++)
		begin_template(client, i, serial, templates[i]);

	for (int i = 0; i < SPARE_BATCH; i++)
	{
		print_to(sql, sizeof(sql), "SELECT testdb_clone('%s')", templates[i]);
		begun = now();
		command(client->control, "SELECT 1");
		selected = now();
		query(client->control, sql, names[i], NAME_SIZE);
		record(client, STEP_CLONE, selected, now());
		record(client, STEP_SELECT_1, begun, selected);
	}

	for (int i = 0; i < SPARE_BATCH; i++)
	{
		(void) use_database(client, names[i], true);
		drop_database(client, names[i]);
		print_to(sql, sizeof(sql), "SELECT testdb_template_drop('bench_first_%d', '%lu')", i, serial);
		command(client->control, sql);
	}
}

/*
 * Have spares made, by dropping as many.
 */
static void
spare_begin(Client *client)
{
	char		names[SPARE_POOL][NAME_SIZE];

	for (int i = 0; i < SPARE_POOL; i++)
		make_database(client, names[i]);
	for (int i = 0; i < SPARE_POOL; i++)
		drop_database(client, names[i]);
	wait_quiet(client->control);
}

/*
 * Insert a row and select another over the connection that stays open.
 */
static void
use_open_database(Client *client)
{
	char		id[NAME_SIZE];
	char		note[NAME_SIZE];

	query(client->conn, "INSERT INTO bench_row (note) VALUES ('new') RETURNING id", id, sizeof(id));
	query(client->conn, "SELECT note FROM bench_row WHERE id = 1", note, sizeof(note));
	if (strcmp(id, "2") != 0 || strcmp(note, "template") != 0)
		fail("database \"%s\" is not as the template: row %s, \"%s\"", client->name, id, note);
}

/*
 * Kind "rewind": what a test pays that has a database for itself and keeps its
 * connection.
 */
static void
rewind_once(Client *client)
{
	double		begun = now();
	double		used;
	double		done;

	use_open_database(client);
	used = now();
	command(client->conn, "CALL testdb_rewind()");
	done = now();
	record(client, STEP_STATEMENTS, begun, used);
	record(client, STEP_REWIND, used, done);
	record(client, STEP_CYCLE, begun, done);
}

static void
rewind_begin(Client *client)
{
	make_database(client, client->name);
	client->conn = connect_as_case(client, client->name);
}

static void
rewind_end(Client *client)
{
	PQfinish(client->conn);
	drop_database(client, client->name);
}

/*
 * Kind "rewind_call": the call by itself, after an INSERT and after DDL, beside a
 * CHECKPOINT after the same INSERT.
 */
static void
rewind_call_once(Client *client)
{
	double		begun;

	use_open_database(client);
	begun = now();
	command(client->control, "CHECKPOINT");
	record(client, STEP_CHECKPOINT, begun, now());
	command(client->conn, "CALL testdb_rewind()");

	use_open_database(client);
	begun = now();
	command(client->conn, "CALL testdb_rewind()");
	record(client, STEP_REWIND, begun, now());

	command(client->conn, "CREATE TABLE bench_new (id int PRIMARY KEY, note text)");
	begun = now();
	command(client->conn, "CALL testdb_rewind()");
	record(client, STEP_REWIND_DDL, begun, now());
}

/*
 * Kind "truncate": the same as "rewind" by what people do today: all tables are
 * truncated, and the rows that the template has come again.
 */
static void
truncate_once(Client *client)
{
	double		begun = now();
	double		used;
	double		done;

	use_open_database(client);
	used = now();
	command(client->conn,
			"DO $$BEGIN EXECUTE (SELECT 'TRUNCATE ' || string_agg(oid::regclass::text, ', ') ||"
			" ' RESTART IDENTITY' FROM pg_class WHERE relkind = 'r' AND oid >= 16384"
			" AND relnamespace = 'public'::regnamespace); END$$");
	command(client->conn, "SELECT bench_refill()");
	done = now();
	record(client, STEP_STATEMENTS, begun, used);
	record(client, STEP_REWIND, used, done);
	record(client, STEP_CYCLE, begun, done);
}

/*
 * Copy one file.
 */
static void
copy_file(const char *from, const char *to, char *buffer)
{
	int			in = open(from, O_RDONLY);
	int			out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0600);
	ssize_t		length;

	if (in < 0 || out < 0)
		fail("could not open \"%s\" or \"%s\": %s", from, to, strerror(errno));
	while ((length = read(in, buffer, COPY_BUFFER)) > 0)
		if (write(out, buffer, length) != length)
			fail("could not write \"%s\": %s", to, strerror(errno));
	if (length < 0)
		fail("could not read \"%s\": %s", from, strerror(errno));
	if (close(in) != 0 || close(out) != 0)
		fail("could not close \"%s\": %s", to, strerror(errno));
}

/*
 * For every file of the folder "from": copy it to the folder "to", or remove it
 * if that is NULL.
 */
static void
walk_folder(const char *from, const char *to)
{
	char	   *buffer = malloc(COPY_BUFFER);
	char		source[PATH_SIZE];
	char		target[PATH_SIZE];
	DIR		   *folder = opendir(from);
	struct dirent *entry;

	if (folder == NULL || buffer == NULL)
		fail("could not open \"%s\": %s", from, strerror(errno));
	while ((entry = readdir(folder)) != NULL)
	{
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		print_to(source, sizeof(source), "%s/%s", from, entry->d_name);
		if (to == NULL)
		{
			if (unlink(source) != 0)
				fail("could not remove \"%s\": %s", source, strerror(errno));
			continue;
		}
		print_to(target, sizeof(target), "%s/%s", to, entry->d_name);
		copy_file(source, target, buffer);
	}
	closedir(folder);
	free(buffer);
}

/*
 * Kind "raw": the template's directory, copied by plain reading and writing.
 */
static void
raw_once(Client *client)
{
	char		from[PATH_SIZE];
	char		to[PATH_SIZE];
	double		begun;

	print_to(from, sizeof(from), "%s/base/%lu", data_directory,
			 database_oid(client->control, client->test->template));
	print_to(to, sizeof(to), "%s/../bench_copy", data_directory);

	begun = now();
	if (mkdir(to, 0700) != 0)
		fail("could not make folder \"%s\": %s", to, strerror(errno));
	walk_folder(from, to);
	record(client, STEP_COPY, begun, now());

	walk_folder(to, NULL);
	if (rmdir(to) != 0)
		fail("could not remove folder \"%s\": %s", to, strerror(errno));
}

/* The roles are made by bench/run. */
static const Kind kinds[] = {
	{.name = "cycle", .once = cycle_once},
	{.name = "reconnect", .begin = reconnect_begin, .once = reconnect_once},
	{.name = "ready", .begin = ready_begin, .once = ready_once, .end = ready_end,
	.role = "bench_ready", .no_spares = true, .one_client = true},
	{.name = "cold", .once = cold_once,
	.role = "bench_cold", .no_spares = true, .no_recycling = true, .one_client = true},
	{.name = "spare", .begin = spare_begin, .once = spare_once, .one_client = true},
	{.name = "first", .once = first_once, .turns = 5, .one_client = true},
	{.name = "reconnect_tcp", .begin = reconnect_begin, .once = reconnect_once, .tcp = true},
	{.name = "rewind", .begin = rewind_begin, .once = rewind_once, .end = rewind_end},
	{.name = "rewind_tcp", .begin = rewind_begin, .once = rewind_once, .end = rewind_end,
	.tcp = true},
	{.name = "rewind_call", .begin = rewind_begin, .once = rewind_call_once, .end = rewind_end,
	.no_spares = true, .one_client = true},
	{.name = "truncate", .begin = rewind_begin, .once = truncate_once, .end = rewind_end},
	{.name = "raw", .once = raw_once, .one_client = true}
};

/*
 * Prepare the control connection for the case: role and method.
 */
static void
begin_slice(Client *client)
{
	const Case *test = client->test;
	char		sql[SQL_SIZE];

	if (has_served_setting)
		command(client->control, test->method->served ?
				"RESET testdb.method; SET testdb.serve_create_database = on" :
				"SET testdb.serve_create_database = off");
	if (test->method->testdb_method != NULL)
	{
		print_to(sql, sizeof(sql), "SET testdb.method = '%s'", test->method->testdb_method);
		command(client->control, sql);
		if (test->kind->role != NULL)
		{
			print_to(sql, sizeof(sql), "SET ROLE %s", test->kind->role);
			command(client->control, sql);
		}
	}
	if (test->kind->begin != NULL)
		test->kind->begin(client);
}

/*
 * What one client does in a slice, which may take longer for the least number
 * of turns.
 */
static void *
run_client(void *arg)
{
	Client	   *client = arg;
	const Kind *kind = client->test->kind;
	double		begun;
	int			turns = 0;

	current = client->test->text;
	begin_slice(client);
	pthread_barrier_wait(&start_line);

	begun = now();
	client->counting = false;
	while (now() < begun + slice * WARM_UP)
		kind->once(client);
	client->counting = true;
	do
		kind->once(client);
	while (++turns < kind->turns || now() < begun + slice);

	if (kind->end != NULL)
		kind->end(client);
	command(client->control, "RESET ROLE");
	return NULL;
}

/*
 * Turn a setting of the server to 0, or back to its default, for all processes.
 */
static void
set_server(PGconn *conn, const char *setting, bool off)
{
	char		sql[SQL_SIZE];
	double		deadline = now() + QUIET_TIMEOUT;

	if (off)
		print_to(sql, sizeof(sql), "ALTER SYSTEM SET %s = 0", setting);
	else
		print_to(sql, sizeof(sql), "ALTER SYSTEM RESET %s", setting);
	command(conn, sql);
	command(conn, "SELECT pg_reload_conf()");

	/* All processes are told at once: when we see it, the workers will soon. */
	print_to(sql, sizeof(sql), "SELECT count(*) FROM pg_settings"
			 " WHERE name = '%s' AND (setting = '0') = %s", setting, off ? "true" : "false");
	while (query_number(conn, sql) == 0)
	{
		if (now() > deadline)
			fail("\"%s\" did not change in %d seconds", setting, QUIET_TIMEOUT);
		usleep(1000);
	}
	usleep(50000);
}

/*
 * Have the server's settings as a case needs them; what is not asked for has
 * its default.
 */
static void
set_up_server(bool no_spares, bool no_recycling)
{
	if (has_spares_setting && no_spares != spares_off)
		set_server(controls[0], "testdb.spares", no_spares);
	spares_off = no_spares;
	if (no_recycling != recycling_off)
		set_server(controls[0], "testdb.recycled", no_recycling);
	recycling_off = no_recycling;
}

/*
 * Run one slice of a case, and add what its clients measured to the case.  It
 * begins with nothing left to do from the cases before.
 */
static void
run_slice(Case *test)
{
	Client		clients[MAX_CLIENTS];

	current = test->text;
	set_up_server(test->kind->no_spares || test->method->no_spares,
				  test->kind->no_recycling);
	wait_quiet(controls[0]);
	command(controls[0], "CHECKPOINT");

	memset(clients, 0, sizeof(clients));
	pthread_barrier_init(&start_line, NULL, test->clients);
	for (int i = 0; i < test->clients; i++)
	{
		clients[i].test = test;
		clients[i].control = controls[i];
		if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]) != 0)
			fail("could not start a thread");
	}
	for (int i = 0; i < test->clients; i++)
	{
		pthread_join(clients[i].thread, NULL);
		test->misses += clients[i].misses;
		for (int step = 0; step < NSTEPS; step++)
		{
			Series	   *series = &clients[i].steps[step];

			for (size_t n = 0; n < series->count; n++)
				series_add(&test->steps[step], series->times[n]);
			free(series->times);
		}
	}
	pthread_barrier_destroy(&start_line);
}

/*
 * For qsort.
 */
static int
compare_times(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return (x > y) - (x < y);
}

/*
 * That percentile of sorted times: the lowest one that so many percent do not
 * exceed.
 */
static double
percentile(const Series *sorted, int percent)
{
	size_t		rank = (sorted->count * percent + 99) / 100;

	return sorted->times[rank > 0 ? rank - 1 : 0];
}

/*
 * Write a case's rows.  A client does nothing between two turns of what the
 * rate is meant for, so that it is the number of clients by the mean time.  Where
 * nothing counted, one row without figures says so.
 */
static void
write_case(FILE *file, Case *test)
{
	bool		any = false;

	for (int step = 0; step < NSTEPS; step++)
	{
		Series	   *series = &test->steps[step];
		double		sum = 0;

		if (series->count == 0)
			continue;
		any = true;
		qsort(series->times, series->count, sizeof(double), compare_times);
		for (size_t i = 0; i < series->count; i++)
			sum += series->times[i];
		fprintf(file, "%s,%s,%s,%d,%s,%zu,%.2f,%.1f,%.1f,%.1f,%.1f,%ld\n",
				test->kind->name, test->method->name, test->template, test->clients,
				step_names[step], series->count, test->clients * series->count / sum * 1e6,
				percentile(series, 50), percentile(series, 95), percentile(series, 99),
				series->times[series->count - 1], test->misses);
	}
	if (!any)
		fprintf(file, "%s,%s,%s,%d,nothing,0,,,,,,%ld\n", test->kind->name,
				test->method->name, test->template, test->clients, test->misses);
}

/*
 * Write all rows.
 */
static void
write_results(const char *path, Case *cases, int ncases)
{
	FILE	   *file = path ? fopen(path, "w") : stdout;

	if (file == NULL)
		fail("could not open \"%s\": %s", path, strerror(errno));
	fprintf(file, "kind,method,template,clients,step,count,per_second,"
			"p50_us,p95_us,p99_us,max_us,misses\n");
	for (int i = 0; i < ncases; i++)
		write_case(file, &cases[i]);
	if (fflush(file) != 0 || ferror(file))
		fail("could not write the results: %s", strerror(errno));
}

/*
 * Read a case from its text: KIND/METHOD/TEMPLATE/CLIENTS.
 */
static void
parse_case(Case *test, const char *text)
{
	char		kind[NAME_SIZE];
	char		method[NAME_SIZE];

	memset(test, 0, sizeof(*test));
	test->text = text;
	if (sscanf(text, "%63[a-z_]/%63[a-z_]/%63[a-z0-9_]/%d",
			   kind, method, test->template, &test->clients) != 4)
		fail("\"%s\" is no case: KIND/METHOD/TEMPLATE/CLIENTS", text);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(kinds[i].name, kind) == 0)
			test->kind = &kinds[i];
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (strcmp(methods[i].name, method) == 0)
			test->method = &methods[i];
	if (test->kind == NULL || test->method == NULL)
		fail("\"%s\": unknown kind or method", text);
	if (test->kind->tcp && tcp_server == NULL)
		fail("\"%s\" needs the option -t", text);
	if (test->clients < 1 || test->clients > (test->kind->one_client ? 1 : MAX_CLIENTS))
		fail("\"%s\": wrong number of clients", text);
}

/*
 * Connect, see what the server has, and make the databases that reconnect_once
 * uses.
 */
static void
prepare(const Case *cases, int ncases)
{
	int			nclients = 1;
	char		sql[SQL_SIZE];

	for (int i = 0; i < ncases; i++)
		if (cases[i].clients > nclients)
			nclients = cases[i].clients;
	for (int i = 0; i < nclients; i++)
		controls[i] = connect_to("postgres");

	query(controls[0], "SHOW data_directory", data_directory, sizeof(data_directory));
	has_spares_setting = query_number(controls[0],
									  "SELECT count(*) FROM pg_settings"
									  " WHERE name = 'testdb.spares'") > 0;
	has_served_setting = query_number(controls[0],
									  "SELECT count(*) FROM pg_settings"
									  " WHERE name = 'testdb.serve_create_database'") > 0;
	if (has_served_setting)
		command(controls[0], "SET testdb.serve_create_database = off");
	set_up_server(false, false);
	for (int i = 0; i < ncases; i++)
	{
		if (cases[i].kind->once != reconnect_once)
			continue;
		print_to(sql, sizeof(sql), "SELECT count(*) FROM pg_database"
				 " WHERE datname = '%.40s_fixed'", cases[i].template);
		if (query_number(controls[0], sql) > 0)
			continue;
		print_to(sql, sizeof(sql), "CREATE DATABASE %.40s_fixed TEMPLATE %s",
				 cases[i].template, cases[i].template);
		command(controls[0], sql);
	}
}

/*
 * Say how this is called.
 */
static void
__attribute__((noreturn))
usage(void)
{
	fprintf(stderr, "usage: bench [-d CONNINFO] [-t CONNINFO_TCP] [-r ROUNDS] [-s SLICE_MS] [-o FILE]"
			" KIND/METHOD/TEMPLATE/CLIENTS...\n");
	exit(2);
}

int
main(int argc, char **argv)
{
	const char *path = NULL;
	int			rounds = 3;
	int			ncases;
	int			option;
	Case	   *cases;

	while ((option = getopt(argc, argv, "d:t:r:s:o:")) != -1)
	{
		switch (option)
		{
			case 'd':
				server = optarg;
				break;
			case 't':
				tcp_server = optarg;
				break;
			case 'r':
				rounds = atoi(optarg);
				break;
			case 's':
				slice = atoi(optarg) / 1000.0;
				break;
			case 'o':
				path = optarg;
				break;
			default:
				usage();
		}
	}
	ncases = argc - optind;
	if (ncases < 1 || rounds < 1 || slice <= 0)
		usage();

	cases = malloc(ncases * sizeof(Case));
	if (cases == NULL)
		fail("out of memory");
	for (int i = 0; i < ncases; i++)
		parse_case(&cases[i], argv[optind + i]);
	prepare(cases, ncases);

	for (int round = 0; round < rounds; round++)
	{
		double		begun = now();

		for (int i = 0; i < ncases; i++)
			run_slice(&cases[round % 2 == 0 ? i : ncases - 1 - i]);
		fprintf(stderr, "round %d of %d: %.0f s\n", round + 1, rounds, now() - begun);
	}

	set_up_server(false, false);
	write_results(path, cases, ncases);
	return 0;
}
