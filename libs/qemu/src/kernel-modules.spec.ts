import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dependenciesOf, readModules } from './kernel-modules.js';
import { QemuError } from './qemu-error.js';

const module = (depends: string) =>
  Buffer.from(`\x7fELF…\0license=GPL\0depends=${depends}\0name=x\0`, 'latin1');

describe('kernel modules', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'cairn-modules-'));
    mkdirSync(join(directory, 'kernel/drivers'), { recursive: true });
    writeFileSync(join(directory, 'modules.builtin'), 'kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10dif.ko\n');
    const add = (name: string, depends: string) =>
      writeFileSync(join(directory, 'kernel/drivers', `${name}.ko`), module(depends));
    add('virtio', '');
    add('virtio-ring', 'virtio');
    add('virtio_blk', 'virtio_ring,virtio,crc-t10dif');
    add('broken', 'nowhere');
    writeFileSync(join(directory, 'kernel/packed.ko.gz'), gzipSync(module('virtio')));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('reads the dependencies of a module from its .modinfo section', () => {
    expect(dependenciesOf(module('a,b-c'))).toEqual(['a', 'b_c']);
    expect(dependenciesOf(module(''))).toEqual([]);
    expect(dependenciesOf(Buffer.from('no modinfo'))).toEqual([]);
  });

  it('orders modules after what they depend on, each once, and leaves out what is built in', () => {
    const names = readModules(directory, ['virtio_blk', 'virtio', 'ext4']).map(({ name }) => name);
    expect(names).toEqual(['virtio', 'virtio_ring', 'virtio_blk']);
  });

  it('unpacks compressed modules', () => {
    expect(readModules(directory, ['packed'])[1]?.content).toEqual(module('virtio'));
  });

  it('names a module that does not exist', () => {
    expect(() => readModules(directory, ['broken'])).toThrow(QemuError);
    expect(() => readModules(directory, ['broken'])).toThrow(/no kernel module nowhere/);
  });
});
