/* Files without a name. */
#ifndef HYPURA_NAMELESS_H
#define HYPURA_NAMELESS_H

/* Opens an empty file, in memory if the system supports that. Returns its descriptor; on failure a negative value, with
 * errno set. */
int file_nameless(void);

#endif
