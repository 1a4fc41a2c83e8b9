/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

/* The value of a call, which must be the one expected. */
#define IS(call, expected)                                                                             \
    do {                                                                                               \
        long long got_ = (long long)(call), want_ = (long long)(expected);                             \
        if (got_ != want_) {                                                                           \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #call, got_, want_);  \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

#define HOLDS(condition) IS(!!(condition), 1)

#endif
