/* The version that a program is compiled with, and the one that it runs with.
 *
 * Versions with the same major number are compatible: functions and fields are added, never changed or removed. Before
 * 1.0.0 that holds for versions with the same minor number.
 */
#ifndef HYPURA_API_VERSION_H
#define HYPURA_API_VERSION_H

#include <hypura/export.h>

HYPURA_BEGIN

#define HYPURA_VERSION_MAJOR 0
#define HYPURA_VERSION_MINOR 1
#define HYPURA_VERSION_PATCH 0

/* One number that grows with the version: for #if, and to compare with hypura_version_number(). */
#define HYPURA_VERSION_NUMBER (HYPURA_VERSION_MAJOR * 10000 + HYPURA_VERSION_MINOR * 100 + HYPURA_VERSION_PATCH)

/* Of the library that is loaded: "0.1.0", and 100 for it. */
HYPURA_API const char *hypura_version(void);
HYPURA_API unsigned hypura_version_number(void);

HYPURA_END
#endif
