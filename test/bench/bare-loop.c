/*
 * The loop of the hot path in C, and nothing besides: what a vhost-user-blk back-end of this design costs without
 * JavaScript. One front-end at a time, one split ring with EVENT_IDX and INDIRECT_DESC, one io_uring, one thread.
 *
 *   round: take chains → reap completions → publish the used ring and call → submit, maybe wait
 *
 * A measuring rod, not a product: it trusts its front-end, takes READ, WRITE and FLUSH requests with one data
 * segment, and ends at whatever else it meets.
 *
 *   bare-loop <socket> <file> [direct]       or, to serve bytes that nobody keeps:  bare-loop <socket> <size in bytes>
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ENTRIES = 1024, SLOTS = 1024, POLL_MICROS = 32, MAX_REGIONS = 8 };
enum { KICK = SLOTS, FRONT_END }; /* user_data of what is no request */

static _Noreturn void die(const char *what) {
  fprintf(stderr, "bare-loop: %s (%s)\n", what, strerror(errno));
  exit(1);
}

static uint32_t micros(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint32_t)((uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000);
}

/* ---- io_uring ------------------------------------------------------------------------------------------------- */

static int ring_fd;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static unsigned *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail, sq_mask, cq_mask, tail, submitted;

static void ring_open(void) {
  struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                      IORING_SETUP_TASKRUN_FLAG,
                             .cq_entries = 4 * ENTRIES};
  ring_fd = (int)syscall(__NR_io_uring_setup, ENTRIES, &p);
  if (ring_fd < 0) die("io_uring_setup");
  size_t bytes = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
  size_t array = p.sq_off.array + p.sq_entries * sizeof(unsigned);
  char *m = mmap(NULL, bytes > array ? bytes : array, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd,
                 IORING_OFF_SQ_RING);
  sqes = mmap(NULL, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd,
              IORING_OFF_SQES);
  if (m == MAP_FAILED || (void *)sqes == MAP_FAILED) die("mmap");
  sq_flags = (unsigned *)(m + p.sq_off.flags);
  sq_head = (unsigned *)(m + p.sq_off.head), sq_tail = (unsigned *)(m + p.sq_off.tail);
  cq_head = (unsigned *)(m + p.cq_off.head), cq_tail = (unsigned *)(m + p.cq_off.tail);
  sq_mask = *(unsigned *)(m + p.sq_off.ring_mask), cq_mask = *(unsigned *)(m + p.cq_off.ring_mask);
  cqes = (struct io_uring_cqe *)(m + p.cq_off.cqes);
  for (unsigned i = 0; i < p.sq_entries; i++) ((unsigned *)(m + p.sq_off.array))[i] = i;
}

static struct io_uring_sqe *prepare(int op, int fd, uint64_t data) {
  struct io_uring_sqe *s = &sqes[tail++ & sq_mask];
  memset(s, 0, sizeof *s);
  s->opcode = (uint8_t)op, s->fd = fd, s->user_data = data;
  return s;
}

/* Has the kernel completions that it shows only when asked? */
static int kernel_has_work(void) {
  return (__atomic_load_n(sq_flags, __ATOMIC_ACQUIRE) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
}

static void enter(unsigned wait) {
  __atomic_store_n(sq_tail, tail, __ATOMIC_RELEASE);
  unsigned flags = wait || kernel_has_work() ? IORING_ENTER_GETEVENTS : 0;
  long r = syscall(__NR_io_uring_enter, ring_fd, tail - submitted, wait, flags, NULL, 0);
  if (r < 0 && errno != EINTR && errno != EBUSY && errno != EAGAIN) die("io_uring_enter");
  submitted = __atomic_load_n(sq_head, __ATOMIC_ACQUIRE);
}

static unsigned completions(void) {
  if (kernel_has_work()) enter(0);
  return __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE) - *cq_head;
}

static void watch(int fd, uint64_t data) {
  struct io_uring_sqe *s = prepare(IORING_OP_POLL_ADD, fd, data);
  s->len = IORING_POLL_ADD_MULTI, s->poll32_events = POLLIN | POLLRDHUP;
}

