/*-------------------------------------------------------------------------
 *
 * mount.c
 *	  Mounted file systems and their options.
 *
 * Plain POSIX: no header of PostgreSQL here.  The table is Linux's
 * /proc/self/mountinfo; see proc_pid_mountinfo(5).  A line:
 *
 *	36 35 98:0 /root /mnt rw,noatime shared:1 - tmpfs none rw,huge=always
 *
 * The third field is the device.  The fields before the single hyphen
 * describe the mount; those after it the file system, which may be mounted
 * several times: type, source, and options.
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
 * Report whether a word is in a comma-separated list.
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
 * Report whether a line of the table is for this device, with this type and
 * this option.  The line is modified.
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
 * Report whether, according to table (a file), the device is a file system of
 * this type that has this option.  False if there is no such file.
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

/*
 * Replace the table's escapes for white space and backslashes, which are
 * three octal digits after a backslash, by the characters, in place.
 */
static void
unescape(char *path)
{
	char	   *to = path;

	for (const char *from = path; *from != '\0'; to++)
	{
		unsigned	code;

		if (*from == '\\' && sscanf(from + 1, "%3o", &code) == 1)
		{
			*to = (char) code;
			from += 4;
		}
		else
			*to = *from++;
	}
	*to = '\0';
}

/*
 * If a line of the table is a mount of a file system of this type, with this
 * option unless it is NULL, describe it in *place.  The line is modified.
 */
static bool
read_mount(char *line, const char *type, const char *option, MountPlace *place)
{
	char	   *save;
	char	   *after = strstr(line, " - ");
	char	   *word;

	if (after == NULL)
		return false;
	*after = '\0';
	after += 3;
	after[strcspn(after, "\n")] = '\0';
	word = strtok_r(after, " ", &save);
	if (word == NULL || strcmp(word, type) != 0 || strtok_r(NULL, " ", &save) == NULL)
		return false;
	word = strtok_r(NULL, " ", &save);
	if (option != NULL && (word == NULL || !has_word(word, option)))
		return false;

	word = strtok_r(line, " ", &save);
	for (int i = 0; i < 3 && word != NULL; i++)
		word = strtok_r(NULL, " ", &save);
	if (word == NULL || snprintf(place->root, PATH_MAX, "%s", word) >= PATH_MAX)
		return false;
	word = strtok_r(NULL, " ", &save);
	if (word == NULL || snprintf(place->point, PATH_MAX, "%s", word) >= PATH_MAX)
		return false;
	unescape(place->root);
	unescape(place->point);
	return true;
}

/*
 * Find such a mount in table (a file): see read_mount.  number is how many of
 * them precede it there.  False if there is none, or no such file.
 */
bool
mount_find(const char *table, const char *type, const char *option,
		   int number, MountPlace *place)
{
	FILE	   *file = fopen(table, "r");
	char	   *line = NULL;
	size_t		size = 0;
	bool		found = false;

	if (file == NULL)
		return false;
	while (!found && getline(&line, &size, file) > 0)
		found = read_mount(line, type, option, place) && number-- == 0;
	free(line);
	fclose(file);
	return found;
}
