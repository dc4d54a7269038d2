import { closeSync } from 'node:fs';
import { check, native } from '@cairn/native';
import { type Choices, fuzz, fuzzBudget } from '@cairn/virtio/testing';
import { afterAll, describe, it, vi } from 'vitest';
import { MappedMemory, MAX_SPAN_BYTES } from './memory-table.js';
import { messageTable, REQUEST } from './message-table.js';
import { HEADER_BYTES, MAX_REGIONS, Message, type RegionMessage } from './messages.js';
import { Connection } from './connection.js';
import { VhostUserError } from './vhost-user-error.js';

// Everything that a front-end's bytes are parsed by: nearly valid input, of which a field or two are off. A parser may
// refuse with its own error; what it takes must be numbers that are exact, and memory that is mapped whole.

vi.setConfig({ testTimeout: 20_000 + 1_000 * fuzzBudget(0).seconds });

const PAGE = 4096;
const CODES = Object.values(REQUEST);
const rates: string[] = [];
const report = (name: string, perSecond: number): void => {
  rates.push(`${name}: ${Math.round(perSecond).toLocaleString('en')} cases a second of CPU`);
};

/** What a parser gives; undefined when it refused with its own error. */
const taken = <T>(parse: () => T): T | undefined => {
  try {
    return parse();
  } catch (error) {
    if (error instanceof VhostUserError && error.fault !== 'internal') return undefined;
    throw error;
  }
};

const requireExact = (...numbers: (number | undefined)[]): void => {
  for (const number of numbers) {
    if (number !== undefined && !(Number.isSafeInteger(number) && number >= 0))
      throw new Error(`got ${number}`);
  }
};

const requireExactRegion = ({ gpa, sizeBytes, userAddress, mmapOffsetBytes }: RegionMessage): void =>
  requireExact(gpa, sizeBytes, userAddress, mmapOffsetBytes);

/** Fills a payload with numbers that are mostly small, in words of 32 bits. */
const fill = (choices: Choices, payload: Uint8Array): void => {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  for (let at = 0; at + 4 <= payload.length; at += 4) {
    const high = at % 8 === 4;
    const off = choices.oneIn(high ? 24 : 3);
    view.setUint32(at, off ? choices.interesting() : high ? 0 : choices.below(300), true);
  }
};

