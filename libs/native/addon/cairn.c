/*
 * System calls behind flat verbs, for Node.js through Node-API. Every loop and every decision is in TypeScript.
 *
 * Conventions: a verb returns a number, the result (>= 0) or -errno. Addresses and sizes are JavaScript numbers
 * (user addresses are below 2^47, so exact). A wrong argument type throws TypeError and does nothing.
 * Memory verbs trust their caller (libs/virtio checks every guest address before it comes here).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <node_api.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id /* glibc before 2.39 */
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define MAX_ARGS 8
#define MAX_FDS 64

typedef struct {
  napi_env env;
  napi_value argv[MAX_ARGS];
  size_t argc;
  int bad;
} call_t;

static call_t begin(napi_env env, napi_callback_info info) {
  call_t c = {.env = env, .argc = MAX_ARGS, .bad = 0};
  if (napi_get_cb_info(env, info, &c.argc, c.argv, NULL, NULL) != napi_ok) c.bad = 1;
  return c;
}

static int64_t num(call_t *c, size_t i) {
  int64_t v = 0;
  if (i >= c->argc || napi_get_value_int64(c->env, c->argv[i], &v) != napi_ok) c->bad = 1;
  return v;
}

static void *ptr(call_t *c, size_t i) { return (void *)(uintptr_t)num(c, i); }

static char *str(call_t *c, size_t i, char *buf, size_t cap) {
  size_t n = 0;
  if (i >= c->argc || napi_get_value_string_utf8(c->env, c->argv[i], buf, cap, &n) != napi_ok) c->bad = 1;
  return buf;
}

/* Bytes of a typed array; *len is in bytes. */
static uint8_t *bytes(call_t *c, size_t i, size_t *len) {
  napi_typedarray_type type;
  size_t n = 0;
  void *data = NULL;
  if (i >= c->argc || napi_get_typedarray_info(c->env, c->argv[i], &type, &n, &data, NULL, NULL) != napi_ok) {
    c->bad = 1;
    *len = 0;
    return NULL;
  }
  size_t width = type == napi_uint8_array || type == napi_int8_array || type == napi_uint8_clamped_array ? 1
                 : type == napi_uint16_array || type == napi_int16_array                                 ? 2
                 : type == napi_float64_array || type == napi_bigint64_array || type == napi_biguint64_array ? 8
                                                                                                             : 4;
  *len = n * width;
  return data;
}

static napi_value ret(napi_env env, int64_t v) {
  napi_value out;
  napi_create_int64(env, v, &out);
  return out;
}

static napi_value sys(napi_env env, int64_t v) { return ret(env, v < 0 ? -errno : v); }

static napi_value bad_args(napi_env env) {
  napi_throw_type_error(env, NULL, "wrong argument types for a native verb");
  return NULL;
}

#define CHECK(c)                                                                                                       \
  if ((c).bad) return bad_args(env)

/* ---- io_uring ------------------------------------------------------------------------------------------------- */

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

/* ringEnter(fd, toSubmit, minComplete, flags) */
static napi_value RingEnter(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), submit = num(&c, 1), min = num(&c, 2), flags = num(&c, 3);
  CHECK(c);
  return sys(env, syscall(__NR_io_uring_enter, (int)fd, (unsigned)submit, (unsigned)min, (unsigned)flags, NULL, 0));
}

/* ringEnterTimeout(fd, toSubmit, minComplete, flags, timeoutMicros): -ETIME when the time ran out. */
static napi_value RingEnterTimeout(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), submit = num(&c, 1), min = num(&c, 2), flags = num(&c, 3), us = num(&c, 4);
  CHECK(c);
  struct __kernel_timespec ts = {.tv_sec = us / 1000000, .tv_nsec = (us % 1000000) * 1000};
  struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&ts};
  return sys(env, syscall(__NR_io_uring_enter, (int)fd, (unsigned)submit, (unsigned)min,
                          (unsigned)flags | IORING_ENTER_EXT_ARG, &arg, sizeof arg));
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

/* ---- memory --------------------------------------------------------------------------------------------------- */

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

/* ---- descriptors ---------------------------------------------------------------------------------------------- */

static napi_value Eventfd(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t flags = num(&c, 0);
  CHECK(c);
  return sys(env, eventfd(0, EFD_CLOEXEC | (int)flags));
}

/* signal(eventfd): adds one to an eventfd of ours; -EAGAIN when it is full and does not block */
static napi_value Signal(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  CHECK(c);
  uint64_t one = 1;
  ssize_t n = write((int)fd, &one, 8);
  return ret(env, n < 0 ? -errno : n);
}

