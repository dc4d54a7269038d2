/* io_uring: the system calls; the queues themselves are filled and emptied in TypeScript. */
#define _GNU_SOURCE
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "verbs.h"

/* ringSetup(entries, cqEntries, flags, out: Uint32Array(30)): fd; out = struct io_uring_params, 120 bytes. */
static napi_value RingSetup(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  struct io_uring_params p;
  memset(&p, 0, sizeof p);
  int64_t entries = num(&c, 0);
  p.cq_entries = (uint32_t)num(&c, 1);
  p.flags = (uint32_t)num(&c, 2);
  size_t n;
  uint8_t *out = bytes(&c, 3, &n);
  if (c.bad || n < sizeof p) return bad_args(env);
  long fd = syscall(__NR_io_uring_setup, (unsigned)entries, &p);
  if (fd < 0) return ret(env, -errno);
  memcpy(out, &p, sizeof p);
  return ret(env, fd);
}

/* What a thread's ring and its enter tell each other, as 32-bit words; the same in libs/native/src/io-uring.ts. */
typedef struct {
  uint32_t fd, sq_tail, cq_head, wanted_flags;          /* in */
  uint32_t sq_head, cq_tail, sq_flags, entered, left;   /* out; the last two are clock readings in microseconds */
  uint32_t at_sq_head, at_sq_tail, at_sq_flags, at_cq_head, at_cq_tail; /* where the shared words are, from `ring` */
  uint64_t ring;                                        /* address of the mapping */
} enter_t;

static uint32_t micros(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint32_t)((uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u);
}

/* ringEnter(state, minComplete, timeoutMicros): submits all up to sq_tail, and waits for so many completions, for so
 * long when that is not 0 (-ETIME). Asks for what the kernel holds back when the ring's flags say so. */
static napi_value RingEnter(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  enter_t *e = ptr(&c, 0);
  int64_t min = num(&c, 1), us = num(&c, 2);
  CHECK(c);
#define WORD(name) ((_Atomic uint32_t *)(uintptr_t)(e->ring + e->at_##name))
  unsigned flags = min > 0 || (atomic_load_explicit(WORD(sq_flags), memory_order_acquire) & e->wanted_flags)
                       ? IORING_ENTER_GETEVENTS
                       : 0;
  unsigned submit = e->sq_tail - atomic_load_explicit(WORD(sq_head), memory_order_acquire);
  atomic_store_explicit(WORD(cq_head), e->cq_head, memory_order_release);
  atomic_store_explicit(WORD(sq_tail), e->sq_tail, memory_order_release);
  struct __kernel_timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (us % 1000000) * 1000};
  struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&ts};
  e->entered = micros();
  long result = us > 0 ? syscall(__NR_io_uring_enter, e->fd, submit, (unsigned)min, flags | IORING_ENTER_EXT_ARG, &arg,
                                 sizeof arg)
                       : syscall(__NR_io_uring_enter, e->fd, submit, (unsigned)min, flags, NULL, 0);
  int error = errno;
  e->left = micros();
  e->sq_head = atomic_load_explicit(WORD(sq_head), memory_order_acquire);
  e->cq_tail = atomic_load_explicit(WORD(cq_tail), memory_order_acquire);
  e->sq_flags = atomic_load_explicit(WORD(sq_flags), memory_order_acquire);
#undef WORD
  return ret(env, result < 0 ? -error : result);
}

/* ringRegister(fd, opcode, address, count) */
static napi_value RingRegister(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), op = num(&c, 1);
  void *arg = ptr(&c, 2);
  int64_t n = num(&c, 3);
  CHECK(c);
  return sys(env, syscall(__NR_io_uring_register, (int)fd, (unsigned)op, arg, (unsigned)n));
}

const verb_t uring_verbs[] = {
    {"ringSetup", RingSetup},
    {"ringEnter", RingEnter},
    {"ringRegister", RingRegister},
    {NULL, NULL},
};
