/*-------------------------------------------------------------------------
 *
 * mount_test.c
 *	  Tests of mount.c, without a server.  Prints TAP.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "mount.h"

static int	ntests = 0;
static int	nfailed = 0;

/*
 * Look for huge=always on the tmpfs 0:52 in a table of this content.
 */
static void
expect(bool expected, const char *title, const char *content)
{
	char		path[] = "/tmp/mount_test.XXXXXX";
	int			fd = mkstemp(path);
	bool		found;

	if (fd < 0 || write(fd, content, strlen(content)) != (ssize_t) strlen(content))
	{
		perror(path);
		exit(1);
	}
	close(fd);
	found = mount_has_option(path, makedev(0, 52), "tmpfs", "huge=always");
	unlink(path);
	ntests++;
	if (found != expected)
		nfailed++;
	printf("%sok %d - %s\n", found == expected ? "" : "not ", ntests, title);
}

int
main(void)
{
	struct stat st;
	char		longest[20000];

	expect(true, "by itself",
		   "36 35 0:52 / /mnt rw - tmpfs tmpfs rw,huge=always\n");
	expect(true, "in the middle of the options, after other mounts",
		   "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
		   "36 22 0:52 / /mnt rw,nosuid shared:3 master:1 - tmpfs none rw,size=1g,huge=always,inode64\n");
	expect(true, "no line end", "36 35 0:52 / /mnt rw - tmpfs none rw,huge=always");
	expect(true, "one of several places of a file system",
		   "36 35 0:52 /a /mnt rw - tmpfs none rw,huge=always\n36 35 0:52 /b /a\\040b rw - tmpfs none rw,huge=always\n");
	expect(false, "another device", "36 35 0:53 / /mnt rw - tmpfs none rw,huge=always\n");
	expect(false, "a device that begins the same", "36 35 0:521 / /mnt rw - tmpfs none rw,huge=always\n");
	expect(false, "another type", "36 35 0:52 / /mnt rw - ext4 none rw,huge=always\n");
	expect(false, "another value", "36 35 0:52 / /mnt rw - tmpfs none rw,huge=within_size\n");
	expect(false, "a longer value", "36 35 0:52 / /mnt rw - tmpfs none rw,huge=always2\n");
	expect(false, "an option of the place", "36 35 0:52 / /mnt rw,huge=always - tmpfs none rw\n");
	expect(false, "a source of that name", "36 35 0:52 / /mnt rw - tmpfs huge=always rw\n");
	expect(false, "no options", "36 35 0:52 / /mnt rw - tmpfs none\n");
	expect(false, "no source", "36 35 0:52 / /mnt rw - tmpfs\n");
	expect(false, "no hyphen", "36 35 0:52 / /mnt rw\n");
	expect(false, "nonsense", "nonsense\n\n - \n0:52 tmpfs huge=always\n");
	expect(false, "nothing", "");

	memset(longest, 'x', sizeof(longest));
	strcpy(longest + sizeof(longest) - 100, " rw - tmpfs none rw,huge=always\n");
	memcpy(longest, "36 35 0:52 / /", strlen("36 35 0:52 / /"));
	expect(true, "a long line", longest);

	ntests++;
	if (mount_has_option("/nowhere/mountinfo", makedev(0, 52), "tmpfs", "huge=always"))
		nfailed++, printf("not ");
	printf("ok %d - no table\n", ntests);

	/* The real one: /proc is what it says. */
	ntests++;
	if (stat("/proc", &st) != 0 ||
		!mount_has_option("/proc/self/mountinfo", st.st_dev, "proc", "rw"))
		nfailed++, printf("not ");
	printf("ok %d - the system's own table\n", ntests);

	printf("1..%d\n", ntests);
	return nfailed ? 1 : 0;
}