/* An eventfd that another process handed over can be full and made to block at any time: its flags belong to the open
 * file, which that process still has, and no write to an eventfd can be told not to wait. So a thread that signals such
 * descriptors has a timer that interrupts it now and then. The timer stops itself once the thread has signalled nothing
 * for a whole period, so that an idle thread costs nothing. All of it belongs to the one thread: the handler runs on it.
 */
#define INTERRUPT_EVERY_NS 250000000
static _Thread_local struct {
  timer_t timer;
  volatile sig_atomic_t made, running;
  volatile sig_atomic_t inside, signalled; /* in a signal now; since the last interruption */
} guard __attribute__((tls_model("initial-exec")));
static pthread_key_t guard_key;
static pthread_once_t guard_once = PTHREAD_ONCE_INIT;

static void set_timer(long every_ns) {
  struct itimerspec every = {{0, every_ns}, {0, every_ns}};
  guard.running = timer_settime(guard.timer, 0, &every, NULL) == 0 && every_ns > 0;
}

static void on_interrupt(int signo) {
  (void)signo;
  int saved = errno;
  if (guard.running && !guard.inside && !guard.signalled) set_timer(0);
  guard.signalled = 0;
  errno = saved;
}

static void drop_guard(void *made) {
  (void)made;
  guard.running = guard.made = 0;
  timer_delete(guard.timer);
}

static void prepare_guards(void) {
  struct sigaction sa;
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = on_interrupt; /* without SA_RESTART: the write must end */
  sigemptyset(&sa.sa_mask);
  sigaction(SIGURG, &sa, NULL);
  pthread_key_create(&guard_key, drop_guard);
}

/* Makes this thread's timer run; 0 when it cannot be had (RLIMIT_SIGPENDING). */
static int watch_this_thread(void) {
  if (!guard.made) {
    pthread_once(&guard_once, prepare_guards);
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGURG;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_MONOTONIC, &event, &guard.timer) < 0) return 0;
    guard.made = 1;
    pthread_setspecific(guard_key, &guard); /* has drop_guard called when the thread ends */
  }
  set_timer(INTERRUPT_EVERY_NS);
  return guard.running;
}

/* signalForeign(eventfd): the same for one of another process, which cannot hold this thread for longer than a moment:
 * -EINTR when it is full and blocks, or -EAGAIN when there is no timer to find that out */
static napi_value SignalForeign(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  CHECK(c);
  guard.inside = 1;
  if (!guard.running && !watch_this_thread()) {
    struct pollfd room = {.fd = (int)fd, .events = POLLOUT};
    if (poll(&room, 1, 0) == 0) {
      guard.inside = 0;
      return ret(env, -EAGAIN);
    }
  }
  uint64_t one = 1;
  ssize_t n = write((int)fd, &one, 8);
  int e = errno;
  guard.signalled = 1;
  guard.inside = 0;
  return ret(env, n < 0 ? -e : n);
}

/* consume(eventfd): the counter, which is 0 from now on; -EAGAIN when it was 0 and the descriptor does not block */
static napi_value Consume(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  CHECK(c);
  uint64_t v = 0;
  ssize_t n = read((int)fd, &v, 8);
  return n < 0 ? ret(env, -errno) : ret(env, (int64_t)(v & ((1ull << 53) - 1)));
}

/* waitReadable(fd, timeoutMs): 1 readable, 0 time out; blocks the calling thread */
static napi_value WaitReadable(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), ms = num(&c, 1);
  CHECK(c);
  struct pollfd p = {.fd = (int)fd, .events = POLLIN};
  return sys(env, poll(&p, 1, (int)ms));
}

/* setNonblocking(fd, on) */
static napi_value SetNonblocking(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), on = num(&c, 1);
  CHECK(c);
  int flags = fcntl((int)fd, F_GETFL);
  if (flags < 0) return ret(env, -errno);
  return sys(env, fcntl((int)fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

/* memfd(name, sizeBytes): descriptor of anonymous shared memory */
static napi_value Memfd(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  char name[128];
  str(&c, 0, name, sizeof name);
  int64_t size = num(&c, 1);
  CHECK(c);
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ret(env, -errno);
  if (ftruncate(fd, size) < 0) {
    int e = errno;
    close(fd);
    return ret(env, -e);
  }
  return ret(env, fd);
}

/* ---- unix sockets --------------------------------------------------------------------------------------------- */

static int address(const char *path, struct sockaddr_un *a) {
  if (strlen(path) >= sizeof a->sun_path) return -ENAMETOOLONG;
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  strcpy(a->sun_path, path);
  return 0;
}

/* unixListen(path, backlog, mode): non-blocking listening socket; the file has that mode from its first moment on */
static napi_value UnixListen(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  char path[512];
  str(&c, 0, path, sizeof path);
  int64_t backlog = num(&c, 1), mode = num(&c, 2);
  CHECK(c);
  struct sockaddr_un a;
  int e = address(path, &a);
  if (e < 0) return ret(env, e);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ret(env, -errno);
  /* fchmod before bind decides the mode of the socket's file (unix(7)); the umask can only narrow it. */
  if (fchmod(fd, (mode_t)mode) < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, (int)backlog) < 0) {
    e = errno;
    close(fd);
    return ret(env, -e);
  }
  return ret(env, fd);
}

/* unixConnect(path): blocking socket */
static napi_value UnixConnect(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  char path[512];
  str(&c, 0, path, sizeof path);
  CHECK(c);
  struct sockaddr_un a;
  int e = address(path, &a);
  if (e < 0) return ret(env, e);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return ret(env, -errno);
  if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
    e = errno;
    close(fd);
    return ret(env, -e);
  }
  return ret(env, fd);
}

