/*
 * A load for a disk that knows what each block must hold.
 *
 *   verifying-load DEVICE BLOCKS THREADS SEED TABLE
 *
 * Threads write, read and flush blocks of their own with O_DIRECT, one request each at a time, until SIGTERM; then all
 * blocks are read once more and the sequence of each is written to TABLE, one little-endian 64-bit word a block.
 * A block is stamped with its number, a sequence that only grows, and a checksum, so what is read tells by itself
 * whether it is in the wrong place, torn, older than what was acknowledged, or newer than what was ever sent.
 * Buffers of reads are never written by this program and are looked at again before they are used again: what a device
 * puts there late, or twice, or what is lost of it on the way to another machine, is found.
 *
 * Prints a line a second; ends with 0 and `verified`, or with 1 and one line that starts with `error:`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 4096, WORDS = BLOCK_BYTES / 4, MOST_BLOCKS = 8, KEPT_READS = 16, MOST_THREADS = 64 };

/* A request of virtio-blk has no deadline of its own: one that is lost would be waited for without end. */
enum { STALL_MS = 60000, TICK_MS = 100 };

static const uint32_t MAGIC = 0x6e726143;

/* Where in a block, in words of 32 bits, its stamp is; the rest is made from number and sequence. */
enum { AT_MAGIC, AT_CHECKSUM, AT_NUMBER, AT_SEQUENCE, AT_SEQUENCE_HIGH, AT_FILLING };

struct kept_read {
  uint32_t *buffer;
  uint64_t first, count, sequences[MOST_BLOCKS];
};

struct worker {
  pthread_t thread;
  uint32_t random;
  uint64_t first, count, sequence;
  uint32_t *write_buffer;
  struct kept_read kept[KEPT_READS];
  unsigned next_kept;
  _Atomic(const char *) doing;
  _Atomic uint64_t block, since_ms;
};

static int device;
static uint64_t *acknowledged;
static struct worker workers[MOST_THREADS];
static atomic_uint running;
static _Atomic uint64_t reads, writes, flushes, longest_ms;
static volatile sig_atomic_t stopping;

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...) {
  char line[256];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  dprintf(STDOUT_FILENO, "error: %s\n", line);
  _exit(1);
}

static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/* FNV-1a over the words of a block, its own place taken for 0. */
static uint32_t checksum_of(const uint32_t *block) {
  uint32_t sum = 2166136261u;
  for (unsigned word = 0; word < WORDS; word++) sum = (sum ^ (word == AT_CHECKSUM ? 0 : block[word])) * 16777619u;
  return sum;
}

static void stamp(uint32_t *block, uint64_t number, uint64_t sequence) {
  uint32_t filling = ((uint32_t)number * 2654435761u) ^ ((uint32_t)sequence * 40503u) ^ 0x9e3779b9u;
  if (filling == 0) filling = 1;
  block[AT_MAGIC] = MAGIC;
  block[AT_NUMBER] = (uint32_t)number;
  block[AT_SEQUENCE] = (uint32_t)sequence;
  block[AT_SEQUENCE_HIGH] = (uint32_t)(sequence >> 32);
  for (unsigned word = AT_FILLING; word < WORDS; word++) block[word] = next_random(&filling);
  block[AT_CHECKSUM] = checksum_of(block);
}

/* Fails unless the block is whole, in its place, and as it was written last. */
static void verify(const uint32_t *block, uint64_t number, uint64_t sequence, const char *where) {
  if (sequence == 0) {
    for (unsigned word = 0; word < WORDS; word++)
      if (block[word] != 0) fail("%s: block %llu was never written and is not zero", where, (unsigned long long)number);
    return;
  }
  uint64_t found = block[AT_SEQUENCE] | (uint64_t)block[AT_SEQUENCE_HIGH] << 32;
  const char *fault = NULL;
  if (block[AT_MAGIC] != MAGIC || block[AT_CHECKSUM] != checksum_of(block)) fault = "is torn";
  else if (block[AT_NUMBER] != number) fault = "is another block";
  else if (found < sequence) fault = "is stale: a write was lost, or an older one came again";
  else if (found > sequence) fault = "is newer than it was";
  if (fault)
    fail("%s: block %llu %s (magic %x, number %u, sequence %llu, wanted %llu)", where, (unsigned long long)number, fault,
         block[AT_MAGIC], block[AT_NUMBER], (unsigned long long)found, (unsigned long long)sequence);
}

static void begin(struct worker *worker, const char *what, uint64_t block) {
  worker->block = block;
  worker->since_ms = now_ms();
  worker->doing = what;
}

static void end(struct worker *worker) {
  uint64_t took = now_ms() - worker->since_ms, longest = longest_ms;
  worker->doing = NULL;
  while (took > longest && !atomic_compare_exchange_weak(&longest_ms, &longest, took)) {}
}

static void write_blocks(struct worker *worker, uint64_t first, uint64_t count) {
  uint64_t sequence = ++worker->sequence;
  for (uint64_t i = 0; i < count; i++) stamp(worker->write_buffer + i * WORDS, first + i, sequence);
  begin(worker, "write", first);
  ssize_t done = pwrite(device, worker->write_buffer, count * BLOCK_BYTES, (off_t)(first * BLOCK_BYTES));
  if (done != (ssize_t)(count * BLOCK_BYTES))
    fail("write of block %llu: %s", (unsigned long long)first, done < 0 ? strerror(errno) : "short");
  end(worker);
  for (uint64_t i = 0; i < count; i++) acknowledged[first + i] = sequence;
  writes++;
}

