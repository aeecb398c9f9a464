/* The version that a program is compiled against, and the version of the library that it loads.
 *
 * Versions with the same major number are compatible: functions and fields are added, never changed or removed. Before
 * 1.0.0, this holds only for versions with the same minor number.
 */
#ifndef HYPURA_API_VERSION_H
#define HYPURA_API_VERSION_H

#include <hypura/export.h>

HYPURA_BEGIN

#define HYPURA_VERSION_MAJOR 0
#define HYPURA_VERSION_MINOR 1
#define HYPURA_VERSION_PATCH 0

/* The version as one number, for #if and for comparison with hypura_version_number(). */
#define HYPURA_VERSION_NUMBER (HYPURA_VERSION_MAJOR * 10000 + HYPURA_VERSION_MINOR * 100 + HYPURA_VERSION_PATCH)

/* The version of the loaded library, such as "0.1.0", and as a number, such as 100. */
HYPURA_API const char *hypura_version(void);
HYPURA_API unsigned hypura_version_number(void);

HYPURA_END
#endif
