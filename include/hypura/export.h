/* Macros that declare exported functions. Every public header includes this one. */
#ifndef HYPURA_API_EXPORT_H
#define HYPURA_API_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define HYPURA_API __attribute__((visibility("default")))
#else
#define HYPURA_API
#endif

#ifdef __cplusplus
#define HYPURA_BEGIN extern "C" {
#define HYPURA_END }
#else
#define HYPURA_BEGIN
#define HYPURA_END
#endif

#endif
