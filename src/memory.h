/*-------------------------------------------------------------------------
 *
 * memory.h
 *	  How much memory the machine and the container have left.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_MEMORY_H
#define TESTDB_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* What bounds the memory of this process, and how much of it is left. */
typedef struct MemoryRoom
{
	int64_t		free;			/* bytes that can be had without swapping */
	int64_t		total;			/* of how many */
	bool		container;		/* it is a control group's limit, and not what
								 * the machine has */
} MemoryRoom;

extern bool memory_get_room(const char *root, MemoryRoom *room);

#endif							/* TESTDB_MEMORY_H */
