// A check that ends the program with its line.
#ifndef TESTS_KERNELS_CHECK_H_
#define TESTS_KERNELS_CHECK_H_
#include <cstdio>
#include <cstdlib>
#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)
#endif
