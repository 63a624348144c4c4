/*-------------------------------------------------------------------------
 *
 * connect.h
 *	  New sessions wait while a clone is being reset.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_CONNECT_H
#define TESTDB_CONNECT_H

extern void connect_shmem_request(void);
extern void connect_shmem_init(void);

/* for sessions */
extern void connect_wait(const char *name);
extern void connect_arrived(void);

/* for workers */
extern void connect_take_place(int index);
extern void connect_close(const char *name);
extern void connect_await_arrivals(const char *name, int timeout_ms);
extern void connect_open(void);
extern void connect_wake(void);

#endif							/* TESTDB_CONNECT_H */
