import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { native } from '@cairn/native';
import type { Disk, DiskFile } from '../disk.js';
import { systemDisk } from '../disk.js';
import { BLOCK_BYTES } from '../layer-format.js';

// A disk that writes down what was done to it, and what a power cut may leave.
//
// A change of a file is certain when an fsync of that file, issued after the change had completed, has completed; a
// change of a name when an fsync of its directory has. Everything else may be there or not, each by itself; but what was
// done to one block of a file is there up to some moment, as a page is written whole, and a new block never shows before
// what was first written to it.

type Effect =
  | { kind: 'create'; path: string; file: number }
  | { kind: 'rename'; from: string; path: string; file: number }
  | { kind: 'remove'; path: string }
  | { kind: 'write'; file: number; position: number; bytes: Uint8Array }
  | { kind: 'truncate'; file: number; sizeBytes: number }
  | { kind: 'punch'; file: number; position: number; lengthBytes: number }
  /** Makes certain what was there before `upTo`. */
  | { kind: 'sync'; file: number; upTo: number }
  | { kind: 'sync-directory'; directory: string; upTo: number };

const PUNCH_KEEP_SIZE = 3;

/** Writes down every effect on a directory, beside having it. */
export class RecordingDisk implements Disk {
  private readonly effects: Effect[] = [];
  private readonly names = new Map<string, number>();
  private files = 0;

  constructor(
    private readonly root: string,
    private readonly inner: Disk = systemDisk,
  ) {}

  /** Effects so far. */
  get length(): number {
    return this.effects.length;
  }

  async open(path: string, flags: 'r' | 'r+' | 'wx+'): Promise<DiskFile> {
    const file = await this.inner.open(path, flags);
    const name = relative(this.root, path);
    if (flags === 'wx+') {
      this.files += 1;
      this.names.set(name, this.files);
      this.effects.push({ kind: 'create', path: name, file: this.files });
    }
    const id = this.names.get(name);
    if (id === undefined) throw new Error(`${name} was not made by this disk`);
    return this.recorded(file, id);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.inner.rename(from, to);
    const [before, path] = [relative(this.root, from), relative(this.root, to)];
    const file = this.names.get(before)!;
    this.names.delete(before);
    this.names.set(path, file);
    this.effects.push({ kind: 'rename', from: before, path, file });
  }

  async remove(path: string): Promise<void> {
    await this.inner.remove(path);
    const name = relative(this.root, path);
    if (this.names.delete(name)) this.effects.push({ kind: 'remove', path: name });
  }

  async syncDirectory(path: string): Promise<void> {
    const upTo = this.length;
    await this.inner.syncDirectory(path);
    this.effects.push({ kind: 'sync-directory', directory: relative(this.root, path) || '.', upTo });
  }

  readText(path: string): Promise<string> {
    return this.inner.readText(path);
  }

  list(directory: string): Promise<string[]> {
    return this.inner.list(directory);
  }

  stat(path: string): ReturnType<Disk['stat']> {
    return this.inner.stat(path);
  }

  /**
   * Makes `directory` what a power cut after the first `length` effects may leave: all that was certain, and of the rest
   * what `keep` says.
   */
  replay(directory: string, length: number, keep: (index: number) => boolean): void {
    const there = this.effects.slice(0, length);
    const certain = this.certainOf(there);
    const names = new Map<string, number>();
    const handles = new Map<number, Effect[]>();
    const lastKept = new Map<string, number>();
    const isKept = (index: number): boolean => certain.has(index) || keep(index);
    for (const [index, effect] of there.entries()) {
      if (isKept(index)) for (const { key } of piecesOf(effect)) lastKept.set(key, index);
    }
    for (const [index, effect] of there.entries()) {
      if (effect.kind === 'sync' || effect.kind === 'sync-directory') continue;
      if (effect.kind === 'write' || effect.kind === 'punch') {
        const pieces = piecesOf(effect).filter(({ key }) => (lastKept.get(key) ?? -1) >= index);
        const before = handles.get(effect.file) ?? [];
        handles.set(effect.file, [...before, ...pieces.map(({ piece }) => piece)]);
        continue;
      }
      if (!isKept(index)) continue;
      if (effect.kind === 'create') names.set(effect.path, effect.file);
      else if (effect.kind === 'remove') names.delete(effect.path);
      else if (effect.kind === 'rename') {
        if (names.get(effect.from) === effect.file) names.delete(effect.from);
        names.set(effect.path, effect.file);
      } else handles.set(effect.file, [...(handles.get(effect.file) ?? []), effect]);
    }
    for (const [name, file] of names) {
      const path = join(directory, name);
      mkdirSync(dirname(path), { recursive: true });
      applyAll(path, handles.get(file) ?? []);
    }
  }

