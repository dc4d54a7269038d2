import { NO_LIMITS, type RateLimits, rateLimitsOf } from '@cairn/block-export';

const SECTOR_BYTES = 512;

/** What can be asked of a running `cairn export`; `file` says which, when it serves several. */
export type ControlRequest =
  | { verb: 'resize'; file?: string; sizeBytes: number }
  | { verb: 'limit'; file?: string; limits: RateLimits }
  | { verb: 'status' };

/** Reads a request. Throws an Error that says what is wrong with it; unknown fields are refused. */
export function parseControlRequest(line: string): ControlRequest {
  const { verb, file, ...rest } = objectOf(JSON.parse(line), 'a request');
  if (file !== undefined && typeof file !== 'string') throw new Error('file must be a string');
  const named = file === undefined ? {} : { file };
  switch (verb) {
    case 'resize': {
      const { sizeBytes, ...others } = rest;
      refuseUnknown(others);
      const bytes = wholeNumber(sizeBytes, 'sizeBytes');
      if (bytes === 0 || bytes % SECTOR_BYTES !== 0)
        throw new Error(`sizeBytes must be a multiple of ${SECTOR_BYTES} above 0`);
      return { verb, ...named, sizeBytes: bytes };
    }
    case 'limit': {
      const { limits, ...others } = rest;
      refuseUnknown(others);
      const fields = objectOf(limits, 'limits');
      const known = Object.keys(NO_LIMITS);
      refuseUnknown(Object.fromEntries(Object.entries(fields).filter(([name]) => !known.includes(name))));
      const numbers = Object.entries(fields).map(([name, value]) => [name, wholeNumber(value, name)]);
      return { verb, ...named, limits: rateLimitsOf(Object.fromEntries(numbers)) };
    }
    case 'status':
      refuseUnknown(rest);
      return { verb };
    default:
      throw new Error(`unknown verb ${JSON.stringify(verb)}`);
  }
}

const objectOf = (value: unknown, what: string): Record<string, unknown> => {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is a JSON object`);
  return value as Record<string, unknown>;
};

const refuseUnknown = (fields: object): void => {
  const [unknown] = Object.keys(fields);
  if (unknown !== undefined) throw new Error(`unknown field '${unknown}'`);
};

const wholeNumber = (value: unknown, name: string): number => {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new Error(`${name} must be a whole number`);
};
