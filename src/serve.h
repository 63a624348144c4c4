/*-------------------------------------------------------------------------
 *
 * serve.h
 *	  CREATE DATABASE and DROP DATABASE, served by testdb's workers.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SERVE_H
#define TESTDB_SERVE_H

extern void serve_install_hooks(void);

#endif							/* TESTDB_SERVE_H */
