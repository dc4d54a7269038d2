/* System calls behind flat verbs, for Node.js through Node-API. Every loop and every decision is in TypeScript. */
#include "verbs.h"

NAPI_MODULE_INIT() {
  const verb_t *all[] = {uring_verbs, memory_verbs, descriptor_verbs, socket_verbs, file_verbs, clock_verbs};
  for (size_t file = 0; file < sizeof all / sizeof *all; file++) {
    for (const verb_t *verb = all[file]; verb->name; verb++) {
      napi_value fn;
      if (napi_create_function(env, verb->name, NAPI_AUTO_LENGTH, verb->fn, NULL, &fn) != napi_ok ||
          napi_set_named_property(env, exports, verb->name, fn) != napi_ok)
        return NULL;
    }
  }
  return exports;
}
