/* Eventfds and other descriptors. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "verbs.h"

#ifndef sigev_notify_thread_id /* glibc before 2.39 */
#define sigev_notify_thread_id _sigev_un._tid
#endif

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

const verb_t descriptor_verbs[] = {
    {"eventfd", Eventfd},
    {"signal", Signal},
    {"signalForeign", SignalForeign},
    {"consume", Consume},
    {"waitReadable", WaitReadable},
    {"setNonblocking", SetNonblocking},
    {"memfd", Memfd},
    {NULL, NULL},
};
