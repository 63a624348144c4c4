/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  Holding the sessions of a database at the start of their next
 *	  transaction.
 *
 * While a database is rewound (rewind.c) its sessions stay connected, but
 * none may be in a transaction.  PostgreSQL has no hook at the start of a
 * transaction.  But StartTransaction() accepts invalidation messages before
 * it takes a snapshot or reads a catalog, and has no lock and no buffer by
 * then.  So the gate is a catalog cache callback.  To close it, a worker
 * records the database in shared memory, and sends a message that invalidates
 * that database's row in the catalog caches.  A process that is connected to
 * the database and receives the message at the start of a transaction waits
 * in the callback until the gate is open again.
 *
 *	gate		sessions that start a transaction
 *	OPEN		go on
 *	CLOSING		wait, unless they are in the middle of a command
 *	SHUT		wait; in the middle of a command, until it is CLOSING again
 *	LOST		terminate, because the database's content is lost
 *
 *	OPEN -> CLOSING		gate_close()
 *	CLOSING -> SHUT		gate_shut(true), when no session seems to be in a
 *						transaction
 *	SHUT -> CLOSING		gate_shut(false), if one is nevertheless
 *	SHUT -> LOST		gate_lose()
 *	any -> OPEN			gate_open(), gate_open_all(); after LOST, when the database
 *						has been removed
 *
 * All of these are taken by worker 0; if it ends, its exit callback opens
 * those gates that are CLOSING, and another worker 0 goes on with the others.
 * A crash of any process makes the postmaster restart all of them, with new
 * shared memory.
 *
 * No process is missed:
 *
 * A process has set its lxid before it receives the message and checks the
 * gate; the worker has set the gate to SHUT before it looks for processes
 * with an lxid.  With a memory barrier on either side, one of them sees the
 * other.
 *
 * A process may receive the message in the middle of a transaction, since
 * locking a relation accepts messages, too.  It would not receive it again at
 * the start of the next.  So at the end of that transaction it sends the
 * message once more, also to itself.
 *
 * A process that connects later has not received the message.  The worker
 * holds a lock on the database that keeps new sessions out, and sends the
 * message again after it has got that lock.
 *
 * Parallel workers never wait here: they are part of a transaction, whose
 * leader is waited for.
 *
 * A command may consist of several transactions (VACUUM, CREATE INDEX
 * CONCURRENTLY, a procedure that commits).  What it began before a rewind it
 * must not continue after it.  Between two of them it has no lxid, but it does
 * not wait for its client, as it does between two commands; and if it comes to
 * the gate, it does not count as waiting there.  Either makes the worker set
 * the gate to CLOSING again.  This does not depend on track_activities.
 *
 * Other processes than client backends are between two transactions of a
 * command if they report that they are active.  Some always do, so they are
 * not waited for long.  A process that was not waited for, and turns out to be
 * in the middle of a command, terminates.
 *
 * lxid is cleared before a commit is over: files are removed and invalidation
 * messages sent after that.  A process without an lxid is known to be done
 * with that if it waits here, or if it is idle in pg_stat_activity.  For
 * others the worker needs a barrier, since interrupts are held off until the
 * end of a commit.
 *
 * A session with temporary tables cannot stay, because it loses their catalog
 * entries.  It terminates in the callback, with an error that says why; if it
 * is idle, a catchup interrupt makes it start a transaction for that.  A
 * process that is about to exit goes on, since it removes its temporary
 * tables.
 *
 * When the gate opens, the session has received, or will receive with the
 * same message, the worker's invalidations of relations and catalogs.  Only
 * cached sequence values remain; the session forgets them if the number of
 * rewinds has changed.
 *
 * Locks: none but ProcArrayLock, in shared mode, while the table of processes
 * is read.  A waiting process answers ProcSignal barriers, and terminates if
 * it is told to.  It handles a cancel only after it has left the gate, since
 * it is too early in the transaction for an error.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "storage/sinval.h"
#include "tcop/pquery.h"
#include "utils/backend_status.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "gate.h"
#include "sessions.h"

