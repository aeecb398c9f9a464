/* Files without a name. */
#ifndef HYPURA_NAMELESS_H
#define HYPURA_NAMELESS_H

/* A descriptor, of one in memory where the system has such; below 0: errno says why. */
int file_nameless(void);

#endif
