/*-------------------------------------------------------------------------
 *
 * memory.h
 *	  The memory that the machine and the container have left.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_MEMORY_H
#define TESTDB_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The tightest limit on the memory of this process, and what is left of it. */
typedef struct MemoryRoom
{
	int64_t		free;			/* bytes that can be allocated without
								 * swapping */
	int64_t		total;			/* the limit, in bytes */
	bool		container;		/* it is the limit of a control group, not the
								 * machine's memory */
} MemoryRoom;

extern bool memory_get_room(const char *root, MemoryRoom *room);
extern int64_t memory_get_untouched(const void *start, size_t size);

#endif							/* TESTDB_MEMORY_H */