/* Interval at which a waiting process checks, unless woken, in ms. */
#define GATE_INTERVAL	1000

/* Number of groups of databases, by OID, for which rewinds are counted. */
#define GATE_GROUPS		1024

/* Maximum number of sessions described in an error's detail. */
#define MAX_DESCRIBED	8

typedef enum GateState
{
	GATE_OPEN,
	GATE_CLOSING,
	GATE_SHUT,
	GATE_LOST
} GateState;

/* One gate.  Written only by worker 0; read without a lock. */
typedef struct Gate
{
	pg_atomic_uint32 database;	/* InvalidOid if the entry is free */
	pg_atomic_uint32 state;		/* a GateState */
	pg_atomic_uint32 waits;		/* number of sessions that waited at it */
} Gate;

typedef struct GateSharedState
{
	pg_atomic_uint32 nclosed;	/* gates that are not OPEN */
	Gate		gates[GATE_MAX];
	pg_atomic_uint32 rewinds[GATE_GROUPS];

	/*
	 * For each process, by its place in the array of PGPROCs: the database at
	 * whose gate it waits, or InvalidOid.  Written by that process.
	 */
	pg_atomic_uint32 parked[FLEXIBLE_ARRAY_MEMBER];
} GateSharedState;

static GateSharedState *gates = NULL;

/* The hash of the row of this session's database in the catalog cache. */
static uint32 my_hash = 0;

/* The number of rewinds that this session has taken into account. */
static uint32 known_rewinds = 0;

/*
 * True if the message was received in this transaction, and must be sent
 * again.
 */
static bool to_be_sent = false;

/*
 * Return the size of the shared memory, in bytes.
 */
static Size
gate_size(void)
{
	return add_size(offsetof(GateSharedState, parked),
					mul_size(MaxBackends, sizeof(pg_atomic_uint32)));
}

/*
 * Reserve shared memory; from shmem_request_hook only.
 */
void
gate_shmem_request(void)
{
	RequestAddinShmemSpace(gate_size());
}

/*
 * Create the gates, or attach to them; from shmem_startup_hook only, with
 * AddinShmemInitLock held.
 */
void
gate_shmem_init(void)
{
	bool		found;

	gates = ShmemInitStruct("testdb gates", gate_size(), &found);
	if (found)
		return;
	pg_atomic_init_u32(&gates->nclosed, 0);
	for (int i = 0; i < GATE_MAX; i++)
	{
		pg_atomic_init_u32(&gates->gates[i].database, InvalidOid);
		pg_atomic_init_u32(&gates->gates[i].state, GATE_OPEN);
		pg_atomic_init_u32(&gates->gates[i].waits, 0);
	}
	for (int i = 0; i < GATE_GROUPS; i++)
		pg_atomic_init_u32(&gates->rewinds[i], 0);
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&gates->parked[i], InvalidOid);
}

/*
 * Return this process's index in the array of PGPROCs.
 */
static int
my_place(void)
{
	return (int) (MyProc - ProcGlobal->allProcs);
}

/*
 * Return the gate of a database; NULL if it is open.
 */
static Gate *
find_gate(Oid database)
{
	for (int i = 0; i < GATE_MAX; i++)
		if (pg_atomic_read_u32(&gates->gates[i].database) == database)
			return &gates->gates[i];
	return NULL;
}

/*
 * Return the counter of rewinds of this session's database.
 */
static pg_atomic_uint32 *
rewind_counter(Oid database)
{
	return &gates->rewinds[database % GATE_GROUPS];
}

/*
 * Send the message that makes the sessions of a database check its gate; hash
 * is that of its row in the catalog cache.
 */
static void
send_message(uint32 hash)
{
	SharedInvalidationMessage message;

	memset(&message, 0, sizeof(message));
	message.cc.id = (int8) DATABASEOID;
	message.cc.dbId = InvalidOid;
	message.cc.hashValue = hash;
	SendSharedInvalidMessages(&message, 1);
}

