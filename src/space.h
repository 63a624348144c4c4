/*-------------------------------------------------------------------------
 *
 * space.h
 *	  Space in the data directory's file system: reservations and a reserve.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#ifndef TESTDB_SPACE_H
#define TESTDB_SPACE_H

extern Size space_shmem_size(void);
extern void space_shmem_request(void);
extern void space_shmem_init(void);

extern void space_take_place(int index);
extern void space_reserve(uint64 bytes, uint64 files,
						  uint64 *other_bytes, uint64 *other_files);
extern void space_get_reserved(uint64 *bytes, uint64 *files);
extern void space_release(void);
extern uint64 space_reserve_kept(uint64 bytes);
extern void space_keep_reserve(void);
extern bool space_give_reserve(void);
extern void space_remove_reserve(void);

/* What is kept in reserve, in files of equal size. */
#define SPACE_RESERVE_FILES		32
#define SPACE_RESERVE_BYTES		(4 * 1024 * 1024)

extern bool database_is_full(void);
extern bool database_make_checkpoint_room(void);
extern int64 space_get_free(void);
extern char *space_describe(void);
extern bool database_has_space(uint64 bytes, uint64 files);
extern bool database_reserve_space(uint64 bytes, uint64 files);
extern ErrorData *database_space_error(const char *name, uint64 bytes, uint64 files);
extern void database_check_space(const char *name, uint64 bytes, uint64 files);

#endif							/* TESTDB_SPACE_H */
