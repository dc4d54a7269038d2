import { idRule, isId, type FieldFault, type Id, type IdPrefix } from '@cairn/domain';

/** Bounds of an integer field, both included. */
export interface IntegerBounds {
  readonly min: number;
  readonly max?: number;
  readonly multipleOf?: number;
}

/**
 * Reads an untrusted JSON value field by field and collects every fault.
 *
 * A field that fails reads as a harmless value of its type, so the caller can go on to the next one;
 * nothing read is trusted until `finish()` has returned the empty list. A strict reader refuses fields
 * that nobody read; a lenient one ignores them (answers of a newer process than this one).
 */
export class ObjectReader {
  private readonly source: Readonly<Record<string, unknown>>;
  private readonly read = new Set<string>();

  private constructor(
    value: unknown,
    private readonly path: string,
    private readonly faults: FieldFault[],
    private readonly refusesUnknown: boolean,
  ) {
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
      this.source = Object.fromEntries(Object.entries(value));
    } else {
      this.source = {};
      this.faults.push({ field: path === '' ? '(body)' : path, message: 'must be a JSON object' });
    }
  }

  /** Starts at the top of a request or of a file of ours. */
  static strict(value: unknown): ObjectReader {
    return new ObjectReader(value, '', [], true);
  }

  /** Starts at the top of an answer. */
  static lenient(value: unknown): ObjectReader {
    return new ObjectReader(value, '', [], false);
  }

  /** A text that matches `pattern`; `what` completes "must be …". */
  text(field: string, pattern: RegExp, what: string): string {
    const value = this.take(field);
    if (typeof value === 'string' && pattern.test(value)) return value;
    return this.fault(field, `must be ${what}`, '');
  }

  /** Like `text`, or `undefined` when the field is absent or null. */
  optionalText(field: string, pattern: RegExp, what: string): string | undefined {
    return this.isAbsent(field) ? undefined : this.text(field, pattern, what);
  }

  /** An id with that prefix. */
  id<P extends IdPrefix>(field: string, prefix: P): Id<P> {
    const value = this.take(field);
    if (isId(prefix, value)) return value;
    return this.fault(field, `must be ${prefix}- ${idRule}`, `${prefix}-` as const);
  }

  /** Like `id`, or `undefined` when the field is absent or null. */
  optionalId<P extends IdPrefix>(field: string, prefix: P): Id<P> | undefined {
    return this.isAbsent(field) ? undefined : this.id(field, prefix);
  }

  /** One of a closed list of words. */
  word<Word extends string>(field: string, words: readonly [Word, ...Word[]]): Word {
    const value = this.take(field);
    const found = words.find((word) => word === value);
    return found ?? this.fault(field, `must be one of ${words.join(', ')}`, words[0]);
  }

  /** An integer that a JSON number holds exactly: a u64 above 2^53-1 is a fault, never a rounded value. */
  integer(field: string, bounds: IntegerBounds): number {
    const value = this.take(field);
    const max = bounds.max ?? Number.MAX_SAFE_INTEGER;
    const multipleOf = bounds.multipleOf ?? 1;
    if (
      typeof value === 'number' &&
      Number.isSafeInteger(value) &&
      value >= bounds.min &&
      value <= max &&
      value % multipleOf === 0
    ) {
      return value;
    }
    const multiple = multipleOf === 1 ? 'an integer' : `a multiple of ${multipleOf}`;
    return this.fault(field, `must be ${multiple} from ${bounds.min} to ${max}`, bounds.min);
  }

  /** Like `integer`, or `undefined` when the field is absent or null. */
  optionalInteger(field: string, bounds: IntegerBounds): number | undefined {
    return this.isAbsent(field) ? undefined : this.integer(field, bounds);
  }

  /** True or false, and nothing that only looks like it. */
  flag(field: string): boolean {
    const value = this.take(field);
    return typeof value === 'boolean' ? value : this.fault(field, 'must be true or false', false);
  }

  /** A nested object, read by `parse`; its unknown fields are faults too. */
  object<Value>(field: string, parse: (reader: ObjectReader) => Value): Value {
    return this.nested(this.take(field), this.at(field), parse);
  }

  /** Like `object`, or `undefined` when the field is absent or null. */
  optionalObject<Value>(field: string, parse: (reader: ObjectReader) => Value): Value | undefined {
    return this.isAbsent(field) ? undefined : this.object(field, parse);
  }

  /** A list of objects, each read by `parse`. */
  list<Value>(field: string, parse: (reader: ObjectReader) => Value): Value[] {
    const value = this.take(field);
    if (!Array.isArray(value)) return this.fault(field, 'must be a list', []);
    return value.map((item: unknown, index) => this.nested(item, `${this.at(field)}[${index}]`, parse));
  }

  /** Adds a fault that no single-field rule can see. */
  refuse(field: string, message: string): void {
    this.faults.push({ field: this.at(field), message });
  }

  /** Every fault; for a strict reader the unread fields are among them. */
  finish(): readonly FieldFault[] {
    if (!this.refusesUnknown) return this.faults;
    for (const field of Object.keys(this.source)) {
      if (!this.read.has(field)) this.refuse(field, 'is not a known field');
    }
    return this.faults;
  }

  private nested<Value>(value: unknown, path: string, parse: (reader: ObjectReader) => Value): Value {
    const reader = new ObjectReader(value, path, this.faults, this.refusesUnknown);
    const parsed = parse(reader);
    reader.finish();
    return parsed;
  }

  private take(field: string): unknown {
    this.read.add(field);
    return Object.hasOwn(this.source, field) ? this.source[field] : undefined;
  }

  private isAbsent(field: string): boolean {
    const value = this.take(field);
    return value === undefined || value === null;
  }

  private at(field: string): string {
    return this.path === '' ? field : `${this.path}.${field}`;
  }

  private fault<Value>(field: string, message: string, harmless: Value): Value {
    this.refuse(field, message);
    return harmless;
  }
}