/*
 * Terminate this session, whose temporary tables would lose their catalog
 * entries.
 */
static void
end_session(void)
{
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("terminating connection because the database is being rewound"),
			 errdetail("The session has temporary tables, whose catalog entries are lost."),
			 errhint("Connect again, or use testdb_reset, which terminates all sessions.")));
}

/*
 * Terminate this session, whose database was rewound between two transactions
 * of its command.
 */
static void
end_torn_session(void)
{
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("terminating connection because the database was rewound"),
			 errdetail("The session was executing a command that consists of several transactions.")));
}

/*
 * Terminate this session, whose database has lost its content.
 */
static void
end_lost_session(void)
{
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("terminating connection because the database could not be rewound"),
			 errdetail("The content of the database was lost, and it is being removed.")));
}

/*
 * Report whether a closed gate lets this session pass, because it is in the
 * middle of a command.
 */
static bool
lets_pass(Gate *gate, bool in_command)
{
	return in_command && pg_atomic_read_u32(&gate->state) == GATE_CLOSING;
}

/*
 * Report whether this session has been told to terminate, and can do so now.
 */
static bool
must_exit(void)
{
	return ProcDiePending && InterruptHoldoffCount == 0 && CritSectionCount == 0;
}

/*
 * Wait until a closed gate is open; if this session is in the middle of a
 * command, then uncounted, and only while it is SHUT.  Answers barriers,
 * terminates if it is told to, and leaves other interrupts for later.
 */
static void
wait_at_gate(Gate *gate, bool in_command)
{
	static uint32 wait_event = 0;
	uint32		event = wait_event_compat(&wait_event, "TestdbRewindGate");
	uint32		rewinds = pg_atomic_read_u32(rewind_counter(MyDatabaseId));

	pg_atomic_fetch_add_u32(&gate->waits, 1);
	if (!in_command)
		gate_park();
	while (pg_atomic_read_u32(&gate->database) == MyDatabaseId)
	{
		ResetLatch(MyLatch);
		if (ProcSignalBarrierPending)
			ProcessProcSignalBarrier();
		if (pg_atomic_read_u32(&gate->database) != MyDatabaseId ||
			pg_atomic_read_u32(&gate->state) == GATE_LOST ||
			lets_pass(gate, in_command) || must_exit())
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 GATE_INTERVAL, event);
	}
	if (!in_command)
		gate_unpark();

	/* It may have been set for something else, too. */
	SetLatch(MyLatch);
	if (must_exit())
		CHECK_FOR_INTERRUPTS();
	if (in_command && pg_atomic_read_u32(rewind_counter(MyDatabaseId)) != rewinds)
		end_torn_session();
}

/*
 * Wait until the gate of this session's database is open, or if it is in the
 * middle of a command, not SHUT.  The session has an lxid, and has accessed
 * nothing since it got it.
 *
 * The gate may have been shut again after it was found open and before
 * gate_unpark(), with this session counted as parked; so it is checked again
 * after that.
 */
static void
pass_gate(bool in_command)
{
	Gate	   *gate;

	while ((gate = find_gate(MyDatabaseId)) != NULL)
	{
		if (lets_pass(gate, in_command))
		{
			to_be_sent = true;
			break;
		}
		if (pg_atomic_read_u32(&gate->state) == GATE_LOST)
			end_lost_session();
		wait_at_gate(gate, in_command);
	}
}

/*
 * Wait until the gate of this session's database is open, after gate_unpark.
 * Terminates this session if it is told to and interrupts are not held.
 */
void
gate_pass(void)
{
	pass_gate(false);
}

/*
 * Report whether this process has just begun a transaction, so that it has no
 * lock and no snapshot yet.
 */
static bool
is_starting(void)
{
	return !IsTransactionState() && LocalTransactionIdIsValid(lxid_compat(MyProc));
}

/*
 * Forget this session's cached sequence values, if its database has been
 * rewound since the last call.
 */
