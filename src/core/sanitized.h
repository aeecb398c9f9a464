/* SANITIZED: whether a sanitizer is built in. A sanitizer takes many times the program's own memory. So in such builds
 * memory_resident_bytes returns the allocated bytes, without code and libraries, and budgets are planned with these. */
#ifndef HYPURA_CORE_SANITIZED_H
#define HYPURA_CORE_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
