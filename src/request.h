/*-------------------------------------------------------------------------
 *
 * request.h
 *	  How a session sends a request to a background worker and gets the
 *	  answer.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_REQUEST_H
#define TESTDB_REQUEST_H

#include "datatype/timestamp.h"
#include "registry.h"

typedef enum RequestKind
{
	REQUEST_CLONE,
	REQUEST_SPARE,				/* create a spare; else as CLONE */
	REQUEST_DROP,
	REQUEST_RESET,				/* database is the clone, as for DROP */
	REQUEST_REWIND,				/* the same, by worker 0 only */
	REQUEST_SEAL				/* database is a template being built */
} RequestKind;

/* The columns of a database's row that CREATE DATABASE sets. */
typedef struct RowOptions
{
	bool		is_template;
	bool		allow_connections;
	int			connection_limit;
	NameData	collation_version;	/* "" if it has none */
} RowOptions;

/* A request. */
typedef struct RequestArgs
{
	RequestKind kind;
	Oid			role;			/* the caller; CLONE, served: the new owner */
	bool		served;			/* CLONE, DROP: for CREATE or DROP DATABASE */
	Oid			caller;			/* CLONE, served: the caller */
	RowOptions	row;			/* CLONE, served */
	Oid			database;		/* CLONE: the template; DROP: the clone */
	uint64		lease;			/* the lease that database must have; 0 if it
								 * was not created by testdb */
	bool		let_left;		/* DROP, RESET: database_let_leave has been
								 * called */
	NameData	database_name;	/* the name used by the caller, for messages */
	int			method;			/* CLONE: a TestdbMethod */
	int			role_limit;		/* CLONE: maximum number of the role's clones,
								 * or 0 */
	int			wanted;			/* SPARE: target number of spares */
	bool		name_given;		/* CLONE: is the name specified? */
	NameData	name;			/* CLONE: the specified name */
	LeaseTerms	terms;			/* CLONE: terms of the lease */
	int			wait_ms;		/* REWIND: how long to wait for transactions */
	bool		force;			/* REWIND: terminate the sessions then */
} RequestArgs;

#define REQUEST_NOTICE_SIZE		512 /* bytes */

/* The answer to it. */
typedef struct RequestResult
{
	bool		busy;			/* CLONE: the template is in use; SEAL; DROP,
								 * served: the database is */
	int			nprepared;		/* CLONE, SEAL, busy: number of prepared
								 * transactions in it */
	bool		missing;		/* DROP, SEAL: it no longer exists; SPARE, and
								 * CLONE if served: the native method cannot
								 * be used */
	Oid			oid;			/* CLONE: the new database */
	uint64		lease;			/* CLONE: the number of its lease */
	NameData	name;			/* CLONE: its name */
	char		notice[REQUEST_NOTICE_SIZE];	/* REWIND: terminated, or "" */
} RequestResult;

extern void request_shmem_request(void);
extern void request_shmem_init(void);

/* For sessions. */
extern void request_perform(const RequestArgs *args, TimestampTz deadline,
							RequestResult *result);
extern char *request_try_perform(const RequestArgs *args, TimestampTz deadline,
								 RequestResult *result);
extern void request_perform_parked(const RequestArgs *args, TimestampTz deadline,
								   RequestResult *result);

/* For workers. */
extern int	request_take(RequestArgs *args, bool rewinds);
extern bool request_is_unwanted(int slot);
extern void request_finish(int slot, const RequestResult *result);
extern void request_fail(int slot, const ErrorData *edata);
extern bool request_abandoned(int slot);
extern bool request_requeue(int slot);
extern bool request_begin_lock_wait(void);
extern void request_end_lock_wait(void);
extern void request_begin_turn(void);
extern void request_wait_for_work(long timeout_ms, bool rewinds, bool rewinding);
extern void request_wake_worker(void);
extern void request_wake_workers(void);
extern void request_worker_attach(int index, Oid database);
extern void request_worker_detach(int index);
extern int	request_workers_running(void);
extern bool request_first_worker_running(void);
extern Oid	request_worker_database(void);

/* For both. */
extern void request_audit(int *nused, int *nlost);

#endif							/* TESTDB_REQUEST_H */
