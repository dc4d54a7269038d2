/* Mappings, array buffers over them, and the guard against memory that vanishes. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include "verbs.h"

/* mapShared(fd, offsetBytes, lengthBytes): address */
static napi_value MapShared(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), off = num(&c, 1), len = num(&c, 2);
  CHECK(c);
  void *p = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : MAP_POPULATE),
                 (int)fd, off);
  return p == MAP_FAILED ? ret(env, -errno) : ret(env, (int64_t)(uintptr_t)p);
}

/* Address space that all threads have reserved: whoever makes many great spans must not leave none for the others.
 * V8 strews its pages over the lower 64 of the 128 TiB of a process, so the upper half is what is sure to have room;
 * a half of that for great spans leaves as much to ordinary guests, whatever the others do. */
#define ORDINARY_SPAN (64ull << 30)
#define GREAT_SPANS_MAX (32ull << 40)
#define SPANS_MAX (64ull << 40)
static _Atomic uint64_t spans, great_spans;

static int take(_Atomic uint64_t *total, uint64_t len, uint64_t max) {
  if (atomic_fetch_add(total, len) + len <= max) return 1;
  atomic_fetch_sub(total, len);
  return 0;
}

static int take_span(uint64_t len) {
  int great = len > ORDINARY_SPAN;
  if (great && !take(&great_spans, len, GREAT_SPANS_MAX)) return 0;
  if (take(&spans, len, SPANS_MAX)) return 1;
  if (great) atomic_fetch_sub(&great_spans, len);
  return 0;
}

static void give_span(uint64_t len) {
  if (len > ORDINARY_SPAN) atomic_fetch_sub(&great_spans, len);
  atomic_fetch_sub(&spans, len);
}

/* reserve(lengthBytes): address of an inaccessible span, aligned to 4 GiB; -EDQUOT when there are too many */
static napi_value Reserve(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t len = num(&c, 0);
  CHECK(c);
  const uint64_t align = 1ull << 32;
  if (len <= 0 || (uint64_t)len > (1ull << 46)) return ret(env, -EINVAL);
  if (!take_span((uint64_t)len)) return ret(env, -EDQUOT);
  size_t total = (size_t)len + align;
  uint8_t *p = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    int error = errno;
    give_span((uint64_t)len);
    return ret(env, -error);
  }
  uint8_t *base = (uint8_t *)(((uintptr_t)p + align - 1) & ~(align - 1));
  if (base > p) munmap(p, (size_t)(base - p));
  uint8_t *end = base + len;
  if (p + total > end) munmap(end, (size_t)(p + total - end));
  return ret(env, (int64_t)(uintptr_t)base);
}

/* unreserve(address, lengthBytes): gives a whole span back, with all that is mapped into it */
static napi_value Unreserve(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  void *at = ptr(&c, 0);
  int64_t len = num(&c, 1);
  CHECK(c);
  if (munmap(at, (size_t)len) < 0) return ret(env, -errno);
  give_span((uint64_t)len);
  return ret(env, 0);
}

/* mapFixed(address, lengthBytes, fd, offsetBytes): maps a file, shared, over a part of a reserved span */
static napi_value MapFixed(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  void *at = ptr(&c, 0);
  int64_t len = num(&c, 1), fd = num(&c, 2), off = num(&c, 3);
  CHECK(c);
  void *p = mmap(at, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, (int)fd, off);
  if (p == MAP_FAILED) return ret(env, -errno);
  madvise(p, (size_t)len, MADV_DONTDUMP);
  return ret(env, 0);
}

/* unmap(address, lengthBytes) */
static napi_value Unmap(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  void *at = ptr(&c, 0);
  int64_t len = num(&c, 1);
  CHECK(c);
  return sys(env, munmap(at, (size_t)len));
}

static void keep(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  (void)hint;
}

/* view(address, lengthBytes): ArrayBuffer over that memory; the caller detaches it before unmapping
 *
 * V8 takes the bytes of an external buffer for memory that a garbage collection might free, and collects as soon as
 * 64 MiB have come since the last one. Nothing of ours would be freed, so views are discounted once they exist, and
 * counted in again before they end: those of less than 64 MiB never cause a collection. */
static napi_value View(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  void *at = ptr(&c, 0);
  int64_t len = num(&c, 1);
  CHECK(c);
  napi_value out;
  if (napi_create_external_arraybuffer(env, at, (size_t)len, keep, NULL, &out) != napi_ok) {
    napi_throw_error(env, NULL, "this Node.js cannot make external array buffers");
    return NULL;
  }
  int64_t total;
  napi_adjust_external_memory(env, -len, &total);
  return out;
}