/* ---- the ring ------------------------------------------------------------------------------------------------- */

static struct region { uint64_t gpa, size, user; char *at; } regions[MAX_REGIONS];
static unsigned region_count;
static struct {
  struct vring vr;
  unsigned size;
  uint16_t next_avail, next_used, published;
  int kick, call, running, awake;
} q = {.kick = -1, .call = -1};
static struct slot { uint8_t *status; uint32_t len; uint16_t head; } slots[SLOTS];
static uint16_t free_slots[SLOTS], free_count = SLOTS;
static int file = -1, front_end = -1, front_end_spoke;
static uint64_t capacity;

static char *guest(uint64_t gpa, uint64_t len) {
  for (unsigned i = 0; i < region_count; i++)
    if (gpa >= regions[i].gpa && gpa + len <= regions[i].gpa + regions[i].size && gpa + len >= gpa)
      return regions[i].at + (gpa - regions[i].gpa);
  die("an address outside of guest memory");
}

static void finish(unsigned slot, uint8_t status) {
  *slots[slot].status = status;
  q.vr.used->ring[q.next_used % q.size] = (struct vring_used_elem){slots[slot].head, slots[slot].len};
  q.next_used++;
  free_slots[free_count++] = (uint16_t)slot;
}

static void start(uint16_t head) {
  struct vring_desc chain[3], *table = q.vr.desc, d = table[head];
  unsigned count = q.size, n = 0;
  if (d.flags & VRING_DESC_F_INDIRECT) {
    count = d.len / sizeof d;
    table = (struct vring_desc *)guest(d.addr, d.len);
    d = table[0];
  }
  for (;; d = table[d.next]) {
    if (n == 3) die("more than one data segment");
    chain[n++] = d;
    if (!(d.flags & VRING_DESC_F_NEXT)) break;
    if (d.next >= count) die("next out of range");
  }
  struct virtio_blk_outhdr h = *(struct virtio_blk_outhdr *)guest(chain[0].addr, sizeof h);
  unsigned slot = free_slots[--free_count];
  slots[slot] = (struct slot){(uint8_t *)guest(chain[n - 1].addr, 1), 1, head};
  if (h.type == VIRTIO_BLK_T_FLUSH) {
    if (file < 0) return finish(slot, VIRTIO_BLK_S_OK);
    prepare(IORING_OP_FSYNC, file, slot)->fsync_flags = IORING_FSYNC_DATASYNC;
    return;
  }
  if (n != 3 || h.type > VIRTIO_BLK_T_OUT || chain[1].len % 512) die("a request of another kind");
  if (h.sector + chain[1].len / 512 > capacity) die("a request beyond the end");
  if (h.type == VIRTIO_BLK_T_IN) slots[slot].len += chain[1].len;
  char *data = guest(chain[1].addr, chain[1].len);
  if (file < 0) return finish(slot, VIRTIO_BLK_S_OK);
  struct io_uring_sqe *s = prepare(h.type == VIRTIO_BLK_T_IN ? IORING_OP_READ : IORING_OP_WRITE, file, slot);
  s->off = h.sector * 512, s->addr = (uint64_t)(uintptr_t)data, s->len = chain[1].len;
}

static int has_avail(void) { return __atomic_load_n(&q.vr.avail->idx, __ATOMIC_ACQUIRE) != q.next_avail; }

static unsigned take(void) {
  if (!q.running || !q.awake) return 0;
  uint16_t idx = __atomic_load_n(&q.vr.avail->idx, __ATOMIC_ACQUIRE);
  unsigned taken = 0;
  for (; q.next_avail != idx && free_count > 8; taken++) start(q.vr.avail->ring[q.next_avail++ % q.size]);
  return taken;
}