void
gate_catch_up(void)
{
	uint32		rewinds = pg_atomic_read_u32(rewind_counter(MyDatabaseId));

	if (my_hash != 0 && known_rewinds != rewinds)
	{
		known_rewinds = rewinds;
		ResetSequenceCaches();
	}
}

/*
 * The catalog cache callback: see the head of this file.
 */
static void
gate_callback(Datum arg pg_attribute_unused(), int cacheid pg_attribute_unused(),
			  uint32 hash)
{
	bool		in_command = ActivePortal != NULL;
	Gate	   *gate;

	if (gates == NULL || MyProc == NULL || !OidIsValid(MyDatabaseId) ||
		IsParallelWorker() || proc_exit_inprogress || (hash != 0 && my_hash != 0 && hash != my_hash))
		return;
	if (!is_starting())
	{
		to_be_sent = find_gate(MyDatabaseId) != NULL || to_be_sent;
		return;
	}

	/* The worker checks lxid, which is set, after closing the gate. */
	pg_memory_barrier();
	if ((gate = find_gate(MyDatabaseId)) != NULL)
	{
		if (OidIsValid(MyProc->tempNamespaceId) && !in_command)
			end_session();
		pass_gate(in_command);
	}
	gate_catch_up();
}

/*
 * The transaction callback: send the message again if it was received in the
 * transaction that ends.
 */
static void
gate_xact_callback(XactEvent event, void *arg pg_attribute_unused())
{
	if (!to_be_sent)
		return;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		to_be_sent = false;
		if (find_gate(MyDatabaseId) != NULL)
			send_message(my_hash);
	}
}

/*
 * Install the callbacks; called once per process, from _PG_init.
 */
void
gate_install(void)
{
	CacheRegisterSyscacheCallback(DATABASEOID, gate_callback, (Datum) 0);
	RegisterXactCallback(gate_xact_callback, NULL);
}

/*
 * Record, in the first transaction of a session, what the callback needs.
 * Until that transaction ends its database cannot be rewound.
 */
void
gate_learn(void)
{
	if (my_hash != 0 || !OidIsValid(MyDatabaseId) || gates == NULL)
		return;
	my_hash = GetSysCacheHashValue1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	known_rewinds = pg_atomic_read_u32(rewind_counter(MyDatabaseId));
}

/*
 * Close the gate of a database; false if too many are closed already.  For
 * worker 0, in a transaction.
 */
bool
gate_close(Oid database)
{
	Gate	   *gate = find_gate(InvalidOid);

	Assert(find_gate(database) == NULL);
	if (gate == NULL)
		return false;
	pg_atomic_write_u32(&gate->waits, 0);
	pg_atomic_write_u32(&gate->state, GATE_CLOSING);
	pg_write_barrier();
	pg_atomic_write_u32(&gate->database, database);
	pg_atomic_fetch_add_u32(&gates->nclosed, 1);
	gate_remind(database);
	return true;
}

/*
 * Send the message again, for sessions that have connected since.  For worker
 * 0, in a transaction.
 */
void
gate_remind(Oid database)
{
	pg_memory_barrier();
	send_message(GetSysCacheHashValue1(DATABASEOID, ObjectIdGetDatum(database)));
}

/*
 * Report whether the process at this index of the array of PGPROCs waits at
 * the gate of this database.
 */
static bool
is_parked(int place, Oid database)
{
	return place < MaxBackends &&
		pg_atomic_read_u32(&gates->parked[place]) == database;
}

/*
 * Wake the sessions in a database, or only those that count as waiting at its
 * gate.
 */
static void
wake_sessions(Oid database, bool only_parked)
{
	for (int i = 0; i < MaxBackends; i++)
		if (only_parked ? is_parked(i, database) :
			ProcGlobal->allProcs[i].databaseId == database)
			SetLatch(&ProcGlobal->allProcs[i].procLatch);
}

/*
 * Shut the gate, so that no session passes it, or let sessions in the middle
 * of a command pass again.  If gate_look() finds no session in a transaction
 * after this call, and new sessions are kept out, none will begin one.
 */