/* detach(buffer), of one that `view` made: every typed array over it has length 0 from now on */
static napi_value Detach(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  size_t len;
  if (c.bad || c.argc < 1) return bad_args(env);
  if (napi_get_arraybuffer_info(env, c.argv[0], NULL, &len) != napi_ok) return ret(env, -EINVAL);
  int64_t total;
  napi_adjust_external_memory(env, (int64_t)len, &total);
  return ret(env, napi_detach_arraybuffer(env, c.argv[0]) == napi_ok ? 0 : -EINVAL);
}

/* addressOf(typed array): where its first byte is; stable only for memory that V8 does not move (view, allocate) */
static napi_value AddressOf(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  size_t n;
  uint8_t *p = bytes(&c, 0, &n);
  CHECK(c);
  return ret(env, (int64_t)(uintptr_t)p);
}

/* peek(address, into, offset, length) and poke(address, from, offset, length): plain copies */
static napi_value copy(napi_env env, napi_callback_info info, int out) {
  call_t c = begin(env, info);
  uint8_t *at = ptr(&c, 0);
  size_t n;
  uint8_t *b = bytes(&c, 1, &n);
  int64_t off = num(&c, 2), len = num(&c, 3);
  if (c.bad || off < 0 || len < 0 || (uint64_t)off + (uint64_t)len > n) return bad_args(env);
  if (out) memcpy(at, b + off, (size_t)len);
  else memcpy(b + off, at, (size_t)len);
  return ret(env, len);
}
static napi_value Peek(napi_env env, napi_callback_info info) { return copy(env, info, 0); }
static napi_value Poke(napi_env env, napi_callback_info info) { return copy(env, info, 1); }

/* ---- SIGBUS guard --------------------------------------------------------------------------------------------- */

/* A front-end may truncate the memory it shared; touching it then raises SIGBUS. The handler maps a zero page over
 * the fault, counts it for that span, and the interrupted load or store simply runs again. */
#define GUARDS 8192
static struct {
  _Atomic uintptr_t start;
  _Atomic uintptr_t end;
  _Atomic uintptr_t page;
} guards[GUARDS];
static _Atomic int32_t guard_faults[GUARDS + 1]; /* [0] all, [slot + 1] each */
static struct sigaction guard_previous;
static atomic_flag guard_installed = ATOMIC_FLAG_INIT;

static void on_sigbus(int signo, siginfo_t *si, void *context) {
  (void)context;
  uintptr_t at = (uintptr_t)si->si_addr;
  for (int i = 0; i < GUARDS; i++) {
    uintptr_t start = atomic_load(&guards[i].start);
    if (!start || at < start || at >= atomic_load(&guards[i].end)) continue;
    uintptr_t page = atomic_load(&guards[i].page);
    void *p = mmap((void *)(at & ~(page - 1)), page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) break;
    atomic_fetch_add(&guard_faults[i + 1], 1);
    atomic_fetch_add(&guard_faults[0], 1);
    return;
  }
  sigaction(signo, &guard_previous, NULL); /* not ours: the fault repeats and takes its usual course */
}

/* guardAdd(address, lengthBytes, pageBytes): slot */
static napi_value GuardAdd(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t at = num(&c, 0), len = num(&c, 1), page = num(&c, 2);
  CHECK(c);
  if (!atomic_flag_test_and_set(&guard_installed)) {
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_sigbus;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGBUS, &sa, &guard_previous) < 0) return ret(env, -errno);
  }
  for (int i = 0; i < GUARDS; i++) {
    uintptr_t none = 0;
    /* 1 is a claim that matches no address: end is still 0. */
    if (!atomic_compare_exchange_strong(&guards[i].start, &none, 1)) continue;
    atomic_store(&guard_faults[i + 1], 0);
    atomic_store(&guards[i].page, (uintptr_t)page);
    atomic_store(&guards[i].end, (uintptr_t)(at + len));
    atomic_store(&guards[i].start, (uintptr_t)at);
    return ret(env, i);
  }
  return ret(env, -ENOSPC);
}

/* guardRemove(slot) */
static napi_value GuardRemove(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t i = num(&c, 0);
  CHECK(c);
  if (i < 0 || i >= GUARDS) return ret(env, -EINVAL);
  atomic_store(&guards[i].end, 0);
  atomic_store(&guards[i].start, 0);
  return ret(env, 0);
}

/* guardFaults(): ArrayBuffer of int32: [0] faults in all, [slot + 1] faults of one span */
static napi_value GuardFaults(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value out;
  napi_create_external_arraybuffer(env, (void *)guard_faults, sizeof guard_faults, keep, NULL, &out);
  return out;
}

const verb_t memory_verbs[] = {
    {"mapShared", MapShared},
    {"reserve", Reserve},
    {"unreserve", Unreserve},
    {"mapFixed", MapFixed},
    {"unmap", Unmap},
    {"view", View},
    {"detach", Detach},
    {"addressOf", AddressOf},
    {"peek", Peek},
    {"poke", Poke},
    {"guardAdd", GuardAdd},
    {"guardRemove", GuardRemove},
    {"guardFaults", GuardFaults},
    {NULL, NULL},
};
