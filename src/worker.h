/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background workers.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_WORKER_H
#define TESTDB_WORKER_H

extern void worker_register_all(void);

#endif							/* TESTDB_WORKER_H */
