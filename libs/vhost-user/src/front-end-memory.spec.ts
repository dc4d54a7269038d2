import { openSync, readdirSync } from 'node:fs';
import { GuestRam } from '@cairn/virtio/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FrontEndMemory } from './front-end-memory.js';
import { MAX_MEMORY_SLOTS, type RegionMessage } from './messages.js';
import { VhostUserError } from './vhost-user-error.js';

const openDescriptors = () => readdirSync('/proc/self/fd').length;

const faultOf = (action: () => unknown): string | undefined => {
  try {
    action();
    return undefined;
  } catch (error) {
    if (error instanceof VhostUserError) return error.fault;
    throw error;
  }
};

describe('the memory that a front-end shares', () => {
  let ram: GuestRam;
  let memory: FrontEndMemory;
  let before: number;
  let messages: RegionMessage[];

  beforeEach(() => {
    ram = new GuestRam([
      { gpa: 0, sizeBytes: 0x1000 },
      { gpa: 0x4000, sizeBytes: 0x2000 },
    ]);
    messages = ram.regions.map(({ gpa, sizeBytes, userAddress, mmapOffsetBytes }) => {
      return { gpa, sizeBytes, userAddress, mmapOffsetBytes };
    });
    memory = new FrontEndMemory();
    before = openDescriptors();
  });
  afterEach(() => {
    memory.close();
    // Whatever happened: every descriptor that was given is closed by now, and closed once.
    expect(openDescriptors()).toBe(before);
    ram.close();
  });

  /** Descriptors as they come with a message: the receiver's own. */
  const fds = (regions = ram.regions) => regions.map(({ fd }) => openSync(`/proc/self/fd/${fd}`, 'r+'));
  const [first, second] = [0, 1];
  const runs = () => memory.mapped?.layout.runs.map(({ gpa }) => gpa);

  it('is in force only when it is committed', () => {
    const next = memory.replace(messages, fds());
    expect([memory.mapped, memory.regions]).toEqual([undefined, []]);
    memory.commit(next);
    expect(runs()).toEqual([0, 0x4000]);
  });

  it('refuses another number of descriptors than of regions, and closes them all', () => {
    expect(faultOf(() => memory.replace(messages, fds(ram.regions.slice(1))))).toBe(
      'descriptor-count-invalid',
    );
    expect(memory.regions).toEqual([]);
  });

  it('refuses regions without a descriptor, descriptors without a region, and nothing at all', () => {
    expect(faultOf(() => memory.replace(messages, []))).toBe('descriptor-count-invalid');
    expect(faultOf(() => memory.replace([], fds()))).toBe('descriptor-count-invalid');
    expect(faultOf(() => memory.replace([], []))).toBe('descriptor-count-invalid');
  });

  it('closes the descriptors of a table that cannot be mapped', () => {
    const overlapping = messages.map((message) => ({ ...message, gpa: 0 }));
    expect(faultOf(() => memory.replace(overlapping, fds()))).toBe('memory-regions-overlap');
  });

  it('closes the old descriptors when a new table comes into force', () => {
    memory.commit(memory.replace(messages, fds()));
    memory.commit(memory.replace(messages.slice(1), fds(ram.regions.slice(1))));
    expect(runs()).toEqual([0x4000]);
  });

  it('keeps the descriptors of regions that stay, when one is added or removed', () => {
    const [one, other] = fds();
    memory.commit(memory.replace([messages[first]!], [one!]));
    memory.commit(memory.add(messages[second]!, other!));
    expect(runs()).toEqual([0, 0x4000]);
    expect(memory.regions[0]!.fd).toBe(one);
    memory.commit(memory.remove(messages[first]!));
    expect(runs()).toEqual([0x4000]);
    expect(memory.regions[0]!.fd).toBe(other);
    memory.commit(memory.remove(messages[second]!));
    expect([runs(), memory.mapped]).toEqual([undefined, undefined]);
  });

  it('drops what was prepared and is not wanted, and only that', () => {
    const [one, other] = fds();
    memory.commit(memory.replace([messages[first]!], [one!]));
    memory.discard(memory.add(messages[second]!, other!));
    expect(runs()).toEqual([0]);
    memory.discard(memory.remove(messages[first]!));
    expect(runs()).toEqual([0]);
  });

  it('refuses a region that overlaps, and closes its descriptor alone', () => {
    const [one, other] = fds();
    memory.commit(memory.replace([messages[first]!], [one!]));
    const overlapping = { ...messages[second]!, gpa: 0 };
    expect(faultOf(() => memory.add(overlapping, other!))).toBe('memory-regions-overlap');
    expect(runs()).toEqual([0]);
  });

  it.each(['gpa', 'sizeBytes', 'userAddress'] as const)(
    'removes no region whose %s is another (vhost-user, REM_MEM_REG)',
    (key) => {
      memory.commit(memory.replace(messages, fds()));
      const wrong = { ...messages[second]!, [key]: messages[second]![key] + 0x1000 };
      expect(faultOf(() => memory.remove(wrong))).toBe('memory-region-invalid');
      expect(runs()).toEqual([0, 0x4000]);
    },
  );

  it('has room for as many regions as it tells of (vhost-user, GET_MAX_MEM_SLOTS)', () => {
    const many = new GuestRam(
      Array.from({ length: MAX_MEMORY_SLOTS + 1 }, (_, i) => ({ gpa: i * 0x1000, sizeBytes: 0x1000 })),
    );
    const add = (index: number) => {
      const { fd, ...message } = many.regions[index]!;
      return memory.add(message, openSync(`/proc/self/fd/${fd}`, 'r+'));
    };
    for (let index = 0; index < MAX_MEMORY_SLOTS; index += 1) memory.commit(add(index));
    expect(faultOf(() => add(MAX_MEMORY_SLOTS))).toBe('memory-region-invalid');
    expect(runs()).toHaveLength(MAX_MEMORY_SLOTS);
    memory.close();
    many.close();
    before = openDescriptors();
  });
});
