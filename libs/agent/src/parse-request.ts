import { idRule, isId, type Id, type IdPrefix } from '@cairn/domain';
import { AgentError } from './agent.errors.js';
import { ObjectReader } from './object-reader.js';

/** An instant in UTC (RFC 3339), as `Date.toISOString` writes it. */
export const instantPattern = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z$/;

/** Reads a request of which every field is known. Throws `invalid-argument` with every fault. */
export function parseRequest<Value>(source: unknown, read: (reader: ObjectReader) => Value): Value {
  const reader = ObjectReader.strict(source);
  const value = read(reader);
  const errors = reader.finish();
  // Trusted from here: every field was checked and no other is there.
  if (errors.length === 0) return value;
  const listed = errors.map(({ field, message }) => `${field} ${message}`).join('; ');
  throw new AgentError('invalid-argument', listed, { errors });
}

/** Reads an id of a path. Throws `invalid-argument`. */
export function parsePathId<P extends IdPrefix>(prefix: P, field: string, text: string): Id<P> {
  if (isId(prefix, text)) return text;
  throw new AgentError('invalid-argument', `the ${field} is not one`, {
    errors: [{ field, message: `must be ${prefix}- ${idRule}` }],
  });
}
