import { constants } from 'node:os';

const nameOf = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

/** A failed system call: `code` is the errno's name ("ENOSPC"), `errno` its positive number. */
export class SystemError extends Error {
  readonly code: string;

  constructor(
    readonly verb: string,
    readonly errno: number,
  ) {
    const code = nameOf.get(errno) ?? `errno ${errno}`;
    super(`${verb}: ${code}`);
    this.name = 'SystemError';
    this.code = code;
  }
}

/** Returns a verb's result; throws SystemError when it is -errno. */
export const check = (verb: string, result: number): number => {
  if (result < 0) throw new SystemError(verb, -result);
  return result;
};

/** The name of a positive errno, such as "ENOSPC". */
export const errnoName = (errno: number): string => nameOf.get(errno) ?? `errno ${errno}`;
