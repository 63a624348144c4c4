/*-------------------------------------------------------------------------
 *
 * mount.c
 *	  With what options a file system is mounted.
 *
 * Plain POSIX, as it has no need of a server.  The table is Linux's
 * /proc/self/mountinfo; see proc_pid_mountinfo(5).  A line:
 *
 *	36 35 98:0 /root /mnt rw,noatime shared:1 - tmpfs none rw,huge=always
 *
 * The third field is the device; the words before the lone hyphen are about the
 * place, of which a file system may have several; after it come its type, its
 * source and its own options.
 *
 * Copyright (c) 2026, testdb contributors
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

#include "mount.h"

/*
 * Is this word in a list that is separated by commas?
 */
static bool
has_word(const char *list, const char *word)
{
	size_t		length = strlen(word);

	for (const char *at = list; at != NULL; at = strchr(at, ','))
	{
		if (*at == ',')
			at++;
		if (strncmp(at, word, length) == 0 &&
			(at[length] == ',' || at[length] == '\0'))
			return true;
	}
	return false;
}

/*
 * Does a line of the table say of the device that it is of this type and has
 * this option?  The line is changed.
 */
static bool
line_has_option(char *line, dev_t device, const char *type, const char *option)
{
	unsigned	major_number;
	unsigned	minor_number;
	char	   *save;
	char	   *word;

	if (sscanf(line, "%*u %*u %u:%u ", &major_number, &minor_number) != 2 ||
		makedev(major_number, minor_number) != device)
		return false;
	line[strcspn(line, "\n")] = '\0';
	word = strstr(line, " - ");
	if (word == NULL)
		return false;
	word = strtok_r(word + 3, " ", &save);
	if (word == NULL || strcmp(word, type) != 0)
		return false;
	if (strtok_r(NULL, " ", &save) == NULL)
		return false;
	word = strtok_r(NULL, " ", &save);
	return word != NULL && has_word(word, option);
}

/*
 * Does the table of mounts, a file, say that the device is a file system of this
 * type that has this option?  False if there is no such table.
 */
bool
mount_has_option(const char *table, dev_t device, const char *type,
				 const char *option)
{
	FILE	   *file = fopen(table, "r");
	char	   *line = NULL;
	size_t		size = 0;
	bool		found = false;

	if (file == NULL)
		return false;
	while (!found && getline(&line, &size, file) > 0)
		found = line_has_option(line, device, type, option);
	free(line);
	fclose(file);
	return found;
}