  /** What tells one replay from another, so that equal ones are tried once. */
  stateOf(length: number, keep: (index: number) => boolean): string {
    const there = this.effects.slice(0, length);
    const certain = this.certainOf(there);
    const hash = createHash('sha1');
    for (const [index, { kind }] of there.entries()) {
      if (kind !== 'sync' && kind !== 'sync-directory' && (certain.has(index) || keep(index)))
        hash.update(`${index} `);
    }
    return hash.digest('hex');
  }

  private certainOf(effects: readonly Effect[]): Set<number> {
    const certain = new Set<number>();
    for (const [at, sync] of effects.entries()) {
      if (sync.kind !== 'sync' && sync.kind !== 'sync-directory') continue;
      for (let i = 0; i < Math.min(sync.upTo, at); i += 1) {
        const effect = effects[i]!;
        if (sync.kind === 'sync' && 'file' in effect && !('path' in effect) && effect.file === sync.file)
          certain.add(i);
        if (sync.kind === 'sync-directory' && 'path' in effect && dirname(effect.path) === sync.directory)
          certain.add(i);
      }
    }
    return certain;
  }

  private recorded(file: DiskFile, id: number): DiskFile {
    const { effects } = this;
    return {
      fd: file.fd,
      read: (into, position) => file.read(into, position),
      async write(from, position) {
        await file.write(from, position);
        effects.push({ kind: 'write', file: id, position, bytes: from.slice() });
      },
      async truncate(sizeBytes) {
        await file.truncate(sizeBytes);
        effects.push({ kind: 'truncate', file: id, sizeBytes });
      },
      async punch(position, lengthBytes) {
        await file.punch(position, lengthBytes);
        effects.push({ kind: 'punch', file: id, position, lengthBytes });
      },
      async copyFrom(source, position, lengthBytes) {
        const bytes = new Uint8Array(lengthBytes);
        await source.read(bytes, position);
        await file.copyFrom(source, position, lengthBytes);
        effects.push({ kind: 'write', file: id, position, bytes });
      },
      async sync() {
        const upTo = effects.length;
        await file.sync();
        effects.push({ kind: 'sync', file: id, upTo });
      },
      close: () => file.close(),
    };
  }
}

/** A change of a file's bytes, a block at a time; `key` names the block. */
const piecesOf = (effect: Effect): { key: string; piece: Effect }[] => {
  if (effect.kind !== 'write' && effect.kind !== 'punch') return [];
  const { file, position } = effect;
  const end = position + (effect.kind === 'write' ? effect.bytes.length : effect.lengthBytes);
  const pieces: { key: string; piece: Effect }[] = [];
  for (let at = position; at < end;) {
    const block = Math.floor(at / BLOCK_BYTES);
    const stop = Math.min(end, (block + 1) * BLOCK_BYTES);
    const piece: Effect =
      effect.kind === 'write'
        ? { kind: 'write', file, position: at, bytes: effect.bytes.subarray(at - position, stop - position) }
        : { kind: 'punch', file, position: at, lengthBytes: stop - at };
    pieces.push({ key: `${file} ${block}`, piece });
    at = stop;
  }
  return pieces;
};

const applyAll = (path: string, effects: readonly Effect[]): void => {
  writeFileSync(path, '', { mode: 0o600 });
  const fd = openSync(path, 'r+');
  try {
    for (const effect of effects) {
      if (effect.kind === 'write') writeSync(fd, effect.bytes, 0, effect.bytes.length, effect.position);
      else if (effect.kind === 'truncate') ftruncateSync(fd, effect.sizeBytes);
      else if (effect.kind === 'punch')
        native.allocate(fd, PUNCH_KEEP_SIZE, effect.position, effect.lengthBytes);
    }
  } finally {
    closeSync(fd);
  }
};
