import { closeSync } from 'node:fs';

// What one process hands to the next: a tree of plain values, as it goes through JSON, and descriptors beside it. In
// the tree a descriptor is its place in the list. The peer may be another version, or wrong: everything that is read
// is checked, and a descriptor that nobody has taken is closed.

/** A part of a tree of plain values. */
export type HandedValue =
  string | number | boolean | readonly HandedValue[] | { readonly [name: string]: HandedValue };

/** State and the descriptors that belong to it. */
export interface Handed {
  state: HandedValue;
  fds: number[];
}

/** What was handed over is not what this version understands. */
export class HandedStateError extends Error {
  override readonly name = 'HandedStateError';
}

/** Descriptors that go along with a state; they stay their owner's. */
export class FdList {
  readonly fds: number[] = [];

  /** The place of `fd` in the list, to be written into the state. */
  add(fd: number): number {
    return this.fds.push(fd) - 1;
  }

  /** `{[name]: place}` for a descriptor that is there. */
  entry(name: string, fd: number | undefined): Record<string, number> {
    return fd === undefined ? {} : { [name]: this.add(fd) };
  }
}

/** Descriptors that came with a state: each can be taken once and is then the taker's. */
export class FdBag {
  private readonly fds: (number | undefined)[];

  constructor(fds: readonly number[]) {
    this.fds = [...fds];
  }

  take(place: number): number | undefined {
    const fd = this.fds[place];
    this.fds[place] = undefined;
    return fd;
  }

  /** Closes what nobody has taken. */
  closeRest(): void {
    for (const fd of this.fds) if (fd !== undefined) closeSync(fd);
    this.fds.fill(undefined);
  }
}

/** Reads one object of a handed state, field by field. Each verb throws HandedStateError when the field is not so. */
export class HandedReader {
  private readonly fields: Readonly<Record<string, unknown>>;
  private readonly unread: Set<string>;

  constructor(
    value: unknown,
    private readonly bag: FdBag,
    private readonly path = 'state',
  ) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new HandedStateError(`${path} is no object`);
    }
    this.fields = value as Readonly<Record<string, unknown>>;
    this.unread = new Set(Object.keys(value));
  }

  has(name: string): boolean {
    return this.fields[name] !== undefined;
  }

  integer(name: string, range: { min?: number; max?: number } = {}): number {
    const { min = 0, max = Number.MAX_SAFE_INTEGER } = range;
    const value = this.field(name);
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max)
      return value;
    throw this.refusal(name, `is no whole number from ${min} to ${max}`);
  }

  flag(name: string): boolean {
    const value = this.field(name);
    if (typeof value === 'boolean') return value;
    throw this.refusal(name, 'is neither true nor false');
  }

  text(name: string, maxLength = 4096): string {
    const value = this.field(name);
    if (typeof value === 'string' && value.length <= maxLength) return value;
    throw this.refusal(name, `is no text of at most ${maxLength} characters`);
  }

  /** The descriptor that the field names; the caller owns it from now on. */
  fd(name: string): number {
    const fd = this.bag.take(this.integer(name));
    if (fd !== undefined) return fd;
    throw this.refusal(name, 'names no descriptor that came along');
  }

  object(name: string): HandedReader {
    return new HandedReader(this.field(name), this.bag, `${this.path}.${name}`);
  }

  list(name: string, maxLength: number): HandedReader[] {
    const value = this.field(name);
    if (!Array.isArray(value) || value.length > maxLength) {
      throw this.refusal(name, `is no list of at most ${maxLength}`);
    }
    return value.map((item, index) => new HandedReader(item, this.bag, `${this.path}.${name}[${index}]`));
  }

  /** Reads a field that may be absent. */
  optional<Value>(name: string, read: (name: string) => Value): Value | undefined {
    return this.has(name) ? read(name) : undefined;
  }

  /** To be called when everything was read: a field that is left is one that this version does not know. */
  end(): void {
    const [unknown] = this.unread;
    if (unknown !== undefined) throw this.refusal(unknown, 'is not known to this version');
  }

  private field(name: string): unknown {
    this.unread.delete(name);
    return this.fields[name];
  }

  private refusal(name: string, why: string): HandedStateError {
    return new HandedStateError(`${this.path}.${name} ${why}`);
  }
}
