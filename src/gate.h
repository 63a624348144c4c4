/*-------------------------------------------------------------------------
 *
 * gate.h
 *	  Holding the sessions of a database at the start of their next
 *	  transaction.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_GATE_H
#define TESTDB_GATE_H

/* Maximum number of databases whose gate is closed at one time. */
#define GATE_MAX		64

/* The sessions in a database, as found by gate_look(). */
typedef struct GateView
{
	int			running;		/* in a transaction, and not at the gate */
	int			temporary;		/* connected, with temporary tables */
	int			parked;			/* at the gate */
	bool		idle;			/* all others have nothing left to do; only
								 * set if running is 0 */
	bool		active;			/* a client backend is between two
								 * transactions of its command, or about to
								 * begin the first, or done; only set if
								 * running is 0 */
	bool		reported;		/* another process, such as a background
								 * worker, reports that it is active; only set
								 * if running is 0 */
} GateView;

extern void gate_shmem_request(void);
extern void gate_shmem_init(void);
extern void gate_install(void);
extern void gate_learn(void);

/* for the worker that rewinds */
extern bool gate_close(Oid database);
extern void gate_remind(Oid database);
extern void gate_shut(Oid database, bool shut);
extern void gate_look(Oid database, GateView *view);
extern char *gate_describe(Oid database, bool terminate);
extern void gate_end_temporary(Oid database);
extern void gate_lose(Oid database);
extern void gate_announce(Oid database);
extern uint32 gate_open(Oid database);
extern void gate_open_all(void);

/* for a session that has its own database rewound */
extern void gate_park(void);
extern void gate_unpark(void);
extern void gate_pass(void);
extern void gate_catch_up(void);

#endif							/* TESTDB_GATE_H */
