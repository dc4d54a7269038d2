/*
 * What all verbs of the addon share: reading arguments, giving results.
 *
 * Conventions: a verb returns a number, the result (>= 0) or -errno. Addresses and sizes are JavaScript numbers
 * (user addresses are below 2^47, so exact). A wrong argument type throws TypeError and does nothing.
 * Memory verbs trust their caller (libs/virtio checks every guest address before it comes here).
 */
#ifndef CAIRN_VERBS_H
#define CAIRN_VERBS_H
#include <errno.h>
#include <node_api.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_ARGS 8

typedef struct {
  napi_env env;
  napi_value argv[MAX_ARGS];
  size_t argc;
  int bad;
} call_t;

static inline call_t begin(napi_env env, napi_callback_info info) {
  call_t c = {.env = env, .argc = MAX_ARGS, .bad = 0};
  if (napi_get_cb_info(env, info, &c.argc, c.argv, NULL, NULL) != napi_ok) c.bad = 1;
  return c;
}

static inline int64_t num(call_t *c, size_t i) {
  int64_t v = 0;
  if (i >= c->argc || napi_get_value_int64(c->env, c->argv[i], &v) != napi_ok) c->bad = 1;
  return v;
}

static inline void *ptr(call_t *c, size_t i) { return (void *)(uintptr_t)num(c, i); }

static inline char *str(call_t *c, size_t i, char *buf, size_t cap) {
  size_t n = 0;
  if (i >= c->argc || napi_get_value_string_utf8(c->env, c->argv[i], buf, cap, &n) != napi_ok) c->bad = 1;
  return buf;
}

/* Bytes of a typed array; *len is in bytes. */
static inline uint8_t *bytes(call_t *c, size_t i, size_t *len) {
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

static inline napi_value ret(napi_env env, int64_t v) {
  napi_value out;
  napi_create_int64(env, v, &out);
  return out;
}

static inline napi_value sys(napi_env env, int64_t v) { return ret(env, v < 0 ? -errno : v); }

static inline napi_value bad_args(napi_env env) {
  napi_throw_type_error(env, NULL, "wrong argument types for a native verb");
  return NULL;
}

#define CHECK(c)                                                                                                       \
  if ((c).bad) return bad_args(env)

/* The verbs of one file, up to one without a name. */
typedef struct {
  const char *name;
  napi_callback fn;
} verb_t;
extern const verb_t uring_verbs[], memory_verbs[], descriptor_verbs[], socket_verbs[], file_verbs[], clock_verbs[];
#endif
