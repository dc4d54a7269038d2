/* What files can that node:fs does not know: locks, holes, shared blocks. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "verbs.h"

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

const verb_t file_verbs[] = {
    {"lockExclusive", LockExclusive},
    {"seekData", SeekData},
    {"seekHole", SeekHole},
    {"allocate", Allocate},
    {"cloneRange", CloneRange},
    {"copyRange", CopyRange},
    {"directAlignment", DirectAlignment},
    {NULL, NULL},
};