/* unixProbe(path): 1 somebody listens there, 0 nobody does (refused, or no such file), else -errno; never waits */
static napi_value UnixProbe(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  char path[512];
  str(&c, 0, path, sizeof path);
  CHECK(c);
  struct sockaddr_un a;
  int e = address(path, &a);
  if (e < 0) return ret(env, e);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ret(env, -errno);
  e = connect(fd, (struct sockaddr *)&a, sizeof a) < 0 ? errno : 0;
  close(fd);
  if (e == 0 || e == EAGAIN) return ret(env, 1); /* EAGAIN: its backlog is full */
  return ret(env, e == ECONNREFUSED || e == ENOENT ? 0 : -e);
}

/* accept(fd): non-blocking connection */
static napi_value Accept(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  CHECK(c);
  return sys(env, accept4((int)fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

/* socketPair(out: Int32Array(2)): 0 */
static napi_value SocketPair(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  size_t n;
  uint8_t *out = bytes(&c, 0, &n);
  if (c.bad || n < 2 * sizeof(int)) return bad_args(env);
  return sys(env, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, (int *)out));
}

/* receive(fd, into: Uint8Array, offset, length, fds: Int32Array(1 + max)): bytes, 0 at the end of the stream.
 * fds[0] = how many descriptors came, the rest are they; they belong to the caller. Never blocks on a non-blocking
 * socket. -EMFILE: descriptors came that this process had no room for; all that did come are closed. */
static napi_value Receive(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  size_t n, fn;
  uint8_t *b = bytes(&c, 1, &n);
  int64_t off = num(&c, 2), len = num(&c, 3);
  int32_t *fds = (int32_t *)bytes(&c, 4, &fn);
  if (c.bad || off < 0 || len < 0 || (uint64_t)off + (uint64_t)len > n || fn < 4) return bad_args(env);
  size_t room = fn / 4 - 1;
  fds[0] = 0;
  union {
    char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    struct cmsghdr align;
  } control;
  struct iovec iov = {.iov_base = b + off, .iov_len = (size_t)len};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control};
  ssize_t got;
  do got = recvmsg((int)fd, &m, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0) return ret(env, -errno);
  int lost = (m.msg_flags & MSG_CTRUNC) != 0;
  size_t count = 0;
  for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    size_t k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < k; i++) {
      int one;
      memcpy(&one, CMSG_DATA(h) + i * sizeof(int), sizeof one);
      if (count < room) fds[++count] = one;
      else {
        close(one);
        lost = 1;
      }
    }
  }
  if (lost) {
    for (size_t i = 1; i <= count; i++) close(fds[i]);
    return ret(env, -EMFILE);
  }
  fds[0] = (int32_t)count;
  return ret(env, got);
}

/* send(fd, from: Uint8Array, offset, length, fds: Int32Array, fdCount): bytes sent; -EAGAIN when there is no room.
 * Never waits, whatever the socket's flags: whoever handed us its other end may change them at any time. */
