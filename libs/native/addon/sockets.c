/* Unix sockets, with descriptors beside the bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "verbs.h"

#define MAX_FDS 64

static int address(const char *path, struct sockaddr_un *a) {
  if (strlen(path) >= sizeof a->sun_path) return -ENAMETOOLONG;
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  strcpy(a->sun_path, path);
  return 0;
}

/* A socket for that path, whose address is in *a; -errno. */
static int open_socket(const char *path, struct sockaddr_un *a, int flags) {
  int e = address(path, a);
  if (e < 0) return e;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  return fd < 0 ? -errno : fd;
}

/* unixListen(path, backlog, mode): non-blocking listening socket; the file has that mode from its first moment on */
static napi_value UnixListen(napi_env env, napi_callback_info info) {
  call_t c = begin(env, info);
  char path[512];
  str(&c, 0, path, sizeof path);
  int64_t backlog = num(&c, 1), mode = num(&c, 2);
  CHECK(c);
  struct sockaddr_un a;
  int fd = open_socket(path, &a, SOCK_NONBLOCK), e;
  if (fd < 0) return ret(env, fd);
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
  int fd = open_socket(path, &a, 0), e;
  if (fd < 0) return ret(env, fd);
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
  int fd = open_socket(path, &a, SOCK_NONBLOCK), e;
  if (fd < 0) return ret(env, fd);
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

const verb_t socket_verbs[] = {
    {"unixListen", UnixListen},
    {"unixConnect", UnixConnect},
    {"unixProbe", UnixProbe},
    {"accept", Accept},
    {"socketPair", SocketPair},
    {"receive", Receive},
    {"send", Send},
    {NULL, NULL},
};