static void verify_kept(const struct kept_read *kept, const char *where) {
  for (uint64_t i = 0; i < kept->count; i++)
    verify(kept->buffer + i * WORDS, kept->first + i, kept->sequences[i], where);
}

static void read_blocks(struct worker *worker, uint64_t first, uint64_t count) {
  struct kept_read *kept = &worker->kept[worker->next_kept++ % KEPT_READS];
  verify_kept(kept, "memory of an earlier read");
  begin(worker, "read", first);
  ssize_t done = pread(device, kept->buffer, count * BLOCK_BYTES, (off_t)(first * BLOCK_BYTES));
  if (done != (ssize_t)(count * BLOCK_BYTES))
    fail("read of block %llu: %s", (unsigned long long)first, done < 0 ? strerror(errno) : "short");
  end(worker);
  kept->first = first;
  kept->count = count;
  memcpy(kept->sequences, acknowledged + first, count * sizeof *acknowledged);
  verify_kept(kept, "read");
  reads++;
}

static void flush(struct worker *worker) {
  begin(worker, "flush", 0);
  if (fdatasync(device) != 0) fail("flush: %s", strerror(errno));
  end(worker);
  flushes++;
}

static void *work(void *argument) {
  struct worker *worker = argument;
  while (!stopping) {
    uint32_t choice = next_random(&worker->random);
    uint64_t count = 1 + (choice >> 8) % MOST_BLOCKS;
    uint64_t first = worker->first + next_random(&worker->random) % (worker->count - count + 1);
    if (choice % 32 == 0) flush(worker);
    else if (choice % 2 == 0) write_blocks(worker, first, count);
    else read_blocks(worker, first, count);
  }
  flush(worker);
  for (uint64_t at = 0; at < worker->count; at += MOST_BLOCKS) {
    uint64_t left = worker->count - at;
    read_blocks(worker, worker->first + at, left < MOST_BLOCKS ? left : MOST_BLOCKS);
  }
  for (unsigned i = 0; i < KEPT_READS; i++) verify_kept(&worker->kept[i], "memory of an earlier read");
  running--;
  return NULL;
}

static void look_for_stalls(unsigned threads) {
  for (unsigned i = 0; i < threads; i++) {
    const char *doing = workers[i].doing;
    uint64_t since = workers[i].since_ms, now = now_ms();
    if (doing && now > since + STALL_MS)
      fail("stalled: thread %u has waited %llu ms for a %s of block %llu", i, (unsigned long long)(now - since), doing,
           (unsigned long long)workers[i].block);
  }
}

static void write_table(const char *path, uint64_t blocks) {
  FILE *table = fopen(path, "wb");
  if (!table || fwrite(acknowledged, sizeof *acknowledged, blocks, table) != blocks || fclose(table) != 0)
    fail("cannot write %s: %s", path, strerror(errno));
}

static void *memory_of(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) fail("no memory: %s", strerror(errno));
  return memory;
}

static void start(struct worker *worker, unsigned cpu) {
  size_t bytes = MOST_BLOCKS * BLOCK_BYTES;
  worker->write_buffer = memory_of(bytes);
  for (unsigned i = 0; i < KEPT_READS; i++) worker->kept[i].buffer = memory_of(bytes);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 * 1024);
  /* On one processor for good: each has a queue of its own. */
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
  int result = pthread_create(&worker->thread, &attributes, work, worker);
  if (result != 0) fail("cannot start a thread: %s", strerror(result));
}

static void stop(int signal) {
  (void)signal;
  stopping = 1;
}

int main(int count, char **args) {
  if (count != 6) fail("usage: verifying-load DEVICE BLOCKS THREADS SEED TABLE");
  uint64_t blocks = strtoull(args[2], NULL, 10);
  unsigned threads = (unsigned)strtoul(args[3], NULL, 10);
  uint32_t seed = (uint32_t)strtoul(args[4], NULL, 10);
  if (threads < 1 || threads > MOST_THREADS) fail("from 1 to %d threads, not %s", MOST_THREADS, args[3]);
  if (blocks / threads < MOST_BLOCKS) fail("at least %d blocks a thread, not %s in all", MOST_BLOCKS, args[2]);
  device = open(args[1], O_RDWR | O_DIRECT);
  if (device < 0) fail("cannot open %s: %s", args[1], strerror(errno));
  acknowledged = memory_of(blocks * sizeof *acknowledged);
  signal(SIGTERM, stop);

  unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
  running = threads;
  for (unsigned i = 0; i < threads; i++) {
    workers[i].random = (seed + i + 1) * 2654435761u | 1;
    workers[i].first = blocks * i / threads;
    workers[i].count = blocks * (i + 1) / threads - workers[i].first;
    start(&workers[i], i % cpus);
  }
  for (unsigned tick = 1; running > 0; tick++) {
    usleep(TICK_MS * 1000);
    look_for_stalls(threads);
    if (tick % (1000 / TICK_MS) == 0)
      dprintf(STDOUT_FILENO, "progress requests=%llu reads=%llu writes=%llu flushes=%llu longest_ms=%llu\n",
              (unsigned long long)(reads + writes + flushes), (unsigned long long)reads, (unsigned long long)writes,
              (unsigned long long)flushes, (unsigned long long)longest_ms);
  }
  write_table(args[5], blocks);
  dprintf(STDOUT_FILENO, "verified requests=%llu reads=%llu writes=%llu flushes=%llu longest_ms=%llu\n",
          (unsigned long long)(reads + writes + flushes), (unsigned long long)reads, (unsigned long long)writes,
          (unsigned long long)flushes, (unsigned long long)longest_ms);
  return 0;
}