void
gate_shut(Oid database, bool shut)
{
	Gate	   *gate = find_gate(database);

	pg_atomic_write_u32(&gate->state, shut ? GATE_SHUT : GATE_CLOSING);
	pg_memory_barrier();
	if (!shut)
		wake_sessions(database, false);
}

/*
 * Terminate all sessions of a database whose content is lost: those that wait
 * at its gate, which is shut, now; others at the start of their next
 * transaction.
 */
void
gate_lose(Oid database)
{
	Gate	   *gate = find_gate(database);

	if (gate == NULL)
		return;
	pg_atomic_write_u32(&gate->state, GATE_LOST);
	pg_memory_barrier();
	wake_sessions(database, true);
}

/*
 * Return the process pid if it is connected to a database and does not wait at
 * its gate; else NULL.  Takes and releases ProcArrayLock.
 */
static PGPROC *
find_session(Oid database, int pid)
{
	PGPROC	   *proc = BackendPidGetProc(pid);

	if (proc == NULL || proc->databaseId != database ||
		is_parked((int) (proc - ProcGlobal->allProcs), database))
		return NULL;
	return proc;
}

/*
 * Report whether a process waits until its client sends something or reads
 * what it is sent.  If it has no lxid, it is then not in the middle of a
 * command.
 */
static bool
waits_for_client(const PGPROC *proc)
{
	uint32		event = *(const volatile uint32 *) &proc->wait_event_info;

	return event == WAIT_EVENT_CLIENT_READ || event == WAIT_EVENT_CLIENT_WRITE;
}

/*
 * Report whether a process reports that it is executing a command.
 */
static bool
reports_command(const PgBackendStatus *status)
{
	return status->st_state == STATE_RUNNING || status->st_state == STATE_FASTPATH;
}

/*
 * Find the sessions in a database that are neither at its gate nor in a
 * transaction, but may have something left to do of the last one, or of their
 * command: the fields of view that gate.h describes as set if running is 0.
 */
static void
look_at_activity(Oid database, GateView *view)
{
	int			n;

	view->idle = true;
	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;
		PGPROC	   *proc;

		if (status->st_databaseid != database || status->st_procpid == 0 ||
			status->st_state == STATE_IDLE)
			continue;
		if ((proc = find_session(database, status->st_procpid)) == NULL)
			continue;
		view->idle = false;
		if (status->st_backendType != B_BACKEND)
			view->reported = view->reported || reports_command(status);
		else if (!waits_for_client(proc))
			view->active = true;
	}
}

/*
 * Report whether a process has, or had, temporary tables.  The fields of an
 * exited process remain, so it must be among the running ones.  ProcArrayLock
 * is held.
 */
static bool
has_temporary(PGPROC *proc)
{
	return OidIsValid(proc->tempNamespaceId) && proc->pid != 0 &&
		BackendPidGetProcWithLock(proc->pid) == proc;
}

/*
 * Count the sessions in a database by their state.  Takes and releases
 * ProcArrayLock.
 */
void
gate_look(Oid database, GateView *view)
{
	memset(view, 0, sizeof(*view));
	LWLockAcquire(ProcArrayLock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];

		if (proc->pid == 0 || proc->databaseId != database)
			continue;
		if (is_parked(i, database))
			view->parked++;
		else if (LocalTransactionIdIsValid(lxid_compat(proc)))
			view->running++;
		if (has_temporary(proc))
			view->temporary++;
	}
	LWLockRelease(ProcArrayLock);
	if (view->running == 0)
		look_at_activity(database, view);
}

/*
 * Report whether a session in a database prevents its rewind.  Takes and
 * releases ProcArrayLock.
 */
static bool
holds_up(Oid database, const PgBackendStatus *status)
{
	PGPROC	   *proc;

	if (status->st_databaseid != database || status->st_procpid == 0 ||
		status->st_state == STATE_IDLE ||
		(proc = find_session(database, status->st_procpid)) == NULL)
		return false;
	if (LocalTransactionIdIsValid(lxid_compat(proc)) ||
		OidIsValid(proc->tempNamespaceId))
		return true;
	return status->st_backendType == B_BACKEND ? !waits_for_client(proc) :
		reports_command(status);
}

