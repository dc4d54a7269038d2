import { spawnSync } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { native } from './addon.js';
import { EFD_NONBLOCK } from './io-uring.js';
import { check, SystemError } from './system-error.js';

const PAGE = 4096;
const EAGAIN = 11;
const EMFILE = 24;
const EDQUOT = 122;
const ENXIO = 6;
const ENAMETOOLONG = 36;
const EADDRINUSE = 98;
const ECONNREFUSED = 111;

const openDescriptors = () => readdirSync('/proc/self/fd').length;
const addonPath = fileURLToPath(new URL('../build/cairn.node', import.meta.url));

describe('the native verbs', () => {
  let directory: string;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-native-'));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it('do nothing with arguments of the wrong type', () => {
    const verbs = native as unknown as Record<string, (...args: unknown[]) => unknown>;
    for (const call of [
      () => verbs.signal!('1'),
      () => verbs.reserve!(),
      () => verbs.send!(1, new Uint8Array(4), 0, 5, new Int32Array(1), 0),
      () => verbs.send!(1, new Uint8Array(4), -1, 1, new Int32Array(1), 0),
      () => verbs.send!(1, new Uint8Array(4), 0, 1, new Int32Array(1), 2),
      () => verbs.receive!(1, new Uint8Array(4), 2, 3, new Int32Array(1)),
      () => verbs.receive!(1, new Uint8Array(4), 0, 4, new Int32Array(0)),
      () => verbs.peek!(0, new Uint8Array(4), 1, 4),
      () => verbs.socketPair!(new Int32Array(1)),
    ])
      expect(call).toThrow(TypeError);
  });

  it('return -errno, which check turns into an error with its name', () => {
    expect(native.signal(1_000_000)).toBe(-9);
    expect(check('signal', 3)).toBe(3);
    expect(() => check('signal', -9)).toThrow(SystemError);
    expect(() => check('signal', -9)).toThrow('signal: EBADF');
    expect(() => check('signal', -4000)).toThrow('errno 4000');
  });

  describe('eventfds', () => {
    it('count signals until they are consumed', () => {
      const fd = check('eventfd', native.eventfd(EFD_NONBLOCK));
      expect(native.waitReadable(fd, 0)).toBe(0);
      expect(native.consume(fd)).toBe(-EAGAIN);
      native.signal(fd);
      native.signal(fd);
      expect(native.waitReadable(fd, 0)).toBe(1);
      expect(native.consume(fd)).toBe(2);
      closeSync(fd);
    });

    it('do not wait when they are full and not blocking', () => {
      const fd = check('eventfd', native.eventfd(0));
      const full = Buffer.alloc(8);
      full.writeBigUInt64LE(0xffff_ffff_ffff_fffen);
      writeSync(fd, full);
      native.setNonblocking(fd, 1);
      expect(native.signal(fd)).toBe(-EAGAIN);
      closeSync(fd);
    });
  });

  describe('eventfds of another process', () => {
    /** What a script prints in a process of its own; `native` and a full eventfd that blocks, `full`, are there. */
    const printedBy = (body: string, limit = ':') => {
      const file = join(directory, 'foreign.cjs');
      writeFileSync(
        file,
        `const { Worker, isMainThread, parentPort } = require('node:worker_threads');
         const { readFileSync, writeSync } = require('node:fs');
         const native = require(${JSON.stringify(addonPath)});
         const most = Buffer.alloc(8);
         most.writeBigUInt64LE(0xfffffffffffffffen);
         const full = native.eventfd(0);
         writeSync(full, most);
         ${body}`,
      );
      const commandLine = ['-c', `${limit} && exec "$0" "$1"`, process.execPath, file];
      const { stdout, stderr } = spawnSync('bash', commandLine, { encoding: 'utf8', timeout: 10_000 });
      return [stdout, stderr];
    };
    const timers = `readFileSync('/proc/self/timers', 'utf8').split('notify:').length - 1`;

    it('hold a thread for a moment only, again and again, while the others go on', () => {
      const script = `
        if (isMainThread) {
          new Worker(__filename).on('message', (results) => console.log(...results));
          console.log('goes on');
        } else {
          parentPort.postMessage([native.signalForeign(full), native.signalForeign(full)]);
        }`;
      expect(printedBy(script)).toEqual(['goes on\n-4 -4\n', '']);
    });

    it('hold no thread that stopped signalling for a while, either', () => {
      const script = `
        native.signalForeign(native.eventfd(0));
        setTimeout(() => console.log(native.signalForeign(full)), 800);`;
      expect(printedBy(script)).toEqual(['-4\n', '']);
    });

    it('interrupt nobody who signals no more', () => {
      const script = `
        const switches = () => Number(/^voluntary_ctxt_switches:\\s+(\\d+)/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))[1]);
        native.signalForeign(native.eventfd(0));
        setTimeout(() => {
          const none = native.eventfd(0);
          const before = switches();
          console.log(native.waitReadable(none, 700), switches() - before);
        }, 800);`;
      expect(printedBy(script)).toEqual(['0 1\n', '']);
    });

    it('leave no timer behind when their thread ends', () => {
      const script = `
        if (isMainThread) {
          new Worker(__filename).on('exit', () => console.log(${timers}));
        } else {
          native.signalForeign(native.eventfd(0));
          writeSync(1, ${timers} + '\\n');
        }`;
      expect(printedBy(script)).toEqual(['1\n0\n', '']);
    });

    it('are looked at first where the process may have no timer', () => {
      const script = `console.log(native.signalForeign(full), native.signalForeign(native.eventfd(0)));`;
      expect(printedBy(script, 'ulimit -i 0')).toEqual(['-11 8\n', '']);
    });
  });

  describe('descriptors over a socket', () => {
    let before: number;
    let a: number;
    let b: number;

    beforeEach(() => {
      before = openDescriptors();
      const pair = new Int32Array(2);
      check('socketPair', native.socketPair(pair));
      [a, b] = [pair[0]!, pair[1]!];
    });
    afterEach(() => {
      closeSync(a);
      closeSync(b);
      expect(openDescriptors()).toBe(before);
    });

    const send = (fds: number[], bytes = Uint8Array.of(1, 2, 3)) =>
      native.send(a, bytes, 0, bytes.length, Int32Array.from(fds), fds.length);

    it('come with the bytes, as new descriptors of the same files, closed on exec', () => {
      const memfd = check('memfd', native.memfd('sent', 123));
      expect(send([memfd, memfd])).toBe(3);
      const into = new Uint8Array(8);
      const fds = new Int32Array(5);
      expect(native.receive(b, into, 2, 6, fds)).toBe(3);
      expect([...into]).toEqual([0, 0, 1, 2, 3, 0, 0, 0]);
      expect(fds[0]).toBe(2);
      for (const fd of [fds[1]!, fds[2]!]) {
        expect(fd).not.toBe(memfd);
        expect(fstatSync(fd)).toMatchObject({ size: 123, ino: fstatSync(memfd).ino });
        closeSync(fd);
      }
      closeSync(memfd);
    });

    it('are told of anew with each call', () => {
      send([1]);
      send([]);
      const fds = new Int32Array(5);
      expect(native.receive(b, new Uint8Array(3), 0, 3, fds)).toBe(3);
      closeSync(fds[1]!);
      expect(native.receive(b, new Uint8Array(3), 0, 3, fds)).toBe(3);
      expect(fds[0]).toBe(0);
    });

    it('are all closed when more come than there is room for', () => {
      send([0, 1, 2]);
      const fds = new Int32Array(3);
      expect(native.receive(b, new Uint8Array(3), 0, 3, fds)).toBe(-EMFILE);
    });

    it('are all closed when more come than the verb can hold', () => {
      send(Array.from({ length: 64 }, () => 0));
      expect(native.receive(b, new Uint8Array(3), 0, 3, new Int32Array(17))).toBe(-EMFILE);
    });

    it('are all closed when this process may have no more', () => {
      const script = `
        const native = require(${JSON.stringify(addonPath)});
        const fs = require('node:fs');
        const pair = new Int32Array(2);
        native.socketPair(pair);
        native.send(pair[0], new Uint8Array(1), 0, 1, Int32Array.of(0, 1, 2), 3);
        const taken = [];
        try { for (;;) taken.push(fs.openSync('/dev/null')); } catch {}
        fs.closeSync(taken.pop());
        const result = native.receive(pair[1], new Uint8Array(1), 0, 1, new Int32Array(9));
        let free = 0;
        try { for (;;) { fs.openSync('/dev/null'); free += 1; } } catch {}
        console.log(JSON.stringify([result, free]));`;
      const { stdout, stderr } = spawnSync(
        'sh',
        ['-c', 'ulimit -n 64 && exec "$0" -e "$1"', process.execPath, script],
        {
          encoding: 'utf8',
        },
      );
      expect([stdout.trim(), stderr]).toEqual([JSON.stringify([-EMFILE, 1]), '']);
    });

    it('can be waited for: an end is 0 bytes, nothing yet is EAGAIN', () => {
      native.setNonblocking(b, 1);
      const fds = new Int32Array(1);
      expect(native.receive(b, new Uint8Array(1), 0, 1, fds)).toBe(-EAGAIN);
      closeSync(a);
      expect(native.receive(b, new Uint8Array(1), 0, 1, fds)).toBe(0);
      a = openSync('/dev/null', 'r');
    });

    it('do not make a sender wait, even on a socket that blocks', () => {
      const bytes = new Uint8Array(65_536);
      let sent = 0;
      for (let result = 0; (result = send([], bytes)) > 0;) sent += result;
      expect(sent).toBeGreaterThan(0);
      expect(send([], bytes)).toBe(-EAGAIN);
    });
  });

  describe('listening', () => {
    const at = (name: string) => join(directory, name);

    it('makes the socket with its mode, and accepts without waiting', () => {
      const path = at('listen.sock');
      const fd = check('listen', native.unixListen(path, 2, 0o600));
      expect(statSync(path).mode & 0o777).toBe(0o600);
      expect(native.accept(fd)).toBe(-EAGAIN);
      const client = check('connect', native.unixConnect(path));
      const server = check('accept', native.accept(fd));
      expect(native.receive(server, new Uint8Array(1), 0, 1, new Int32Array(1))).toBe(-EAGAIN);
      for (const one of [client, server, fd]) closeSync(one);
    });

    it('refuses a path that is taken or too long', () => {
      const path = at('taken.sock');
      closeSync(check('listen', native.unixListen(path, 1, 0o600)));
      expect(native.unixListen(path, 1, 0o600)).toBe(-EADDRINUSE);
      const long = at('x'.repeat(110));
      expect(native.unixConnect(long)).toBe(-ENAMETOOLONG);
      expect(native.unixProbe(long)).toBe(-ENAMETOOLONG);
      expect(native.unixListen(long, 1, 0o600)).toBe(-ENAMETOOLONG);
      expect(native.unixListen('y'.repeat(600), 1, 0o600)).toBe(-ENAMETOOLONG);
    });

    it('can be asked about without waiting: somebody, somebody busy, nobody', () => {
      const path = at('probe.sock');
      expect(native.unixProbe(path)).toBe(0);
      const fd = check('listen', native.unixListen(path, 0, 0o600));
      expect(native.unixProbe(path)).toBe(1);
      expect(native.unixProbe(path)).toBe(1); // the one before still fills the backlog
      closeSync(fd);
      expect(native.unixProbe(path)).toBe(0);
      expect(native.unixConnect(path)).toBe(-ECONNREFUSED);
      closeSync(openSync(at('file'), 'w'));
      expect(native.unixProbe(at('file'))).toBe(0);
    });
  });

  describe('memory', () => {
    it('reserves spans aligned to 4 GiB, and refuses ones without end', () => {
      const base = check('reserve', native.reserve(2 ** 32));
      expect(base % 2 ** 32).toBe(0);
      expect(native.unreserve(base, 2 ** 32)).toBe(0);
      for (const length of [0, -1, 2 ** 47, Number.NaN]) expect(native.reserve(length)).toBe(-22);
    });

    it('leaves address space for ordinary spans, however many great ones are reserved', () => {
      const [GREAT, ORDINARY] = [4 * 2 ** 40, 64 * 2 ** 30];
      const spans: [address: number, bytes: number][] = [];
      const reserveUntilRefused = (bytes: number): number => {
        let address = native.reserve(bytes);
        for (; address > 0; address = native.reserve(bytes)) spans.push([address, bytes]);
        return address;
      };
      expect(reserveUntilRefused(GREAT)).toBe(-EDQUOT);
      expect(spans).toHaveLength(8);
      const ordinary = check('reserve', native.reserve(ORDINARY));
      expect(native.unreserve(ordinary, ORDINARY)).toBe(0);
      const [address, bytes] = spans.pop()!;
      expect(native.unreserve(address, bytes)).toBe(0);
      spans.push([check('reserve', native.reserve(GREAT)), GREAT]);
      for (const one of spans) expect(native.unreserve(...one)).toBe(0);
    });

    it('makes many views of great memory without a garbage collection for each', () => {
      const script = `
        const native = require(${JSON.stringify(addonPath)});
        const [SPAN, WINDOW] = [2 ** 36, 2 ** 24];
        const base = native.reserve(SPAN);
        const views = [];
        for (let at = 0; at < SPAN; at += WINDOW) views.push(native.view(base + at, WINDOW));
        for (const view of views) native.detach(view);
        console.log(views.length, 'views');`;
      const { stdout } = spawnSync(process.execPath, ['--trace-gc', '-e', script], { encoding: 'utf8' });
      expect(stdout).toContain('4096 views');
      // One may fall into that time by itself.
      expect(stdout.split('Mark-Compact').length).toBeLessThan(5);
    });

    it('leaves a view of length 0 behind when it is detached', () => {
      const address = check('mmap', native.mapShared(-1, 0, PAGE));
      const view = native.view(address, PAGE);
      const bytes = new Uint8Array(view);
      bytes[9] = 1;
      expect(native.addressOf(bytes)).toBe(address);
      native.detach(view);
      native.unmap(address, PAGE);
      expect([view.byteLength, bytes.length, bytes[9]]).toEqual([0, 0, undefined]);
    });

    it('survives a fault in a guarded span, counts it there, and reads zeroes', () => {
      const fd = check('memfd', native.memfd('cut', 2 * PAGE));
      const address = check('mmap', native.mapShared(fd, 0, 2 * PAGE));
      const faults = new Int32Array(native.guardFaults());
      const slot = check('guard', native.guardAdd(address, 2 * PAGE, PAGE));
      const other = check('guard', native.guardAdd(2 ** 46, PAGE, PAGE));
      const [all, here] = [faults[0]!, faults[slot + 1]!];
      ftruncateSync(fd, 0);
      const bytes = new Uint8Array(4).fill(9);
      native.peek(address + PAGE, bytes, 0, 4);
      native.peek(address + PAGE + 8, bytes, 0, 4);
      expect([...bytes]).toEqual([0, 0, 0, 0]);
      expect([faults[0]! - all, faults[slot + 1]! - here, faults[other + 1]]).toEqual([1, 1, 0]);
      native.guardRemove(slot);
      native.guardRemove(other);
      expect(native.guardAdd(address, PAGE, PAGE)).toBe(slot);
      expect(faults[slot + 1]).toBe(0);
      native.guardRemove(slot);
      native.unmap(address, 2 * PAGE);
      closeSync(fd);
    });

    it('does not hide a fault outside every guarded span', () => {
      const script = `
        const native = require(${JSON.stringify(addonPath)});
        const fd = native.memfd('cut', 8192);
        const at = native.mapShared(fd, 0, 8192);
        native.guardAdd(at, 4096, 4096);
        require('node:fs').ftruncateSync(fd, 0);
        native.peek(at, new Uint8Array(1), 0, 1);
        console.log('guarded');
        native.peek(at + 4096, new Uint8Array(1), 0, 1);
        console.log('not reached');`;
      const { stdout, signal } = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' });
      expect([stdout, signal]).toEqual(['guarded\n', 'SIGBUS']);
    });
  });

  describe('files', () => {
    it('tell data from holes', () => {
      const fd = openSync(join(directory, 'sparse'), 'w+');
      ftruncateSync(fd, 64 * PAGE);
      expect(native.seekData(fd, 0)).toBe(-ENXIO);
      expect(native.seekHole(fd, 0)).toBe(0);
      writeSync(fd, Buffer.alloc(PAGE, 1), 0, PAGE, 8 * PAGE);
      expect(native.seekData(fd, 0)).toBe(8 * PAGE);
      expect(native.seekHole(fd, 8 * PAGE)).toBe(9 * PAGE);
      expect(native.seekData(fd, 9 * PAGE)).toBe(-ENXIO);
      expect(native.seekHole(fd, 64 * PAGE)).toBe(-ENXIO);
      closeSync(fd);
    });

    it('give space back where a hole is punched', () => {
      const PUNCH_HOLE_KEEP_SIZE = 3;
      const fd = openSync(join(directory, 'punched'), 'w+');
      writeSync(fd, Buffer.alloc(4 * PAGE, 1));
      expect(native.allocate(fd, PUNCH_HOLE_KEEP_SIZE, PAGE, PAGE)).toBe(0);
      expect(native.seekHole(fd, 0)).toBe(PAGE);
      expect(native.seekData(fd, PAGE)).toBe(2 * PAGE);
      expect(fstatSync(fd).size).toBe(4 * PAGE);
      closeSync(fd);
    });

    it('have ranges copied into them, at another place too', () => {
      const [from, to] = [openSync(join(directory, 'from'), 'w+'), openSync(join(directory, 'to'), 'w+')];
      writeSync(from, Buffer.alloc(2 * PAGE, 5), 0, 2 * PAGE, PAGE);
      expect(native.copyRange(to, 4 * PAGE, from, PAGE, 2 * PAGE)).toBe(2 * PAGE);
      const seen = Buffer.alloc(2 * PAGE);
      expect(readSync(to, seen, 0, 2 * PAGE, 4 * PAGE)).toBe(2 * PAGE);
      expect(seen.every((byte) => byte === 5)).toBe(true);
      expect(native.copyRange(to, 0, from, 8 * PAGE, PAGE)).toBe(0);
      expect(native.copyRange(to, 0, -1, 0, PAGE)).toBe(-9);
      closeSync(from);
      closeSync(to);
    });

    it('are locked by one open description at a time, until it is closed', () => {
      const path = join(directory, 'lock');
      const [first, second] = [openSync(path, 'w'), openSync(path, 'w')];
      expect(native.lockExclusive(first)).toBe(0);
      expect(native.lockExclusive(second)).toBe(-EAGAIN);
      closeSync(first);
      expect(native.lockExclusive(second)).toBe(0);
      closeSync(second);
    });
  });

  it('have a clock that counts microseconds across its wrap', async () => {
    const start = native.clockMicros();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const passed = (native.clockMicros() - start) | 0;
    expect(passed).toBeGreaterThanOrEqual(19_000);
    expect(passed).toBeLessThan(10_000_000);
  });
});
