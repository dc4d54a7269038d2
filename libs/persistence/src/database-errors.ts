import { DomainError } from '@cairn/domain';
import { QueryFailedError, QueryRunnerAlreadyReleasedError } from 'typeorm';

// PostgreSQL appendix A. Class 08: connection; 53: out of resources; 57: operator intervention (shutdown,
// statement timeout); 55P03: lock timeout; 58: system error.
const unavailable = /^(08|53|57|58|55P03)/;
const serialization = new Set(['40001', '40P01']);
const UNIQUE_VIOLATION = '23505';
const sqlState = /^[0-9A-Z]{5}$/;

function sqlStateOf(error: unknown): string | undefined {
  if (!(error instanceof QueryFailedError)) return undefined;
  const driverError: unknown = error.driverError;
  if (typeof driverError !== 'object' || driverError === null || !('code' in driverError)) return undefined;
  return typeof driverError.code === 'string' && sqlState.test(driverError.code)
    ? driverError.code
    : undefined;
}

/** True when the server undid the transaction because of another one, and running it again is the remedy. */
export function isSerializationFailure(error: unknown): boolean {
  const state = sqlStateOf(error);
  return state !== undefined && serialization.has(state);
}

/** The error of a database that cannot be reached or cannot serve now. */
export function databaseUnavailable(cause: unknown): DomainError {
  return new DomainError(
    'dependency-unavailable',
    { message: 'The database cannot be reached now. Try again in a moment.' },
    { cause },
  );
}

/**
 * What a failed statement means to the control world.
 *
 * A statement that the server never answered, or refused for want of resources, is `dependency-unavailable`;
 * losing a race for a unique value is `concurrent-change`; anything else is a defect and stays as it is.
 */
export function translateDatabaseError(error: unknown): unknown {
  if (error instanceof QueryRunnerAlreadyReleasedError) return databaseUnavailable(error);
  if (!(error instanceof QueryFailedError)) return error;
  const state = sqlStateOf(error);
  if (state === undefined || unavailable.test(state)) return databaseUnavailable(error);
  if (serialization.has(state) || state === UNIQUE_VIOLATION) {
    return new DomainError(
      'concurrent-change',
      { message: 'Another request changed this at the same moment. Look at it again and repeat.' },
      { cause: error },
    );
  }
  return error;
}