static napi_value Send(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  size_t n, fn;
  uint8_t *b = bytes(&c, 1, &n);
  int64_t off = num(&c, 2), len = num(&c, 3);
  uint8_t *fds = bytes(&c, 4, &fn);
  int64_t count = num(&c, 5);
  if (c.bad || off < 0 || len < 0 || (uint64_t)off + (uint64_t)len > n || count < 0 || count > MAX_FDS ||
      (size_t)count * 4 > fn)
    return bad_args(env);
  union {
    char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    struct cmsghdr align;
  } control;
  memset(&control, 0, sizeof control);
  struct iovec iov = {.iov_base = b + off, .iov_len = (size_t)len};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
  if (count) {
    m.msg_control = control.space;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(h), fds, sizeof(int) * (size_t)count);
  }
  ssize_t sent;
  do sent = sendmsg((int)fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sys(env, sent);
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

/* lockExclusive(fd): flock, never waits; -EWOULDBLOCK when another open file description holds it */
static napi_value LockExclusive(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  CHECK(c);
  return sys(env, flock((int)fd, LOCK_EX | LOCK_NB));
}

/* seekData(fd, offsetBytes) and seekHole(fd, offsetBytes): -ENXIO past the last data */
static napi_value SeekData(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), off = num(&c, 1);
  CHECK(c);
  return sys(env, lseek((int)fd, off, SEEK_DATA));
}
static napi_value SeekHole(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), off = num(&c, 1);
  CHECK(c);
  return sys(env, lseek((int)fd, off, SEEK_HOLE));
}

/* allocate(fd, mode, offsetBytes, lengthBytes): fallocate(2) */
static napi_value Allocate(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0), mode = num(&c, 1), off = num(&c, 2), len = num(&c, 3);
  CHECK(c);
  return sys(env, fallocate((int)fd, (int)mode, off, len));
}

/* cloneRange(toFd, toOffsetBytes, fromFd, fromOffsetBytes, lengthBytes): FICLONERANGE */
static napi_value CloneRange(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t to = num(&c, 0), at = num(&c, 1), from = num(&c, 2), off = num(&c, 3), len = num(&c, 4);
  CHECK(c);
  struct file_clone_range r = {
      .src_fd = from, .src_offset = (uint64_t)off, .src_length = (uint64_t)len, .dest_offset = (uint64_t)at};
  return sys(env, ioctl((int)to, FICLONERANGE, &r));
}

/* copyRange(toFd, toOffsetBytes, fromFd, fromOffsetBytes, lengthBytes): bytes copied, perhaps fewer: copy_file_range */
static napi_value CopyRange(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t to = num(&c, 0), at = num(&c, 1), from = num(&c, 2), off = num(&c, 3), len = num(&c, 4);
  CHECK(c);
  loff_t in = off, out = at;
  return sys(env, copy_file_range((int)from, &in, (int)to, &out, (size_t)len, 0));
}

/* directAlignment(fd, out: Uint32Array(2)): 0; out = [memory, offset] alignment of O_DIRECT in bytes, 0 = unknown */
#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x2000U
#endif
static napi_value DirectAlignment(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  int64_t fd = num(&c, 0);
  size_t n;
  uint32_t *out = (uint32_t *)bytes(&c, 1, &n);
  if (c.bad || n < 8) return bad_args(env);
  /* struct statx is 256 bytes; stx_dio_mem_align and stx_dio_offset_align follow stx_mnt_id at byte 152. */
  union {
    struct statx s;
    uint8_t raw[256];
  } x;
  memset(&x, 0, sizeof x);
  if (syscall(__NR_statx, (int)fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) < 0) return ret(env, -errno);
  out[0] = out[1] = 0;
  if (x.s.stx_mask & STATX_DIOALIGN) {
    memcpy(&out[0], x.raw + 152, 4);
    memcpy(&out[1], x.raw + 156, 4);
  }
  return ret(env, 0);
}

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

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback fn;
  } verbs[] = {
      {"ringSetup", RingSetup},
      {"ringEnter", RingEnter},
      {"ringEnterTimeout", RingEnterTimeout},
      {"ringRegister", RingRegister},
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
      {"eventfd", Eventfd},
      {"signal", Signal},
      {"signalForeign", SignalForeign},
      {"consume", Consume},
      {"waitReadable", WaitReadable},
      {"setNonblocking", SetNonblocking},
      {"memfd", Memfd},
      {"unixListen", UnixListen},
      {"unixConnect", UnixConnect},
      {"unixProbe", UnixProbe},
      {"accept", Accept},
      {"socketPair", SocketPair},
      {"receive", Receive},
      {"send", Send},
      {"lockExclusive", LockExclusive},
      {"seekData", SeekData},
      {"seekHole", SeekHole},
      {"allocate", Allocate},
      {"cloneRange", CloneRange},
      {"copyRange", CopyRange},
      {"directAlignment", DirectAlignment},
      {"clockMicros", ClockMicros},
      {"clockNanos", ClockNanos},
  };
  for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
    napi_value fn;
    if (napi_create_function(env, verbs[i].name, NAPI_AUTO_LENGTH, verbs[i].fn, NULL, &fn) != napi_ok ||
        napi_set_named_property(env, exports, verbs[i].name, fn) != napi_ok)
      return NULL;
  }
  return exports;
}
