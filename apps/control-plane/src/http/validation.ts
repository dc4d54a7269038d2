import { DomainError, type FieldFault } from '@cairn/domain';
import { ValidationPipe, type ArgumentMetadata, type ValidationError } from '@nestjs/common';
import { ValidateBy, ValidateIf } from 'class-validator';

/** What is wrong with a value, as a phrase that follows the field's name, or `undefined`. */
export type Check = (value: unknown) => string | undefined;

function checkWith(check: Check): PropertyDecorator {
  return ValidateBy({
    name: 'check',
    validator: {
      validate: (value: unknown) => check(value) === undefined,
      defaultMessage: (args) => check(args?.value) ?? '',
    },
  });
}

/** The field must be there and pass the check. */
export function Required(check: Check): PropertyDecorator {
  return checkWith((value) =>
    value === undefined ? `is missing; it ${check(value) ?? 'is needed'}` : check(value),
  );
}

/** The field may be left out (`null` is not leaving it out); when there, it must pass the check. */
export function Optional(check: Check): PropertyDecorator {
  return (target, property) => {
    ValidateIf((_, value: unknown) => value !== undefined)(target, property);
    checkWith(check)(target, property);
  };
}

// PostgreSQL text cannot hold U+0000 nor half a surrogate pair, and nobody wants line breaks in a name.
// oxlint-disable-next-line no-control-regex
const printable = /^[^\u0000-\u001f\u007f\ud800-\udfff]*$/u;

/** A well-formed text of bounded length without control characters. */
export function text(min: number, max: number): Check {
  return (value) =>
    typeof value === 'string' && value.length >= min && value.length <= max && printable.test(value)
      ? undefined
      : `must be a text of ${min} to ${max} characters without control characters`;
}

/** A whole number within bounds. */
export function wholeNumber(min: number, max: number): Check {
  return (value) =>
    typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max
      ? undefined
      : `must be a whole number from ${min} to ${max}`;
}

/** true or false. */
export const boolean: Check = (value) => (typeof value === 'boolean' ? undefined : 'must be true or false');

/** One of a few words. */
export function oneOf(words: readonly string[]): Check {
  return (value) => (words.some((word) => word === value) ? undefined : `must be one of ${words.join(', ')}`);
}

/** Every fault of a request, with the path of its field. */
export function faultsOf(errors: readonly ValidationError[], parent = ''): FieldFault[] {
  return errors.flatMap((error) => {
    const field =
      parent + (/^\d+$/.test(error.property) ? `[${error.property}]` : `${parent && '.'}${error.property}`);
    const own = Object.entries(error.constraints ?? {}).map(([name, message]) => ({
      field,
      message: name === 'whitelistValidation' ? 'is not a known field' : message,
    }));
    return [...own, ...faultsOf(error.children ?? [], field)];
  });
}

function refuse(faults: FieldFault[]): DomainError {
  const fields = [...new Set(faults.map(({ field }) => field))].join(', ');
  return new DomainError('invalid-request', {
    message: `The request is not valid: ${fields}. See errors.`,
    faults,
  });
}

/** What we take is two deep; past some thousand, class-transformer's recursion would exhaust the stack. */
const DEPTH_MAX = 32;

function depthExceeds(root: object, limit: number): boolean {
  let level: object[] = [root];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > limit) return true;
    level = level.flatMap((each) =>
      Object.values(each).filter((child) => typeof child === 'object' && child !== null),
    );
  }
  return false;
}

/** The keys at any depth that every object has, such as `constructor`: class-transformer drops those in silence. */
function inheritedKeys(root: object): string[] {
  const own = Object.keys(root).filter((key) => key in Object.prototype);
  const children = Object.values(root).filter((child) => typeof child === 'object' && child !== null);
  return [...own, ...children.flatMap(inheritedKeys)];
}

/** Checks a body or query against its class: unknown fields are faults, and every fault is reported at once. */
export class RequestPipe extends ValidationPipe {
  constructor(options: { unknownFields: 'refuse' | 'ignore' } = { unknownFields: 'refuse' }) {
    super({
      whitelist: true,
      forbidNonWhitelisted: options.unknownFields === 'refuse',
      transform: true,
      exceptionFactory: (errors) => refuse(faultsOf(errors)),
    });
  }

  override async transform(value: unknown, metadata: ArgumentMetadata): Promise<unknown> {
    if (metadata.type === 'body' && value !== undefined) {
      if (value === null || typeof value !== 'object' || Array.isArray(value)) {
        throw refuse([{ field: 'body', message: 'must be a JSON object' }]);
      }
      if (depthExceeds(value, DEPTH_MAX)) throw refuse([{ field: 'body', message: 'is nested too deeply' }]);
    }
    if (value !== null && typeof value === 'object') {
      const inherited = inheritedKeys(value);
      if (inherited.length > 0)
        throw refuse(inherited.map((field) => ({ field, message: 'is not a known field' })));
    }
    return super.transform(value, metadata);
  }
}