/*
 * Append to buf what a session does that prevents a rewind.
 */
static void
append_activity(StringInfo buf, const PgBackendStatus *status)
{
	if (status->st_state_start_timestamp == 0)
		appendStringInfoString(buf, " does not report what it is executing.");
	else
		appendStringInfo(buf, " has been %s since %s.",
						 status->st_state == STATE_IDLEINTRANSACTION ||
						 status->st_state == STATE_IDLEINTRANSACTION_ABORTED ?
						 "idle in a transaction" : "executing a command",
						 timestamptz_to_str(status->st_state_start_timestamp));
}

/*
 * Describe the sessions that prevent a rewind of a database, for an error's
 * detail or a notice, and terminate them if so requested.  NULL if there are
 * none.  In the current memory context.  Takes and releases ProcArrayLock.
 */
char *
gate_describe(Oid database, bool terminate)
{
	StringInfoData buf;
	int			n;
	int			nfound = 0;

	initStringInfo(&buf);
	pgstat_clear_backend_activity_snapshot();
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		PgBackendStatus *status = &pgstat_local_beentry_compat(i)->backendStatus;

		if (!holds_up(database, status))
			continue;
		if (terminate)
			(void) kill(status->st_procpid, SIGTERM);
		if (sessions_begin_description(&buf, nfound++, MAX_DESCRIBED, status))
			append_activity(&buf, status);
	}
	return sessions_end_description(&buf, nfound, MAX_DESCRIBED);
}

/*
 * Make the sessions of a database that have temporary tables terminate; its
 * gate is closed.  The caller waits until gate_look() finds none.  Takes and
 * releases ProcArrayLock.
 */
void
gate_end_temporary(Oid database)
{
	LWLockAcquire(ProcArrayLock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];

		if (proc->databaseId == database && has_temporary(proc))
			(void) SendProcSignal(proc->pid, PROCSIG_CATCHUP_INTERRUPT, -1);
	}
	LWLockRelease(ProcArrayLock);
}

/*
 * Count a rewind of a database, whose gate is shut: its sessions forget their
 * cached sequence values before they go on.
 */
void
gate_announce(Oid database)
{
	pg_atomic_fetch_add_u32(rewind_counter(database), 1);
}

/*
 * Open the gate of a database, and wake the sessions that wait at it.
 * Returns the number of sessions that have waited.
 */
uint32
gate_open(Oid database)
{
	Gate	   *gate = find_gate(database);
	uint32		waits;

	if (gate == NULL)
		return 0;
	waits = pg_atomic_read_u32(&gate->waits);
	pg_write_barrier();
	pg_atomic_write_u32(&gate->database, InvalidOid);
	pg_atomic_fetch_sub_u32(&gates->nclosed, 1);
	pg_memory_barrier();
	wake_sessions(database, true);
	return waits;
}

/*
 * Open the gates that are CLOSING, because worker 0 exits.
 */
void
gate_open_all(void)
{
	for (int i = 0; i < GATE_MAX; i++)
	{
		Oid			database = pg_atomic_read_u32(&gates->gates[i].database);

		if (OidIsValid(database) &&
			pg_atomic_read_u32(&gates->gates[i].state) == GATE_CLOSING)
			(void) gate_open(database);
	}
}

/*
 * Count this session as one that waits at the gate of its database.  Until
 * gate_unpark it must neither access the database nor accept invalidation
 * messages; it has no snapshot and no lock.
 */
void
gate_park(void)
{
	Assert(my_place() < MaxBackends);
	pg_atomic_write_u32(&gates->parked[my_place()], MyDatabaseId);
	pg_memory_barrier();
}

/*
 * End the waiting of gate_park; gate_pass() must follow before anything is
 * accessed.
 */
void
gate_unpark(void)
{
	pg_atomic_write_u32(&gates->parked[my_place()], InvalidOid);
	pg_memory_barrier();
}
