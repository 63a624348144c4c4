/*-------------------------------------------------------------------------
 *
 * testdb.c
 *	  Hands out copies of template databases to test suites.
 *
 * This file only wires the parts together: settings, shared memory, hooks,
 * workers.  The head of each file describes it; request.c is a good place to
 * begin.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"

#include "build.h"
#include "compat.h"
#include "connect.h"
#include "exits.h"
#include "freshness.h"
#include "gate.h"
#include "guard.h"
#include "guc.h"
#include "registry.h"
#include "request.h"
#include "serve.h"
#include "space.h"
#include "start.h"
#include "testdb.h"
#include "version.h"
#include "worker.h"

TESTDB_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static bool preloaded = false;

/*
 * shmem_request_hook: request shared memory and locks.
 */
static void
testdb_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	registry_shmem_request();
	request_shmem_request();
	start_shmem_request();
	exits_shmem_request();
	space_shmem_request();
	gate_shmem_request();
	connect_shmem_request();
	build_shmem_request();
}

/*
 * shmem_startup_hook: create the shared memory, or attach to it.
 */
static void
testdb_shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	registry_shmem_init();
	request_shmem_init();
	start_shmem_init();
	exits_shmem_init();
	space_shmem_init();
	gate_shmem_init();
	connect_shmem_init();
	build_shmem_init();
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Raise an error, 55000, if the library was not preloaded, so that there is
 * neither shared memory nor a worker; or if the extension that the function
 * belongs to has another version.
 */
void
testdb_check_library(void)
{
	if (!preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("testdb must be loaded via \"%s\"",
						"shared_preload_libraries"),
				 errhint("Add \"testdb\" to \"shared_preload_libraries\" and restart the server.")));
	version_check();
}

/*
 * Called when the library is loaded.
 *
 * If loaded by a single session, it defines nothing, so that its functions
 * can report what is missing.
 */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	preloaded = true;

	guc_define();

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = testdb_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = testdb_shmem_startup;
	freshness_install_hooks();
	gate_install();
	guard_install_hooks();
	serve_install_hooks();
	version_install_hooks();

	/* pg_upgrade wants no other process to write to its clusters. */
	if (!IsBinaryUpgrade)
		worker_register_all();
}