static void publish(void) {
  uint16_t old = q.published;
  if (old == q.next_used) return;
  __atomic_store_n(&q.vr.used->idx, q.next_used, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  q.published = q.next_used;
  if (vring_need_event(vring_used_event(&q.vr), q.next_used, old) && write(q.call, &(uint64_t){1}, 8) != 8)
    die("call");
}

/* Asks for a kick; 1 when the thread may sleep. */
static int arm(void) {
  if (!q.running || !q.awake) return 1;
  __atomic_store_n(&vring_avail_event(&q.vr), q.next_avail, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (has_avail()) return 0;
  q.awake = 0;
  return 1;
}

static void wake(void) {
  if (q.awake || !q.running) return;
  q.awake = 1;
  vring_avail_event(&q.vr) = (uint16_t)(q.next_avail - 1);
}

static unsigned reap(void) {
  unsigned head = *cq_head, end = __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE), count = end - head;
  for (; head != end; head++) {
    struct io_uring_cqe *c = &cqes[head & cq_mask];
    if (c->user_data < SLOTS) {
      uint32_t want = slots[c->user_data].len - 1;
      if (c->res < 0 || (want && (uint32_t)c->res != want)) die("a request failed");
      finish((unsigned)c->user_data, VIRTIO_BLK_S_OK);
      wake();
    } else if (c->user_data == KICK) {
      if (!(c->flags & IORING_CQE_F_MORE) && q.running) watch(q.kick, KICK);
      wake();
    } else {
      front_end_spoke = 1;
      if (!(c->flags & IORING_CQE_F_MORE) && front_end >= 0) watch(front_end, FRONT_END);
    }
  }
  __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
  return count;
}

static int spin(void) {
  uint32_t began = micros();
  for (unsigned turn = 1;; turn++) {
    if (has_avail() || completions()) return 1;
    if (turn % 32 == 0 && micros() - began >= POLL_MICROS) return 0;
  }
}

static void front_end_ready(void);

static void run(void) {
  int inline_io = 1;
  struct pollfd p = {.fd = front_end, .events = POLLIN};
  watch(front_end, FRONT_END);
  while (front_end >= 0) {
    unsigned taken = take(), reaped = reap();
    publish();
    if (tail != submitted) {
      unsigned count = tail - submitted;
      if (inline_io) {
        enter(0);
        inline_io = completions() > 0;
      } else {
        enter(arm() ? 1 : 0);
        inline_io = count > 1 && completions() >= count;
      }
    } else if (!taken && !reaped) {
      if (!front_end_spoke && !(free_count == SLOTS && q.running && q.awake && spin()) && arm()) enter(1);
    }
    if (!front_end_spoke) continue;
    front_end_spoke = 0;
    while (front_end >= 0 && poll(&p, 1, 0) > 0) front_end_ready();
  }
}

/* ---- vhost-user ----------------------------------------------------------------------------------------------- */

static struct {
  uint32_t request, flags, size;
  union {
    uint64_t u64;
    struct { uint32_t index, value; } state;
    struct { uint32_t index, flags; uint64_t desc, used, avail, log; } addr;
    struct { uint32_t count, pad; struct { uint64_t gpa, size, user, offset; } at[MAX_REGIONS]; } memory;
    struct { uint32_t offset, size, flags; struct virtio_blk_config config; } config;
    char bytes[512];
  };
} __attribute__((packed)) msg;

static void *user(uint64_t address) {
  for (unsigned i = 0; i < region_count; i++)
    if (address - regions[i].user < regions[i].size) return regions[i].at + (address - regions[i].user);
  die("a ring outside of guest memory");
}

static void drain(void) {
  while (free_count < SLOTS) {
    enter(1);
    reap();
  }
  publish();
}

static void forget(void) {
  drain();
  q.running = 0;
  if (q.kick >= 0) close(q.kick);
  if (q.call >= 0) close(q.call);
  q.kick = q.call = -1;
  for (unsigned i = 0; i < region_count; i++) munmap(regions[i].at, regions[i].size);
  region_count = 0;
}

static void map(int *fds) {
  for (region_count = 0; region_count < msg.memory.count; region_count++) {
    struct region *r = &regions[region_count];
    r->gpa = msg.memory.at[region_count].gpa, r->size = msg.memory.at[region_count].size;
    r->user = msg.memory.at[region_count].user;
    r->at = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fds[region_count],
                 (off_t)msg.memory.at[region_count].offset);
    if (r->at == MAP_FAILED) die("mapping guest memory");
    close(fds[region_count]);
  }
}