describe('what a front-end’s bytes are parsed by', () => {
  afterAll(() => console.log(rates.join('\n')));

  it('takes only exact numbers from messages', () => {
    const perSecond = fuzz(fuzzBudget(20_000), (choices) => {
      const code = CODES[choices.below(CODES.length)]!;
      const [least, most] = messageTable[code].payload;
      const payload = new Uint8Array(choices.oneIn(4) ? least + choices.below(most - least + 1) : least);
      fill(choices, payload);
      const fds = choices.oneIn(2) ? [3] : [];
      const message = new Message(code, choices.u32(), payload, fds);
      switch (code as number) {
        case REQUEST.SET_MEM_TABLE:
          new DataView(payload.buffer).setUint32(
            0,
            choices.oneIn(8) ? choices.u32() : choices.below(10),
            true,
          );
          for (const region of taken(() => message.regions()) ?? []) requireExactRegion(region);
          return;
        case REQUEST.ADD_MEM_REG:
        case REQUEST.REM_MEM_REG: {
          const region = taken(() => message.region());
          if (region) requireExactRegion(region);
          return;
        }
        case REQUEST.SET_VRING_ADDR: {
          const address = taken(() => message.vringAddress());
          if (address)
            requireExact(address.index, address.descriptors, address.avail, address.used, address.usedLogGpa);
          return;
        }
        case REQUEST.SET_LOG_BASE: {
          const log = taken(() => message.log());
          if (log) requireExact(log.sizeBytes, log.offsetBytes);
          return;
        }
        case REQUEST.GET_INFLIGHT_FD:
        case REQUEST.SET_INFLIGHT_FD: {
          const area = taken(() => message.inflight());
          if (area) requireExact(area.sizeBytes, area.offsetBytes, area.numQueues, area.queueSize);
          return;
        }
        case REQUEST.SET_VRING_KICK:
        case REQUEST.SET_VRING_CALL:
        case REQUEST.SET_VRING_ERR: {
          const file = taken(() => message.vringFile());
          if (file && (file.index > 255 || fds.length > 1)) throw new Error(`ring ${file.index}`);
          return;
        }
        case REQUEST.GET_CONFIG:
        case REQUEST.SET_CONFIG: {
          const config = taken(() => message.config());
          if (config && config.size !== config.data.length) throw new Error(`${config.size} bytes`);
          return;
        }
        default:
          if (payload.length >= 8) taken(() => message.u64(0));
      }
    });
    report('messages', perSecond);
  });

  it('takes only whole messages of known codes off a socket', () => {
    const pair = new Int32Array(2);
    check('socketPair', native.socketPair(pair));
    const [ours, theirs] = [pair[0]!, pair[1]!];
    check('setNonblocking', native.setNonblocking(theirs, 1));
    let connection = new Connection(theirs);
    const bytes = new Uint8Array(HEADER_BYTES + 512);
    const view = new DataView(bytes.buffer);
    const none = new Int32Array(0);
    const rest = new Uint8Array(1024);
    const perSecond = fuzz(fuzzBudget(5_000), (choices) => {
      const code = choices.oneIn(16) ? choices.interesting() : CODES[choices.below(CODES.length)]!;
      const rule = messageTable[code as keyof typeof messageTable] as (typeof messageTable)[1] | undefined;
      const size = choices.oneIn(16) ? choices.interesting() : (rule?.payload[0] ?? 0);
      view.setUint32(0, code, true);
      view.setUint32(4, choices.oneIn(16) ? choices.interesting() : 1, true);
      view.setUint32(8, size, true);
      const length = HEADER_BYTES + (choices.oneIn(16) ? choices.below(500) : Math.min(size, 500));
      if (native.send(ours, bytes, 0, length, none, 0) !== length) throw new Error('not sent');
      let whole = 0;
      try {
        for (let next = connection.next(); next !== undefined; next = connection.next()) {
          if (next === 'closed') throw new Error('the socket is closed');
          if (next.message.payload.length > next.rule.payload[1]) throw new Error('a payload too long');
          whole += 1;
        }
        if (whole > 1 + length / HEADER_BYTES) throw new Error(`${whole} messages`);
      } catch (error) {
        if (!(error instanceof VhostUserError)) throw error;
      }
      // The next case begins with nothing on the way.
      while (native.receive(theirs, rest, 0, rest.length, new Int32Array(1)) > 0);
      connection = new Connection(theirs);
    });
    closeSync(ours);
    closeSync(theirs);
    report('messages off a socket', perSecond);
  });

  it('maps only memory that is there, whole', () => {
    const fd = check('memfd', native.memfd('guest', 16 * PAGE));
    let maps = 0;
    const perSecond = fuzz(fuzzBudget(1_000), (choices) => {
      const pages = (limit: number): number =>
        choices.oneIn(24) ? choices.interesting() : PAGE * choices.below(limit);
      const regions = Array.from({ length: choices.below(MAX_REGIONS + 1) }, (_, index) => ({
        message: {
          gpa: choices.oneIn(24) ? PAGE * choices.u32() : (index * 64 + choices.below(4)) * PAGE,
          sizeBytes: PAGE + pages(4),
          userAddress: 0x7000_0000 + index * 64 * PAGE + pages(4),
          mmapOffsetBytes: pages(12),
        },
        fd,
      }));
      const mapped = taken(() => MappedMemory.map(regions));
      if (!mapped) return;
      maps += 1;
      const byte = new Uint8Array(1);
      const lowest = Math.min(...regions.map(({ message }) => message.gpa));
      for (const { message } of regions) {
        const { gpa, sizeBytes, userAddress } = message;
        if (gpa + sizeBytes - lowest > MAX_SPAN_BYTES) throw new Error(`memory up to ${gpa + sizeBytes}`);
        if (mapped.gpaOf(userAddress, sizeBytes) !== gpa) throw new Error(`user address ${userAddress}`);
        // Outside of what is mapped this ends the process.
        native.peek(mapped.layout.baseAddress + gpa, byte, 0, 1);
        native.peek(mapped.layout.baseAddress + gpa + sizeBytes - 1, byte, 0, 1);
      }
      if (mapped.faulted) throw new Error('memory past the end of its file');
      mapped.unmap();
    });
    closeSync(fd);
    if (maps === 0) throw new Error('no table was good');
    report('memory tables', perSecond);
  });
});
