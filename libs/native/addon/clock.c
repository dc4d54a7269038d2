/* The clock. */
#define _GNU_SOURCE
#include <time.h>
#include "verbs.h"

/* clockMicros(): CLOCK_MONOTONIC in microseconds, wrapped to int32; subtract with |0 */
static napi_value ClockMicros(napi_env env, napi_callback_info info) {
  (void)info;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  napi_value out;
  napi_create_int32(env, (int32_t)(uint32_t)((uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u), &out);
  return out;
}

/* clockNanos(): the same clock in nanoseconds, wrapped to int32, which it does every 4.3 s; subtract with |0 */
static napi_value ClockNanos(napi_env env, napi_callback_info info) {
  (void)info;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  napi_value out;
  napi_create_int32(env, (int32_t)(uint32_t)((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec), &out);
  return out;
}

const verb_t clock_verbs[] = {
    {"clockMicros", ClockMicros},
    {"clockNanos", ClockNanos},
    {NULL, NULL},
};