static void answer(uint32_t size) {
  msg.flags = 5, msg.size = size;
  if (send(front_end, &msg, 12 + size, MSG_NOSIGNAL) < 0) die("reply");
}

/* Takes one message and acts on it; replies with the value asked for, or with 0 where an acknowledgement is. */
static void front_end_ready(void) {
  int fds[MAX_REGIONS] = {0};
  union { struct cmsghdr h; char b[CMSG_SPACE(sizeof fds)]; } control;
  struct iovec iov = {&msg, 12};
  struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  if (recvmsg(front_end, &h, MSG_WAITALL) != 12) {
    forget();
    close(front_end);
    front_end = -1;
    return;
  }
  struct cmsghdr *c = CMSG_FIRSTHDR(&h);
  if (c) memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
  if (msg.size > sizeof msg.bytes || (msg.size && recv(front_end, msg.bytes, msg.size, MSG_WAITALL) != msg.size))
    die("message");
  switch (msg.request) {
  case 1: /* GET_FEATURES */
    msg.u64 = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
              1ull << VIRTIO_BLK_F_FLUSH | 1ull << 30;
    return answer(8);
  case 15: msg.u64 = 1 << 0 | 1 << 3 | 1 << 9; return answer(8); /* GET_PROTOCOL_FEATURES: MQ, REPLY_ACK, CONFIG */
  case 17: msg.u64 = 1; return answer(8);                        /* GET_QUEUE_NUM */
  case 24:                                                       /* GET_CONFIG */
    memset(&msg.config.config, 0, sizeof msg.config.config);
    msg.config.config.capacity = capacity;
    return answer(msg.size);
  case 11: /* GET_VRING_BASE */
    drain();
    q.running = 0;
    msg.state.value = q.next_avail;
    return answer(8);
  case 5: map(fds); break; /* SET_MEM_TABLE */
  case 8: q.size = q.vr.num = msg.state.value; break;
  case 9: /* SET_VRING_ADDR */
    q.vr.desc = user(msg.addr.desc), q.vr.avail = user(msg.addr.avail), q.vr.used = user(msg.addr.used);
    break;
  case 10: q.next_avail = q.next_used = q.published = (uint16_t)msg.state.value; break;
  case 12: q.kick = fds[0]; break;
  case 13: q.call = fds[0]; break;
  case 18: /* SET_VRING_ENABLE */
    q.running = 1, q.awake = 0;
    watch(q.kick, KICK);
    wake();
    break;
  case 2: case 3: case 16: break; /* SET_FEATURES, SET_OWNER, SET_PROTOCOL_FEATURES */
  default: die("a message of another kind");
  }
  if (msg.flags & 8) {
    msg.u64 = 0;
    answer(8);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) die("usage: bare-loop <socket> <file> [direct], or bare-loop <socket> <bytes>");
  char *end;
  capacity = strtoull(argv[2], &end, 10) / 512;
  if (*end) {
    struct stat st;
    file = open(argv[2], O_RDWR | O_CLOEXEC | (argc > 3 ? O_DIRECT : 0));
    if (file < 0 || fstat(file, &st)) die(argv[2]);
    capacity = (uint64_t)st.st_size / 512;
  }
  for (unsigned i = 0; i < SLOTS; i++) free_slots[i] = (uint16_t)(SLOTS - 1 - i);
  ring_open();
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  snprintf(a.sun_path, sizeof a.sun_path, "%s", argv[1]);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (void *)&a, sizeof a) || listen(listener, 1)) die(argv[1]);
  for (;;) {
    front_end = accept(listener, NULL, NULL);
    if (front_end < 0) die("accept");
    run();
  }
}
